"""Components of states over time, one panel each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stiffml.checks import texts
from stiffml.plotting.axes import logarithmic_from, number_every_column, positions, value_scale
from stiffml.plotting.figure import FIT, Figure

MOST = 16
"""Panels of a figure."""

CONSTANT = 1e-9
"""What varies by less of its value is drawn as constant, not zoomed in on."""


def plot_states(
    time: np.ndarray,
    values: np.ndarray,
    names: Sequence[str] | None = None,
    time_label: str = "time",
    *,
    joined: bool = True,
    first: float | None = None,
    floors: np.ndarray | None = None,
) -> Figure:
    """Draw the components of states over time, one panel each, at most the first 16.

    The axis of time is logarithmic where most happens in the first hundredth of the span. An axis of values
    is where a component moves over decades.

    Parameters
    ----------
    time : ndarray
        (n,), in the units that ``time_label`` says.
    values : ndarray
        (n, components)
    names : sequence of str, optional
        Titles of the panels. Default ``y[0]``, ``y[1]``, …
    time_label : str
        Default ``"time"``.
    joined : bool
        Whether the points are close enough to be joined by lines. Default True; else they are points.
    first : float, optional
        Where a logarithmic axis of time begins, if there shall be one in any case.
    floors : ndarray, optional
        (components,), magnitudes below which digits do not count. Default None: all do.

    Returns
    -------
    Figure
        Of up to four panels a row.

    Raises
    ------
    ValueError
        If there are not as many names as components.

    Examples
    --------
    >>> from stiffml.plotting import plot_states
    >>> figure = plot_states(times, exact, ["A"], "time [s]", joined=False)
    >>> [panel.get_title() for panel in figure.axes]
    ['A']
    """
    shown = min(values.shape[1], MOST)
    if names is not None:
        names = texts("names", names, values.shape[1])
    columns = min(shown, 4)
    rows = -(-shown // columns)
    figure = Figure(figsize=(max(3.2 * columns, 5.6), 2.4 * rows + 0.9))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in grid[shown:]:
        panel.remove()
    panels = grid[:shown]
    begin = logarithmic_from(time, values) if first is None and joined else first
    drawn = slice(None) if begin is None else slice(int(np.searchsorted(time, begin)), None)
    even = positions(time[0] if begin is None else begin, time[-1], begin is not None)
    for index, panel in enumerate(panels):
        one = values[:, index]
        if joined:
            panel.plot(time[drawn], one[drawn], color=FIT, lw=1.5)
        else:
            panel.plot(time[drawn], one[drawn], "o", color=FIT, ms=3)
        panel.set_title(names[index] if names else f"y[{index}]")
        _fit_values(panel, time, one, even, None if floors is None else float(floors[index]))
        if begin is not None:
            panel.set_xscale("log")
        else:
            panel.locator_params(axis="x", nbins=4)
        panel.margins(x=0.02)
    number_every_column(list(panels), columns, time_label)
    if shown < values.shape[1]:
        figure.suptitle(f"the first {shown} of {values.shape[1]} components", fontsize=11)
    return figure


def _fit_values(
    panel: object, time: np.ndarray, one: np.ndarray, even: np.ndarray, floor: float | None
) -> None:
    """The axis of values of a panel."""
    middle, spread = float(np.mean(one)), float(np.ptp(one))
    if middle and spread <= CONSTANT * abs(middle):
        panel.set_ylim(*sorted((0.9 * middle, 1.1 * middle)))  # type: ignore[attr-defined]
        return
    order = np.argsort(time, kind="stable")
    at_even = np.interp(even, time[order], one[order])
    spikes = np.array([one.min(), one.max()])  # a spike may lie between two even positions
    value_scale(np.concatenate([at_even, spikes]), floor).apply(panel, float(np.abs(one).max()))
