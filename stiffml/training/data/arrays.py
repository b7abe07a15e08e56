"""Runs as an xarray Dataset, and back: rows are padded, since runs differ in length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.training.data.labels import Labels
from stiffml.training.data.run import Forcing, Run

if TYPE_CHECKING:
    import xarray

_NEEDED = ("time", "observed", "weights", "y0", "y0_noise", "noise", "source")


def dataset(runs: Sequence[Run], labels: Labels) -> xarray.Dataset:
    """See :meth:`Runs.to_xarray`."""
    import xarray

    unit = {"units": labels.time_units}
    rows = ("run", "row")
    inputs = list(runs[0].inputs)
    variables: dict[str, Any] = {
        "time": (rows, _filled([run.times for run in runs]), {"long_name": "time", **unit}),
        "observed": (
            (*rows, "component"),
            _filled([run.values for run in runs]),
            {"long_name": "observations"},
        ),
        "weights": ((*rows, "component"), _filled([run.weights for run in runs])),
        "y0": (("run", "component"), np.stack([run.y0 for run in runs])),
        "y0_noise": (
            ("run", "component"),
            np.stack([run.y0_noise for run in runs]),
            {"long_name": "standard deviation of y0: 0 if it is known, infinite if it is to be learned"},
        ),
        "noise": (
            "component",
            labels.noise,
            {"long_name": "standard deviation of errors of observations"},
        ),
        "source": (
            "run",
            [run.source for run in runs],
            {"long_name": "the run that this one is a window of"},
        ),
    }
    coords: dict[str, Any] = {
        "run": [run.name for run in runs],
        "component": list(labels.components),
        "units": ("component", [labels.units_of(name) for name in labels.components]),
    }
    if inputs:
        variables["inputs"] = (("run", "input"), np.array([list(run.inputs.values()) for run in runs]))
        coords |= {"input": inputs, "input_units": ("input", [labels.units_of(name) for name in inputs])}
    tables = [run.forcing for run in runs if run.forcing]
    if tables:
        names = list(tables[0].names)
        over = ("run", "forcing_row")
        variables["forcing_time"] = (over, _filled([table.times for table in tables]), unit)
        variables["forcing"] = ((*over, "forced"), _filled([table.values for table in tables]))
        coords |= {"forced": names, "forced_units": ("forced", [labels.units_of(name) for name in names])}
    return xarray.Dataset(variables, coords)


def is_own(data: xarray.Dataset) -> bool:
    """Whether a Dataset has the form that :func:`dataset` gives it."""
    return "row" in data.dims and all(name in data for name in _NEEDED)


def parsed(data: xarray.Dataset) -> tuple[list[Run], Labels]:
    """The runs in a Dataset of that form."""
    names, components = _texts(data, "run"), _texts(data, "component")
    inputs = _texts(data, "input") if "inputs" in data else []
    units = dict(zip(components, _texts(data, "units"), strict=True))
    if inputs:
        units |= dict(zip(inputs, _texts(data, "input_units"), strict=True))
    tables: list[Forcing | None] = [None] * len(names)
    if "forcing" in data:
        forced = _texts(data, "forced")
        units |= dict(zip(forced, _texts(data, "forced_units"), strict=True))
        tables = [
            Forcing(times[~np.isnan(times)], values[~np.isnan(times)], tuple(forced))
            for times, values in zip(data["forcing_time"].values, data["forcing"].values, strict=True)
        ]
    runs = []
    for index, (name, source) in enumerate(zip(names, _texts(data, "source"), strict=True)):
        one = data.isel(run=index)
        times = one["time"].values
        there = ~np.isnan(times)
        runs.append(
            Run(
                name,
                times[there],
                one["observed"].transpose("row", "component").values[there],
                dict(zip(inputs, one["inputs"].values.tolist(), strict=True)) if inputs else {},
                tables[index],
                one["weights"].transpose("row", "component").values[there],
                one["y0"].values,
                one["y0_noise"].values,
                source,
            )
        )
    time_units = str(data["time"].attrs.get("units", "1"))
    return runs, Labels(tuple(components), units, time_units, np.array(data["noise"].values, dtype=float))


def _texts(data: xarray.Dataset, name: str) -> list[str]:
    return [str(value) for value in data[name].values]


def _filled(tables: list[np.ndarray]) -> np.ndarray:
    """(runs, longest, …) arrays, with NaN behind the shorter ones."""
    longest = max(map(len, tables))
    filled = np.full((len(tables), longest, *tables[0].shape[1:]), np.nan)
    for index, table in enumerate(tables):
        filled[index, : len(table)] = table
    return filled
