"""Files that a kill cannot damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path, then rename: a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_picture(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    save_atomically(path, lambda place: figure.savefig(place, format="png", dpi=130))
