"""What a comparison returns: a Dataset, its table, figures and report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stiffml.checks import path as checked_path
from stiffml.display import WIDTH, printed
from stiffml.files import require_writable, save_netcdf, save_picture
from stiffml.training.comparing.dataset import summary

if TYPE_CHECKING:
    import xarray
    from rich.table import Table

    from stiffml.plotting import Figure

DATASET, REPORT = "compare.nc", "report.html"


@printed
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

    Examples
    --------
    >>> from stiffml.training import compare
    >>> found = compare(Decay(), runs, methods=["cn"], optimizers=["lm"], seeds=1, iterations=3)
    >>> dict(found.data.sizes)["method"], found.summary().iterations.item()
    (1, 3.0)
    >>> found.save("runs/compare")  # doctest: +SKIP
    """

    data: xarray.Dataset

    def __str__(self) -> str:
        from rich.console import Console

        content = io.StringIO()
        Console(width=WIDTH, file=content).print(self.table())
        return content.getvalue().rstrip()

    def summary(self) -> xarray.Dataset:
        """For each training its last values, and totals of costs, over (method, optimizer, seed)."""
        return summary(self.data)

    def table(self) -> Table:
        """A table of rich: a row for each method and optimizer, medians over seeds; rows for reasons."""
        from stiffml.training.comparing.tables import table

        return table(self.data)

    def plot(self, dark: bool = False) -> dict[str, Figure]:
        """Figures by name: errors by time and f evaluations, loss, gradient norm, costs, stiffness."""
        from stiffml.training.comparing.figures import figures

        return figures(self.data, dark)

    def write_report(self, path: str | Path, notes: Sequence[str] = ()) -> None:
        """Write a page with table and figures that needs no other file and no network.

        ``notes`` are paragraphs in front, as plain text.
        """
        from stiffml.training.comparing.report import write

        write(self.data, checked_path("path", path), notes)

    def save(self, folder: str | Path) -> None:
        """Write ``compare.nc``, a picture of each figure, and ``report.html``."""
        place = checked_path("folder", folder)
        require_writable(place, "folder")
        save_netcdf(place / DATASET, self.data)
        for name, figure in self.plot().items():
            save_picture(place / f"{name}.png", figure)
        self.write_report(place / REPORT)
