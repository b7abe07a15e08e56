"""The pictures in the folder of a fit."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stiffml.files import save_picture
from stiffml.training.result import Result

if TYPE_CHECKING:
    import xarray

    from stiffml.plotting import Figure


def save_figures(folder: Path, result: Result) -> None:
    """Write ``history.png`` and ``fit.png``, the model solved again at the data."""
    folder.mkdir(exist_ok=True)
    save_picture(folder / "history.png", draw_history(result.history))
    save_picture(folder / "fit.png", result.plot())


def draw_history(history: xarray.Dataset) -> Figure:
    """The loss or the error over iterations, with the beginnings of rungs as lines, and failures below."""
    from matplotlib.ticker import MaxNLocator

    from stiffml.plotting import DATA, FIT, Figure

    name = "loss" if "loss" in history else "error"
    iterations, values = history["iteration"].values, history[name].values
    figure = Figure(figsize=(6.4, 3.6))
    panel = figure.subplots()
    panel.plot(iterations, values, color=FIT, lw=1.2, label=name)
    if "checked" in history:
        checked = history["checked"].values
        seen = np.isfinite(checked)
        panel.plot(iterations[seen], checked[seen], ".", color=DATA, ms=4, label="checked")
        panel.legend(frameon=False)
    for begin in 1 + np.flatnonzero(np.diff(history["rung"].values)):
        panel.axvline(begin - 0.5, color="0.8", lw=0.8, zorder=0)
    if (values[np.isfinite(values)] > 0).any():
        panel.set_yscale("log")
    panel.set_xlabel("iteration; lines: a new rung" if len(set(history["rung"].values)) > 1 else "iteration")
    panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    panel.set_ylabel("\n".join(textwrap.wrap(history[name].attrs["long_name"], 36)))
    return figure
