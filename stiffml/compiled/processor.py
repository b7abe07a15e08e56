"""What the C compiler may assume of this processor and its C library."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path


@functools.cache
def flags_of(lanes: int) -> tuple[str, ...]:
    """What the compiler is told of this processor and its C library; nothing for one state at a time."""
    if lanes == 1:
        return ()
    abilities, flags = _abilities(), ["-fno-math-errno"]
    if not {"avx2", "fma"} <= abilities:
        return tuple(flags)
    flags += ["-mavx2", "-mfma"]
    if _version_of_glibc() >= (2, 35):
        flags += ["-DLIBMVEC", "-lmvec"]
    return tuple(flags)


@functools.cache
def flags_for_matrices() -> tuple[str, ...]:
    """The same for loops over rows of matrices. Products and sums are rounded one by one, as elsewhere."""
    abilities, flags = _abilities(), ["-O3", "-fno-math-errno", "-ffp-contract=off"]
    if "avx2" in abilities:
        flags.append("-mavx2")
    if abilities >= _AVX512:
        flags += [f"-m{name}" for name in sorted(_AVX512)]
    return tuple(flags)


_AVX512 = {"avx512f", "avx512vl", "avx512dq", "avx512bw"}


def _abilities() -> set[str]:
    """Of this processor, as Linux names them; empty elsewhere."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


def _version_of_glibc() -> tuple[int, ...]:
    """Of the C library that is loaded; (0,) if it is another."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else (0,)
    except (AttributeError, OSError, ValueError):
        return (0,)
