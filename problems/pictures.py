"""Pictures of solutions: components over time, fields over space and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from problems.checking import require_solution
from problems.definition import Definition
from stiffml.plotting import DATA, plot_states, spans_decades

if TYPE_CHECKING:
    from stiffml import Solution

SNAPSHOTS = 4


def plot(problem: Definition, solution: Solution) -> Figure:
    """A solution of a problem, with its references as circles where it has components.

    Components over time, one panel each (at most 16); a field in one dimension as an image over space and
    time; a field in two as four snapshots.
    """
    require_solution(solution)
    assert isinstance(solution.y, Tensor)
    times, states = solution.t.detach().numpy(), solution.y.detach().numpy()
    figure = (_components, _waterfall, _snapshots)[len(problem.grid)](problem, times, states)
    figure.suptitle(problem.title or problem.name, fontsize=11)
    return figure


def _labels(problem: Definition) -> list[str]:
    units = [problem.units_of(i) for i in range(len(problem.components))]
    return [
        name if unit == "1" else f"{name} [{unit}]"
        for name, unit in zip(problem.components, units, strict=True)
    ]


def _time_label(problem: Definition) -> str:
    return "time" if problem.time_units == "1" else f"time [{problem.time_units}]"


def _components(problem: Definition, times: np.ndarray, states: np.ndarray) -> Figure:
    figure = plot_states(times, states, _labels(problem), _time_label(problem))
    first = times[1] if spans_decades(times) else times[0]
    for reference in problem.references:
        if first <= reference.t <= times[-1]:
            shown = ~np.isnan(reference.errors(reference.y))
            for panel, y, compared in zip(figure.axes, reference.y, shown, strict=False):
                if compared or y == 0:
                    panel.plot(reference.t, y, "o", color=DATA, mfc="none", ms=8, clip_on=False)
    return figure


def _waterfall(problem: Definition, times: np.ndarray, states: np.ndarray) -> Figure:
    ((axis, x),) = problem.grid.items()
    count = len(problem.components)
    figure = Figure(figsize=(6.4 * count, 3.6), layout="constrained")
    for i, panel in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        limit = np.abs(states[:, i]).max()
        image = panel.pcolormesh(
            times,
            x,
            states[:, i].T,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            shading="nearest",
            rasterized=True,
        )
        panel.set(xlabel=_time_label(problem), ylabel=axis)
        figure.colorbar(image, ax=panel, label=_labels(problem)[i])
    return figure


def _snapshots(problem: Definition, times: np.ndarray, states: np.ndarray) -> Figure:
    (_, x), (_, y) = problem.grid.items()
    shown = np.unique(np.linspace(0, len(times) - 1, SNAPSHOTS).round().astype(int))
    count = len(problem.components)
    figure = Figure(figsize=(2.6 * len(shown) + 0.8, 2.6 * count), layout="constrained")
    panels = figure.subplots(count, len(shown), squeeze=False)
    for i, row in enumerate(panels):
        limits = states[:, i].min(), states[:, i].max()
        for panel, place in zip(row, shown, strict=True):
            image = panel.pcolormesh(
                x, y, states[place, i].T, vmin=limits[0], vmax=limits[1], shading="nearest", rasterized=True
            )
            panel.set(aspect="equal", xticks=[], yticks=[])
            if i == 0:
                panel.set_title(f"t = {times[place]:.4g}", fontsize=10)
        figure.colorbar(image, ax=row, label=_labels(problem)[i])
    return figure
