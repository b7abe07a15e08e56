"""Reference states that were computed and ship as netCDF, because computing them takes more than a second.

``python -m problems.library.make_shipped`` computes them anew.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np

from problems.references import Reference


def shipped(name: str) -> tuple[Reference, ...]:
    """The reference states of a problem on its default grid; none where they have not been made."""
    import xarray

    place = files("problems").joinpath(f"library/data/{name}.nc")
    if not place.is_file():
        return ()
    with as_file(place) as path:
        data = xarray.load_dataset(path, engine="h5netcdf")
    grid = tuple(range(2, data["state"].ndim))
    source, verified = str(data.attrs["source"]), str(data.attrs["verified"])
    rtol_valid = float(data.attrs["rtol_valid"])
    # Errors of a field count against the largest value of the component; those of a component against
    # its value, or what is so small that it does not count.
    size = np.maximum(np.abs(data["state"].values).max(axis=grid, keepdims=True), data.attrs["floor"])
    return tuple(
        Reference(float(t), y, source, rtol_valid, verified, relative_to=largest)
        for t, y, largest in zip(data["time"].values, data["state"].values, size, strict=True)
    )
