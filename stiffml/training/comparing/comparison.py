"""What a comparison returns: a Dataset, its table, figures and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.checks import path as checked_path
from stiffml.files import require_writable, save_netcdf, save_picture
from stiffml.training.comparing.training import DONE, Task

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure
    from rich.table import Table

DATASET, REPORT = "compare.nc", "report.html"

OVER_ITERATIONS = {
    "loss": ("mean square of the residuals that are fitted to at the time", "1"),
    "norm": ("norm of its gradient by the weights", "1"),
    "failures": ("solves that failed, and updates that were halved", "1"),
    "wall_s": ("wall time of the iteration", "s"),
    "cpu_s": ("CPU time of the iteration", "s"),
    "rhs_evals": ("states at which f was evaluated, forwards and backwards", "1"),
    "jacobians": ("states at which its Jacobian was evaluated", "1"),
    "accepted": ("steps taken", "1"),
    "rejected": ("steps cut or repeated", "1"),
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
    "own_steps": ("steps of a solve of all data at the end, those cut included", "1"),
}
TEXTS = ("outcome", "reason")


def gathered(tasks: Sequence[Task], budget: Mapping[str, float]) -> xarray.Dataset:
    """The trainings that were done as one Dataset over method, optimizer and seed."""
    import xarray

    axes = {
        "method": list(dict.fromkeys(task.method for task in tasks)),
        "optimizer": list(dict.fromkeys(task.optimizer for task in tasks)),
        "seed": list(dict.fromkeys(task.seed for task in tasks)),
    }
    parts = {}
    for task in tasks:
        where = (axes["method"].index(task.method), axes["optimizer"].index(task.optimizer))
        parts[(*where, axes["seed"].index(task.seed))] = xarray.load_dataset(
            task.folder / DONE, engine="h5netcdf"
        )
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


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`stiffml.training.compare`.

    Attributes
    ----------
    data : xarray.Dataset
        Over (method, optimizer, seed): ``iterations``, ``own_error``, ``own_steps``, ``outcome`` and
        ``reason``, empty unless the training could not go on. With ``iteration``: ``loss``, ``norm``,
        ``failures`` and costs of each iteration. With ``snapshot``, weights looked at after ``at``
        iterations: ``error``, ``held_out``, ``stiffness``, ``explicit_steps``. NaN after the end.
    """

    data: xarray.Dataset

    def summary(self) -> xarray.Dataset:
        """For each training its last values, and totals of costs, over (method, optimizer, seed)."""
        import xarray

        data = self.data
        last = (data["at"].notnull().sum("snapshot") - 1).clip(min=0)
        found = {name: data[name].isel(snapshot=last) for name in ("error", "held_out")}
        found |= {name: data[name].isel(snapshot=last) for name in ("stiffness", "explicit_steps")}
        totals = ("wall_s", "cpu_s", "rhs_evals", "jacobians", "accepted", "rejected", "failures")
        found |= {name: data[name].sum("iteration", keep_attrs=True) for name in totals}
        found |= {name: data[name] for name in (*OF_TRAINING, *TEXTS)}
        return xarray.Dataset(found)

    def table(self) -> Table:
        """A table of rich: a row for each method and optimizer, medians over seeds; rows for reasons."""
        from stiffml.training.comparing.tables import table

        return table(self)

    def plot(self, dark: bool = False) -> dict[str, Figure]:
        """Figures by name: errors by time and f evaluations, loss, gradient norm, costs, stiffness."""
        from stiffml.training.comparing.figures import figures

        return figures(self, dark)

    def write_report(self, path: str | Path, notes: Sequence[str] = ()) -> None:
        """Write a page with table and figures that needs no other file and no network.

        ``notes`` are paragraphs in front, as plain text.
        """
        from stiffml.training.comparing.report import write

        write(self, checked_path("path", path), notes)

    def save(self, folder: str | Path) -> None:
        """Write ``compare.nc``, a picture of each figure, and ``report.html``."""
        place = checked_path("folder", folder)
        require_writable(place, "folder")
        save_netcdf(place / DATASET, self.data)
        for name, figure in self.plot().items():
            save_picture(place / f"{name}.png", figure)
        self.write_report(place / REPORT)
