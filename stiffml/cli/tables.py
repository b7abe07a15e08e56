"""Tables of measurements, as the command line reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stiffml.training import Runs


def read_table(
    path: Path,
    time: str | None,
    run: str | None,
    components: Sequence[str] | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Runs:
    """Runs from a CSV or netCDF file. Nothing in it is executed.

    Parameters
    ----------
    time, run : str
        Columns. Default: the run is ``run`` where there is one; the time is the first of the others.
    components : sequence of str
        The columns that are wanted. Default: all others.
    reading : mapping
        Further arguments of ``read_csv`` or ``read_netcdf``.

    Raises
    ------
    OSError, ValueError
        If it cannot be read; the message has the path, and the columns there are.
    """
    from stiffml.training import read_csv, read_netcdf

    more = {"initial": "known", **(reading or {})}
    if path.suffix in (".nc", ".nc4", ".h5"):
        if time is not None or run is not None:
            raise ValueError("--time and --run are for tables; netCDF has its own names")
        return _ordered(read_netcdf(path, **more), components)
    header = _header(path, more.get("separator", ","))
    if run is not None:
        more["run"] = run
    elif "run" in header:
        more.setdefault("run", "run")
    if time is not None:
        more["time"] = time
    more.setdefault("time", next(name for name in header if name != more.get("run")))
    if components is not None:
        more.setdefault("columns", list(components))
    try:
        return read_csv(path, **more)
    except ValueError as error:
        if '"known"' in str(error) and "initial" not in (reading or {}):
            raise ValueError(
                f'{error}. In the file that defines the model: reading = {{"initial": "learned"}}'
            ) from error
        raise


def _header(path: Path, separator: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"--data: no file {path}")
    try:
        with path.open(encoding="utf-8") as file:
            names = [name.strip().strip('"') for name in file.readline().rstrip("\r\n").split(separator)]
    except UnicodeDecodeError as error:
        raise ValueError(f"--data: {path} is no table of text; write CSV, or netCDF (.nc)") from error
    if len(names) < 2:
        raise ValueError(
            f"--data: the first line of {path} must name a column of times and others, with {separator!r} "
            f"between them, but it is {separator.join(names)!r}"
        )
    return names


def _ordered(runs: Runs, components: Sequence[str] | None) -> Runs:
    if components is not None and list(runs.components) != list(components):
        raise ValueError(
            f"--data: the file has the components {', '.join(runs.components)}, but the model those of the "
            f"problem, {', '.join(components)}, in this order"
        )
    return runs


def split(runs: Runs, share: float) -> tuple[Runs, Runs | None]:
    """A share of the runs is held out, where there are several."""
    if len(runs) < 2 or share == 0:
        return runs, None
    return runs.split(by="run", fraction=1 - share, seed=0)
