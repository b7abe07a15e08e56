"""Runs from xarray Datasets and netCDF files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.checks import described
from stiffml.checks import path as checked_path
from stiffml.training.data import arrays
from stiffml.training.data.labels import require_known, shortened
from stiffml.training.data.run import Run
from stiffml.training.data.runs import Runs

if TYPE_CHECKING:
    import xarray

_OBSERVED = ("observed", "state", "y")
_RUNS = ("run", "trajectory")


def from_xarray(
    data: xarray.Dataset,
    variable: str | None = None,
    *,
    run: str | None = None,
    time: str = "time",
    component: str | None = None,
    noise: Any = None,
    initial: Any = None,
) -> Runs:
    """Runs from a Dataset: of :meth:`Runs.to_xarray`, of ``problem.dataset(…)``, or any other over time.

    Units are those of the coordinate ``units``, or of the attribute.

    Parameters
    ----------
    data : xarray.Dataset
        One variable over ([run,] time, component [, more]), or one variable over ([run,] time) for each
        component. Further dimensions are flattened: component ``u`` becomes ``u[0]``, ``u[1]``, …
    variable : str
        Default: ``observed``, ``state`` or ``y`` if there is one, else all variables over ``time``.
    run, time, component : str
        Names of the dimensions. Default: ``run`` or ``trajectory`` if there is one; ``time``; ``component``.
        Where there are several runs, rows without any observation are left out.
    noise, initial
        As for :class:`Runs`. Default noise: the variable ``noise`` over components, if there is one.

    Raises
    ------
    TypeError, ValueError
        For names that the Dataset does not have, or what :class:`Runs` refuses.

    Examples
    --------
    >>> import problems
    >>> from stiffml.training.data import from_xarray
    >>> data = problems.load("robertson").dataset(20, noise=0.01, rtol=1e-4)
    >>> runs = from_xarray(data, initial="known")
    >>> runs[0].values.shape, runs.noise
    ((21, 3), array([1.00e-02, 3.65e-07, 1.00e-02]))
    """
    import xarray

    if not isinstance(data, xarray.Dataset):
        raise TypeError(f"data must be an xarray.Dataset, not {described(data)}")
    if arrays.is_own(data):
        runs, labels = arrays.parsed(data)
        made = Runs(
            runs, labels.components, units=labels.units, time_units=labels.time_units, noise=labels.noise
        )
        return _started(made, initial, noise)
    require_known("time", [time], [str(dim) for dim in data.dims])
    if run is None:
        run = next((name for name in _RUNS if name in data.dims), None)
    else:
        require_known("run", [run], [str(dim) for dim in data.dims])
    if component is not None:
        require_known("component", [component], [str(dim) for dim in data.dims])
    component = component or "component"
    array, units = _array(data, variable, run, time, component)
    names, values = _flat(array, run, time, component)
    points = len(names) // len(units)
    units = [unit for unit in units for _ in range(points)]
    own = [str(name) for name in data[run].values] if run in data.coords else None
    own = own or [f"run{i}" for i in range(len(values))]
    shared = np.broadcast_to(_times(data, run, time), values.shape[:2])
    several = len(values) > 1
    there = ~np.isnan(values).all(axis=2) if several else np.ones(values.shape[:2], dtype=bool)
    found = [
        Run(n, t[kept], v[kept])
        for n, t, v, kept in zip(own, shared, values, there, strict=True)
        if kept.any()
    ]
    if noise is None and variable in (None, "observed") and "noise" in data:
        deviations = data["noise"].transpose(component).values.astype(float)
        noise = np.repeat(deviations, points)
    time_units = str(data[time].attrs.get("units", "1"))
    return Runs(found, names, units=units, time_units=time_units, noise=noise, initial=initial)


def read_netcdf(path: str | Path, *, noise: Any = None, initial: Any = None, **names: Any) -> Runs:
    """Runs from a netCDF file, such as :meth:`Runs.to_netcdf` writes.

    Parameters
    ----------
    path : str or Path
    noise, initial, **names
        As of :func:`from_xarray`.

    Returns
    -------
    Runs

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no netCDF file, is truncated, or holds no runs.

    Examples
    --------
    >>> import os, tempfile
    >>> from stiffml.training.data import Run, Runs, read_netcdf
    >>> runs = Runs([Run("a", [0.0, 1.0], [[1.0], [0.5]])], ["A"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs.to_netcdf(os.path.join(folder, "runs.nc"))
    ...     read_netcdf(os.path.join(folder, "runs.nc"))
    1 run of A
      run  times  from … to  observed
      a        2      0 … 1    2 of 2
    """
    import xarray

    path = checked_path("path", path)
    with path.open("rb"):  # FileNotFoundError and the like, with the path
        pass
    try:
        data = xarray.load_dataset(path, engine="h5netcdf", decode_times=False)
    except Exception as error:  # h5py raises many kinds for files that are none of its own
        why = " ".join(str(error).split())[:120]
        raise ValueError(f"path: {path} is no netCDF file, or is truncated ({why})") from error
    try:
        return from_xarray(data, noise=noise, initial=initial, **names)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from error


def _started(runs: Runs, initial: Any, noise: Any) -> Runs:
    return (
        runs
        if initial is None and noise is None
        else runs.with_initial({} if initial is None else initial, noise)
    )


def _times(data: xarray.Dataset, run: str | None, time: str) -> np.ndarray:
    """(runs or 1, n) numbers."""
    times = data[time]
    if times.dtype.kind not in "fiu":
        raise TypeError(
            f"time: {time} must hold numbers, not {times.dtype}: convert dates to a duration first"
        )
    if run in times.dims:
        return times.transpose(run, ...).values
    return times.values[None]


def _array(
    data: xarray.Dataset, variable: str | None, run: str | None, time: str, component: str
) -> tuple[xarray.DataArray, list[str]]:
    """The observations as one array with a dimension for components, and the units of these."""
    import xarray

    over_time = [str(name) for name in data.data_vars if time in data[name].dims]
    if variable is None:
        variable = next((name for name in _OBSERVED if name in over_time), None)
    else:
        require_known("variable", [variable], over_time)
    if variable is None:
        plain = [
            name
            for name in over_time
            if set(data[name].dims) <= {run, time} and data[name].dtype.kind in "fiu"
        ]
        if not plain:
            raise ValueError(
                f"variable: which one holds the observations? There are {shortened(over_time)} over {time}"
            )
        array = xarray.concat(
            [data[name] for name in plain], dim=component, coords="minimal", compat="override"
        )
        array = array.assign_coords({component: plain})
        return array, [str(data[name].attrs.get("units", "1")) for name in plain]
    array = data[variable]
    if component not in array.dims:
        array = array.expand_dims({component: [variable]}, axis=-1)
    count = array.sizes[component]
    if "units" in data.coords and data["units"].dims == (component,):
        return array, [str(unit) for unit in data["units"].values]
    return array, [str(array.attrs.get("units", "1"))] * count


def _flat(
    array: xarray.DataArray, run: str | None, time: str, component: str
) -> tuple[list[str], np.ndarray]:
    """Names of components, and values (runs, n, components)."""
    array = array if run in array.dims else array.expand_dims("run" if run is None else run)
    run = "run" if run is None else run
    array = array.transpose(run, time, component, ...)
    labels = array[component].values if component in array.coords else range(array.sizes[component])
    names = [str(label) if isinstance(label, str) else f"y{int(label) + 1}" for label in labels]
    if array.ndim > 3:
        names = [
            f"{name}[{','.join(map(str, place))}]" for name in names for place in np.ndindex(array.shape[3:])
        ]
    return names, array.values.reshape(*array.shape[:2], -1)
