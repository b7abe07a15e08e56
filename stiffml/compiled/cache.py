"""Shared libraries by the content of their code, in a folder that stays between runs.

A file ends with the SHA-256 of what comes before, so that one that is cut off or changed is not loaded but
made again. It is written beside its place and then renamed: another process sees all of it or nothing.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stiffml.compiled.refusal import NotCompilableError

LONG = 200_000
"""Characters of code from which it is optimised less: compilers take long otherwise."""

LU = Path(__file__).with_name("lu.c")
"""C code of LU factors, a part of libraries written here."""

GROWTH = Path(__file__).with_name("growth.c")
"""C code of how fast steps may grow, likewise."""

DIGEST = hashlib.sha256().digest_size


def library_of(text: str, flags: Sequence[str] = ()) -> Path:
    """The shared library of some C code, from the cache or made now.

    ``flags`` are further arguments for the compiler, such as include folders. The library is in the folder of
    the environment variable STIFFML_CACHE, or in one of the user's.

    Raises
    ------
    NotCompilableError
        If there is no C compiler, or it fails.
    """
    command = [*_compiler(), "-O1" if len(text) > LONG else "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
    about = "\n".join((*command, *flags, platform.machine(), platform.system(), text))
    path = folder() / f"{hashlib.sha256(about.encode()).hexdigest()}.so"
    if not is_whole(path):
        _make(path, command, text, flags)
    return path


def folder() -> Path:
    """Where libraries are kept; a temporary folder of this process if nothing can be written there."""
    chosen = os.environ.get("STIFFML_CACHE")
    if chosen:
        path = Path(chosen)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stiffml"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _temporary()
    return path if os.access(path, os.W_OK) else _temporary()


@functools.cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="stiffml-"))


def is_whole(path: Path) -> bool:
    """Whether a library is there as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > DIGEST and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _compiler() -> list[str]:
    given = os.environ.get("CC")
    if given:
        return shlex.split(given)
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return [found]
    raise NotCompilableError("no C compiler was found (cc, gcc, clang, or the environment variable CC)")


def _make(path: Path, command: list[str], text: str, flags: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="making-", dir=path.parent) as place:
        source, made = Path(place) / "function.c", Path(place) / "function.so"
        source.write_text(text)
        try:
            done = subprocess.run(
                [*command, str(source), "-o", str(made), *flags, "-lm"],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise NotCompilableError(f"the C compiler {command[0]} cannot be run: {error}") from error
        if done.returncode:
            raise NotCompilableError(f"the C compiler {command[0]} failed: {done.stderr.strip()[:300]}")
        content = made.read_bytes()
        made.write_bytes(content + hashlib.sha256(content).digest())
        made.chmod(0o700)
        made.replace(path)
