"""Data, density and samples of each flow; times of a training step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure as AnyFigure

from stiffml.plotting import DATA, FIT, Figure, series, styled

PLANES, TABLE = ("moons", "rings"), "wine"
COLUMNS = ((0, 12), (6, 9), (10, 11))
"""Pairs of wine's columns: alcohol and proline, flavanoids and colour, hue and dilution."""
NAMES = {
    0: "alcohol",
    6: "flavanoids",
    9: "colour intensity",
    10: "hue",
    11: "OD280/OD315",
    12: "proline",
}


def draw(data: xarray.Dataset) -> Mapping[str, AnyFigure]:
    found = {"flows": _planes(data), "times": _times(data)}
    if f"{TABLE}_samples" in data:
        found[TABLE] = _table(data)
    return found


def _scatter(axis: Axes, points: np.ndarray, color: str, marker: str, label: str) -> None:
    axis.plot(*points.T, ls="", marker=marker, ms=2.5, color=color, mfc="none", mew=0.8, label=label)


def _planes(data: xarray.Dataset) -> AnyFigure:
    shown = [name for name in PLANES if f"{name}_density" in data]
    with styled():
        figure = Figure(figsize=(9.6, 3.1 * len(shown)))
        for row, name in enumerate(shown):
            density = data[f"{name}_density"]
            edge = density.attrs["edge"]
            panels = [figure.add_subplot(len(shown), 3, 3 * row + column) for column in (1, 2, 3)]
            _scatter(panels[0], data[f"{name}_data"].values, DATA, "o", "data")
            image = panels[1].imshow(
                density,
                origin="lower",
                extent=(-edge, edge, -edge, edge),
                cmap="cividis",
                aspect="auto",
                vmax=np.quantile(density, 0.995),  # few cells are much denser than all others
            )
            panels[1].grid(visible=False)
            figure.colorbar(image, ax=panels[1], label="density", extend="max")
            _scatter(panels[2], data[f"{name}_samples"].values, FIT, "^", "samples")
            for panel, title in zip(panels, ("data", "density learned", "samples"), strict=True):
                panel.set(
                    title=f"{name}: {title}", xlim=(-edge, edge), ylim=(-edge, edge), xlabel="x (scaled)"
                )
            panels[0].set_ylabel("y (scaled)")
    return figure


def _table(data: xarray.Dataset) -> AnyFigure:
    with styled():
        figure = Figure(figsize=(9.6, 3.4))
        for axis, pair in zip(figure.subplots(1, len(COLUMNS)), COLUMNS, strict=True):
            _scatter(axis, data[f"{TABLE}_samples"].values[:, pair], FIT, "^", "samples")
            _scatter(axis, data[f"{TABLE}_data"].values[:, pair], DATA, "o", "data")
            axis.set(xlabel=f"{NAMES[pair[0]]} (scaled)", ylabel=f"{NAMES[pair[1]]} (scaled)")
            axis.set(xlim=(-4, 4), ylim=(-4, 4))
        axis.legend(fontsize=9)
    return figure


def _times(data: xarray.Dataset) -> AnyFigure:
    with styled():
        figure = Figure(figsize=(7.2, 3.8))
        axis = figure.subplots()
        for number, solver in enumerate(data.solver.values):
            style, seconds = series(number) | {"ls": ""}, data.seconds.sel(solver=solver)
            axis.plot(1e3 * seconds, np.arange(data.sizes["case"]), **style, label=solver)
        axis.set_yticks(np.arange(data.sizes["case"]), data.case.values)
        axis.invert_yaxis()
        axis.set(xlabel="CPU time of a training step [ms]", xscale="log")
        axis.legend(fontsize=9)
    return figure
