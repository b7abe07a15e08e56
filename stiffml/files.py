"""Writes files atomically: a kill or a full disk leaves the old file intact."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stiffml.version import made_by

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def save_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file such that either the old or the complete new one exists at any time.

    ``write`` writes the content to memory. The content then goes to a temporary file in the same folder,
    which is renamed. Since libraries write to memory only, they never meet a full disk, which some of them
    cannot handle.

    Raises
    ------
    OSError
        If the file cannot be written. It has the path, and no temporary file is left behind.
    """
    content = io.BytesIO()
    write(content)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            temporary.write_bytes(content.getbuffer())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # it may have been renamed, or never made
                temporary.unlink()
    except OSError as error:
        # Becomes PermissionError and so on.
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from error


def save_picture(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    save_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))


def save_netcdf(path: Path, data: xarray.Dataset) -> None:
    """Write a dataset as netCDF 4, with the conventions it follows and the version."""
    data = data.assign_attrs({**made_by(), **data.attrs})
    save_atomically(path, lambda file: _write_netcdf(data, file))


def _write_netcdf(data: xarray.Dataset, file: BinaryIO) -> None:
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    with h5netcdf.File(file, "w") as written:
        data.dump_to_store(H5NetCDFStore(written))


def require_writable(folder: Path, what: str) -> list[Path]:
    """Make a folder if it is missing and check that it can be written to, before long work starts.

    Parameters
    ----------
    folder : Path
    what : str
        The argument that the folder comes from, for the message.

    Returns
    -------
    list of Path
        The folders that were made, outermost first; :func:`take_back` removes them.

    Raises
    ------
    OSError
        If the folder cannot be made or written to.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)][::-1]
    made: list[Path] = []
    trial = folder / f".stiffml.{os.getpid()}"
    try:
        for path in missing:
            path.mkdir(exist_ok=True)
            made.append(path)
        trial.write_bytes(b"x" * 4096)
        trial.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            trial.unlink()
        take_back(made)
        why = f"{what}: no files can be written to this folder ({error.strerror}); choose another"
        raise OSError(error.errno, why, str(folder)) from error
    return made


def take_back(made: list[Path]) -> None:
    """Remove folders that :func:`require_writable` made, unless they contain something."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir()
