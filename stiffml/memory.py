"""Free memory, for refusing work that would not fit before it starts."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def free_bytes() -> float:
    """The free memory in bytes; infinite if the operating system does not report it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return float("inf")
