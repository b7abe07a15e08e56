"""How much memory is free: what would not fit is refused before it is tried."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def free_bytes() -> float:
    """Bytes that are free; infinite where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return float("inf")
