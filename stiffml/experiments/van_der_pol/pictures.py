"""The pictures of the attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stiffml.experiments.van_der_pol.attempts import REACHED
from stiffml.plotting import DATA, FIT, Figure, series, styled

if TYPE_CHECKING:
    import xarray

NONE = 10.0
"""Where an attempt is drawn whose model has no solution to the end, or one that is further away."""

SHOWN = (
    "implicit adaptive, AdamW",
    "implicit fixed, AdamW",
    "implicit fixed, LM, ladder",
    "time map, explicit, LM, ladder",
)


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    with styled():
        return {"attempts": attempts(data), "solutions": solutions(data)}


def attempts(data: xarray.Dataset) -> Figure:
    """A row for each attempt: its error, and its time."""
    figure = Figure(figsize=(9.5, 1.6 + 0.33 * data.sizes["attempt"]))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    names = [str(name) for name in data["attempt"].values]
    errors = data["unseen_error"].values
    rows = np.arange(len(names))[::-1]
    good, lost = errors <= REACHED, ~(errors < NONE)
    kinds = ((good, "o", "full"), (~good & ~lost, "s", "none"), (lost, "x", "full"))
    labels = (f"below {REACHED:g}", "not learned", "no solution, or far away")
    for (which, marker, fill), label in zip(kinds, labels, strict=True):
        shown = np.where(lost, NONE, errors)[which]
        left.plot(shown, rows[which], marker, fillstyle=fill, ms=8, color=series(0)["color"], label=label)
    left.axvline(REACHED, color=DATA, lw=1)
    left.set(xscale="log", xlabel="mean error at unseen times [half ranges]", ylim=(-0.6, len(names) - 0.4))
    left.set_yticks(rows, names)
    left.legend(frameon=False, fontsize=9, loc="upper left")
    right.barh(rows, data["seconds"], color=series(0)["color"], height=0.5)
    right.set_xlabel("CPU time of the fit [s]")
    figure.suptitle(f"van der Pol's oscillator, μ = {data.attrs['mu']:g}")
    return figure


def solutions(data: xarray.Dataset) -> Figure:
    """Data as points, models as lines."""
    names = [name for name in SHOWN if name in data["attempt"].values]
    figure = Figure(figsize=(10, 4.6))
    panels = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    time, truth = data["time"].values, data["truth"]
    for column, name in zip(panels.T, names, strict=True):
        states = data["states"].sel({"attempt": name})
        for panel, component in zip(column, data["component"].values, strict=True):
            points = truth.sel({"component": component}).values
            panel.plot(time[::2], points[::2], "o", ms=2.5, color=DATA, label="observations")
            panel.plot(time, states.sel({"component": component}), color=FIT, lw=1.3, label="model")
            panel.set_ylim(1.4 * points.min(), 1.4 * points.max())
        column[0].set_title(name, fontsize=9)
        column[1].set_xlabel("slow time t/μ")
    for panel, component in zip(panels[:, 0], data["component"].values, strict=True):
        panel.set_ylabel(f"{component} [half ranges]")
    panels[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
    return figure
