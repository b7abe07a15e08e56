"""Pictures of solutions: components over time, fields over space and time."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from problems.checking import require_solution
from problems.definition import Definition
from stiffml import Solution
from stiffml.display import with_units
from stiffml.interface.dense import dense
from stiffml.plotting import DATA, Figure, plot_states
from stiffml.plotting.axes import logarithmic_from, positions
from stiffml.plotting.states import MOST

SNAPSHOTS = 4
COLUMNS = 400
"""Times in the picture of a field."""

COLOURS = "viridis"
"""From dark to light, in a print in grey too."""


def plot(problem: Definition, solution: Solution) -> Figure:
    """A solution of a problem as it is between and at all of its steps, with the references as circles.

    Components over time, one panel each (at most 16, those that vary most); a field in one dimension as an
    image over space and time; a field in two as four snapshots. Time is logarithmic for problems whose output
    times are, and where most happens in the first hundredth of the span; values are where digits count over
    more than four decades.
    """
    require_solution(solution)
    times, states, joined = dense(solution.t, solution.y, solution.pieces, solution.interpolant)
    states = states.reshape(len(times), *problem.y0.shape)
    figure = (_components, _waterfall, _snapshots)[len(problem.grid)](problem, times, states, joined)
    figure.suptitle(problem.title or problem.name, fontsize=12)
    return figure


def _labels(problem: Definition) -> list[str]:
    units = [problem.units_of(i) for i in range(len(problem.components))]
    return [with_units(name, unit) for name, unit in zip(problem.components, units, strict=True)]


def _time_label(problem: Definition) -> str:
    return with_units("time", problem.time_units)


def _first(problem: Definition, times: np.ndarray, states: np.ndarray) -> float | None:
    """Where a logarithmic axis of time begins; None for a linear one."""
    if times[0] == 0 and problem.time_grid == "log" and len(times) > 2 and times[-1] > 0:
        first = float(problem.times(2)[1])
        return max(float(times[1]), min(first, 1e-3 * float(times[-1])))
    return logarithmic_from(times, states.reshape(len(times), -1))


def _components(problem: Definition, times: np.ndarray, states: np.ndarray, joined: bool) -> Figure:
    shown = np.arange(states.shape[1])
    if len(shown) > MOST:
        shown = np.sort(np.argsort(-np.ptp(states, axis=0), kind="stable")[:MOST])
    labels, first = _labels(problem), _first(problem, times, states)
    figure = plot_states(
        times,
        states[:, shown],
        [labels[i] for i in shown],
        _time_label(problem),
        joined=joined,
        first=first,
        floors=problem.atol(1.0).numpy()[shown],
    )
    much = (
        "" if len(shown) == states.shape[1] else f", the largest {len(shown)} of {states.shape[1]} components"
    )
    handles: dict[str, Any] = {
        f"solution {'at all steps' if joined else 'at outputs'}{much}": figure.axes[0].lines[0]
    }
    for reference in problem.references:
        if not (times[0] if first is None else first) <= reference.t <= times[-1]:
            continue
        compared = ~np.isnan(reference.errors(reference.y))
        for panel, i in zip(figure.axes, shown, strict=True):
            if compared[i] or reference.y[i] == 0:
                mark = _mark(panel, reference.t, float(reference.y[i]))
                below = mark.get_marker() == "v"
                handles["reference, below the axis" if below else f"reference: {reference.source}"] = mark
    width = round(12 * figure.get_figwidth())
    figure.legend(
        list(handles.values()),
        [textwrap.shorten(text, width, placeholder=" …") for text in handles],
        loc="outside lower center",
        ncols=2 if sum(map(len, handles)) < width else 1,
        frameon=False,
        fontsize=10,
    )
    return figure


def _mark(panel: Axes, t: float, y: float) -> Line2D:
    """A circle, or on the lower edge of a logarithmic axis an arrowhead for what lies below it."""
    low = panel.get_ylim()[0]
    below = panel.get_yscale() == "log" and y < low
    style: dict[str, Any] = {
        "marker": "v" if below else "o",
        "ms": 9,
        "mew": 1.3,
        "mfc": "none",
        "color": DATA,
        "ls": "",
    }
    (mark,) = panel.plot(t, low if below else y, clip_on=False, **style)
    return mark


def _limits(values: np.ndarray, start: int) -> dict[str, Any]:
    """The range of colours: of all values, or without the first ``start`` where these take half of it."""
    later = values[start:]
    shown = values if np.ptp(values) < 2 * np.ptp(later) else later
    return {"vmin": float(shown.min()), "vmax": float(shown.max())}


def _extend(values: np.ndarray, limits: dict[str, Any]) -> str:
    """Which ends of a colour bar are pointed, because values lie beyond them."""
    below, above = values.min() < limits["vmin"], values.max() > limits["vmax"]
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get((below, above), "both")


def _waterfall(problem: Definition, times: np.ndarray, states: np.ndarray, joined: bool) -> Figure:
    ((axis, x),) = problem.grid.items()
    count = len(problem.components)
    figure = Figure(figsize=(6.4 * count, 3.8))
    first = _first(problem, times, states)
    even = positions(times[0] if first is None else first, times[-1], first is not None, COLUMNS)
    at_even = _between(times, states, even)
    for i, panel in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        shown = at_even[:, i]
        limits = _limits(shown, COLUMNS // 20)
        image = panel.pcolormesh(even, x, shown.T, cmap=COLOURS, shading="gouraud", rasterized=True, **limits)
        panel.set(xlabel=_time_label(problem), ylabel=axis, xscale="linear" if first is None else "log")
        panel.grid(False)
        figure.colorbar(image, ax=panel, label=_labels(problem)[i], extend=_extend(shown, limits))
    return figure


def _between(times: np.ndarray, states: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """States at times between those known, linearly."""
    order = np.argsort(times, kind="stable")
    times, states = times[order], states[order]
    right = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    share = (wanted - times[right - 1]) / (times[right] - times[right - 1])
    share = share.reshape(-1, *[1] * (states.ndim - 1))
    return (1 - share) * states[right - 1] + share * states[right]


def _snapshots(problem: Definition, times: np.ndarray, states: np.ndarray, joined: bool) -> Figure:
    (across, x), (up, y) = problem.grid.items()
    wanted = np.linspace(times[0], times[-1], SNAPSHOTS)
    shown = _between(times, states, wanted)
    count = len(problem.components)
    figure = Figure(figsize=(2.7 * SNAPSHOTS + 1.0, 2.7 * count + 0.4))
    panels = figure.subplots(count, SNAPSHOTS, squeeze=False, sharex=True, sharey=True)
    for i, row in enumerate(panels):
        limits = _limits(shown[:, i], 1)
        for panel, t, field in zip(row, wanted, shown[:, i], strict=True):
            image = panel.pcolormesh(
                x, y, field.T, cmap=COLOURS, shading="gouraud", rasterized=True, **limits
            )
            panel.set(aspect="equal")
            panel.grid(False)
            panel.locator_params(nbins=3)
            if i == 0:
                panel.set_title(f"t = {t:.4g}{'' if problem.time_units == '1' else ' ' + problem.time_units}")
            if i == count - 1:
                panel.set_xlabel(across)
        row[0].set_ylabel(up)
        figure.colorbar(image, ax=row, label=_labels(problem)[i], extend=_extend(shown[:, i], limits))
    return figure
