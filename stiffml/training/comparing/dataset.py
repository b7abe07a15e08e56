"""All trainings of a comparison as one Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.training.comparing.training import DONE, Task

if TYPE_CHECKING:
    import xarray

OVER_ITERATIONS = {
    "loss": ("mean square of the residuals that are fitted to at the time", "1"),
    "norm": ("norm of its gradient by the weights", "1"),
    "failures": ("solves that failed, and updates that were halved", "1"),
    "wall_s": ("wall time of the iteration", "s"),
    "cpu_s": ("CPU time of the iteration", "s"),
    "rhs_evals": ("states at which f was evaluated, forwards and backwards", "1"),
    "jacobians": ("states at which its Jacobian was evaluated", "1"),
    "accepted": ("steps taken", "1"),
    "rejected": ("steps rejected", "1"),
}
OVER_SNAPSHOTS = {
    "at": ("iterations after which the weights were looked at", "1"),
    "error": (
        "mean absolute error at the data, solved again with tight tolerances, in units of the scale",
        "1",
    ),
    "held_out": ("the same at data that were held out", "1"),
    "stiffness": ("fastest decay of the learned field along the solution times the span", "1"),
    "explicit_steps": ("steps that stability asks of dopri5 for a solve", "1"),
}
OF_TRAINING = {
    "iterations": ("iterations done", "1"),
    "own_error": ("mean absolute error at the data along the training's own steps, at the end", "1"),
    "own_steps": ("steps of a solve of all data at the end, those rejected included", "1"),
}
TEXTS = ("outcome", "reason")


def gathered(tasks: Sequence[Task], budget: Mapping[str, float]) -> xarray.Dataset:
    """The trainings that were done as one Dataset over method, optimizer and seed."""
    import xarray

    axes: dict[str, list[Any]] = {
        "method": list(dict.fromkeys(task.method for task in tasks)),
        "optimizer": list(dict.fromkeys(task.optimizer for task in tasks)),
        "seed": list(dict.fromkeys(task.seed for task in tasks)),
    }
    parts: dict[tuple[int, ...], xarray.Dataset] = {}
    for task in tasks:
        own = {"method": task.method, "optimizer": task.optimizer, "seed": task.seed}
        where = tuple(axes[name].index(value) for name, value in own.items())
        parts[where] = xarray.load_dataset(task.folder / DONE, engine="h5netcdf")
    shape = tuple(map(len, axes.values()))
    longest = {dim: max(part.sizes[dim] for part in parts.values()) for dim in ("iteration", "snapshot")}
    variables: dict[str, Any] = {}
    for dim, texts in (("iteration", OVER_ITERATIONS), ("snapshot", OVER_SNAPSHOTS)):
        for name, (text, units) in texts.items():
            values = np.full((*shape, longest[dim]), np.nan)
            for where, part in parts.items():
                values[where][: part.sizes[dim]] = part[name].values
            variables[name] = ((*axes, dim), values, {"long_name": text, "units": units})
    for name, (text, units) in OF_TRAINING.items():
        values = np.full(shape, np.nan)
        for where, part in parts.items():
            values[where] = part.sizes["iteration"] if name == "iterations" else part.attrs[name]
        variables[name] = (tuple(axes), values, {"long_name": text, "units": units})
    for name in TEXTS:
        texts_of = np.full(shape, "", dtype=object)
        for where, part in parts.items():
            texts_of[where] = part.attrs[name]
        variables[name] = (tuple(axes), texts_of.astype(str), {"long_name": f"{name} of the training"})
    coords = {**axes, "iteration": np.arange(1, longest["iteration"] + 1)}
    attributes = {
        "title": "The same training with several methods and optimizers",
        **{f"budget_{name}": value for name, value in budget.items()},
    }
    return xarray.Dataset(variables, coords, attributes)


def summary(data: xarray.Dataset) -> xarray.Dataset:
    """For each training its last values, and totals of costs, over (method, optimizer, seed)."""
    import xarray

    last = (data["at"].notnull().sum("snapshot") - 1).clip(min=0)
    names = ("error", "held_out", "stiffness", "explicit_steps")
    found = {name: data[name].isel(snapshot=last) for name in names}
    totals = ("wall_s", "cpu_s", "rhs_evals", "jacobians", "accepted", "rejected", "failures")
    found |= {name: data[name].sum("iteration", keep_attrs=True) for name in totals}
    found |= {name: data[name] for name in (*OF_TRAINING, *TEXTS)}
    return xarray.Dataset(found)
