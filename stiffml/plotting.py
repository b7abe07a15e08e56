"""Figures of solutions and fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray
from matplotlib.figure import Figure

from stiffml.checks import texts

DATA, FIT = "#444444", "#c1440e"

SERIES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#56b4e9", "P"),
    ("#7f7f7f", "X"),
)
"""Colours that colour-blind people can tell (Okabe & Ito), with markers that survive a print in grey."""

STROKES = ("-", "--", ":", "-.")
PAPER = {False: "#ffffff", True: "#16181b"}
"""The background, light and dark."""


@contextmanager
def styled(dark: bool = False) -> Iterator[None]:
    """Figures made within the block are for a light or a dark page."""
    ink = "#e8e8e8" if dark else "#1c1c1c"
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    paper = {name: PAPER[dark] for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor")}
    style: dict[Any, Any] = {**dict.fromkeys(names, ink), **paper}
    with mpl.rc_context(style):
        yield


def plot_states(
    time: np.ndarray, values: np.ndarray, names: Sequence[str] | None = None, time_label: str = "time"
) -> Figure:
    """Draw the components of states over time, one panel each, at most the first 16.

    The time axis is logarithmic if the times after the first span more than three decades.

    Parameters
    ----------
    time : ndarray
        (n,)
    values : ndarray
        (n, components)
    names : sequence of str, optional
        Titles of the panels. Default ``y[0]``, ``y[1]``, …
    time_label : str
        Default ``"time"``.
    """
    shown = min(values.shape[1], 16)
    if names is not None:
        names = texts("names", names, values.shape[1])
    columns = min(shown, 4)
    rows = -(-shown // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    logarithmic = spans_decades(time)
    for index, panel in enumerate(panels):
        if index >= shown:
            panel.set_visible(False)
            continue
        first = 1 if logarithmic else 0
        panel.plot(time[first:], values[first:, index], color=FIT, lw=1.4, marker=".", ms=3)
        panel.set_title(names[index] if names else f"y[{index}]", fontsize=10)
        panel.grid(alpha=0.25)
        middle, spread = np.mean(values[:, index]), np.ptp(values[:, index])
        if middle and spread <= 1e-9 * abs(middle):  # constant: do not zoom in on rounding errors
            panel.set_ylim(*sorted((0.9 * middle, 1.1 * middle)))
        if logarithmic:
            panel.set_xscale("log")
        else:
            panel.locator_params(axis="x", nbins=4)
            panel.ticklabel_format(axis="x", scilimits=(-3, 4))
    for panel in panels[max(0, shown - columns) : shown]:
        panel.set_xlabel(time_label)
    if shown < values.shape[1]:
        figure.suptitle(f"the first {shown} of {values.shape[1]} components", fontsize=10)
    return figure


def spans_decades(time: np.ndarray) -> bool:
    """Whether the times after the first are positive and span more than three decades."""
    later = time[1:]
    return len(later) > 2 and bool((later > 0).all()) and later.max() / later.min() > 1e3


def plot_fit(trajectory: xarray.Dataset, history: xarray.Dataset) -> Figure:
    """Draw fitted and given concentrations over logarithmic time, and the loss over the iterations.

    ``trajectory`` has the variables ``fitted`` and ``data`` over ``time`` and ``species``, ``history`` the
    variable ``loss`` or ``error`` over ``iteration``.
    """
    species = trajectory["species"].values
    figure = Figure(figsize=(3.3 * (len(species) + 1), 3.3), layout="constrained")
    *panels, last = figure.subplots(1, len(species) + 1)
    time = trajectory["time"].values
    for panel, name in zip(panels, species, strict=True):
        one = trajectory.sel(species=name)
        panel.plot(time[1:], one["data"][1:], "o", color=DATA, ms=3.5, mfc="none", label="data")
        panel.plot(time[1:], one["fitted"][1:], color=FIT, lw=1.8, label="neural ODE")
        panel.set(xscale="log", xlabel=f"time [{trajectory['time'].attrs['units']}]", title=f"species {name}")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("concentration")
    panels[0].legend(frameon=False)
    loss = history["loss" if "loss" in history else "error"]
    last.plot(history["iteration"] + 1, loss, color=FIT, lw=0.9)
    last.set(yscale="log", xlabel="iteration", title="scaled mean absolute error")
    last.grid(alpha=0.25, which="both")
    return figure
