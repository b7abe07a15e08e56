"""Solves a fitted model again with adaptive steps and tight tolerances: what the steps of a fit hid shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stiffml.display import Table, printed, with_units
from stiffml.errors import SolveError
from stiffml.interface.solution import Solution
from stiffml.interface.solve import solve
from stiffml.steps import Adaptive
from stiffml.training.data import Run

if TYPE_CHECKING:
    from stiffml.plotting import Figure

MAX_STEPS = 20_000

RTOL, ATOL = 1e-7, 1e-10
"""Tolerances with which fitted models are solved again; atol in units of the scale."""

TOO_LONG = 1.2
"""A model solved again is as far from its data as the fit had it, unless the fit's steps had errors."""

NOTICED = 0.01
"""In units of the scale, which is the noise or the range: what is less matters to few."""

POINTS = 150
"""Points of a line in a picture, on either kind of axis."""


@dataclass(frozen=True)
class Resolved:
    """A run solved again.

    Attributes
    ----------
    run : Run
    y : ndarray
        (n, components), NaN after the time at which the solve stopped.
    message : str
        Why it stopped; empty if it did not.
    line : tuple of ndarray
        (m,) times from the first to the last that was reached, dense enough for a picture, and the solution
        there, (m, components).
    """

    run: Run
    y: np.ndarray
    message: str
    line: tuple[np.ndarray, np.ndarray]


def resolve(
    model: nn.Module,
    run: Run,
    y0: np.ndarray,
    rtol: float = RTOL,
    atol: float = ATOL,
    max_steps: int = MAX_STEPS,
    **arguments: Any,
) -> Resolved:
    """Solve a run with BDF and adaptive steps; a solve that stops early gives NaN from there on."""
    dtype = next((p.dtype for p in model.parameters()), torch.float64)
    start = torch.from_numpy(y0.copy()).to(dtype)
    times = torch.from_numpy(run.times.copy())
    y, message, line = np.full(run.values.shape, np.nan), "", (run.times[:1], y0[None])
    y[0] = y0
    steps = Adaptive(max_steps=max_steps)
    try:
        with torch.no_grad():
            found = solve(
                model, start, times, method="bdf", rtol=rtol, atol=atol, steps=steps, throw=False, **arguments
            )
        assert isinstance(found.y, torch.Tensor)
        y[: len(found.y)] = found.y.cpu().double().numpy()
        message = "" if len(found.y) == len(y) else found.message
        line = _line(found, run.times[: len(found.y)])
    except (SolveError, ValueError) as error:  # such as a func that is not finite at the start
        message = str(error)
    return Resolved(run, y, message, line)


def _line(found: Solution, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times that are dense on a linear and on a logarithmic axis, and the solution there."""
    span = times[-1] - times[0]
    if span == 0:
        return times[:1], found.y[:1].cpu().double().numpy()  # type: ignore[union-attr]
    shortest = np.diff(times)[np.diff(times) > 0].min()
    begin, end = float(times[0]), float(times[-1])
    decades = begin + np.geomspace(min(shortest, span / POINTS), span, POINTS)
    dense = np.concatenate([times, decades, np.linspace(begin, end, POINTS)])
    at = np.unique(dense.clip(begin, end))
    with torch.no_grad():
        y = found.interpolate(torch.from_numpy(at))
    assert isinstance(y, torch.Tensor)
    return at, y.cpu().double().numpy()


def errors(resolved: Resolved, scale: np.ndarray) -> np.ndarray:
    """(components,) means of √weight · |error| after the first row, in units of ``scale``.

    Infinite where the solve stopped early, NaN for what was not observed, or has weight 0 everywhere.
    """
    total, count = sums(resolved.run, resolved.y, scale)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_of(resolved: Sequence[Resolved], scale: np.ndarray) -> float:
    """The mean of √weight · |error| over all observations of all runs after their first rows.

    As the error of a fit, so that both can be compared; what has weight 0 does not count.
    """
    total, count = np.sum([sums(one.run, one.y, scale) for one in resolved], axis=(0, 2))
    return float(total / count) if count else float("nan")


def sums(run: Run, y: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(components,) sums of √weight · |error| of ``y`` (rows, components) after the first row, and how many
    observations these are of; infinite where ``y`` is NaN."""
    seen = run.mask[1:]
    difference = (np.sqrt(run.weights) * np.abs(y - run.values) / scale)[1:]
    difference = np.where(np.isnan(difference), np.inf, difference)
    return np.where(seen, difference, 0.0).sum(axis=0), seen.sum(axis=0)


@printed
@dataclass(frozen=True)
class Report:
    """How far a fit can be trusted: errors of the model solved again with tight tolerances.

    Attributes
    ----------
    runs : tuple of str
    components : tuple of str
    errors : ndarray
        (runs, components) means of √weight · |error| in units of ``scale``: absolute errors where no weights
        are given.
    mean : float
        Over all observations.
    scale : ndarray
        (components,)
    drift : dict of str to float
        Of each invariant, the largest change along any run.
    messages : dict of str to str
        Why solves stopped early, by run.
    training : float
        The mean absolute residual of the fit, with its own steps, weighted likewise.
    unseen : bool
        Whether a run is among them that was not fitted to.
    complete : bool
        Whether they are all the runs that were fitted to, so that ``mean`` is to be near ``training``.

    Examples
    --------
    >>> from stiffml.training import fit
    >>> report = fit(Decay(), runs[:1], steps=stiffml.Grid(10)).report(runs[1:])  # of a run not fitted to
    >>> report.runs, report.unseen, bool(report.mean < 1e-3)
    (('b',), True, True)
    """

    runs: tuple[str, ...]
    components: tuple[str, ...]
    errors: np.ndarray
    mean: float
    scale: np.ndarray
    drift: dict[str, float]
    messages: dict[str, str]
    training: float
    unseen: bool
    complete: bool

    def _table(self) -> Table:
        rows = [(run, *(f"{e:.2e}" for e in row)) for run, row in zip(self.runs, self.errors, strict=True)]
        rows.append(("mean of all", f"{self.mean:.2e}"))
        rows += [(f"drift of {name}", f"{value:.1e}") for name, value in self.drift.items()]
        return ("run", *self.components), rows

    def __str__(self) -> str:
        kind = "not fitted to" if self.unseen else "fitted to"
        lines = [
            f"mean error along the fit's own steps {self.training:.2e}",
            f"solved again, at data {kind}          {self.mean:.2e}",
        ]
        width = max(3, *map(len, self.runs))
        columns = [max(9, len(name)) for name in self.components]
        cells = zip(self.components, columns, strict=True)
        lines.append("  ".join(["run".ljust(width), *(name.rjust(w) for name, w in cells)]))
        for name, row in zip(self.runs, self.errors, strict=True):
            numbers = (f"{value:.2e}".rjust(w) for value, w in zip(row, columns, strict=True))
            lines.append("  ".join([name.ljust(width), *numbers]))
        lines += [f"drift of {name}: {value:.1e}" for name, value in self.drift.items()]
        if self.complete and self.mean > max(TOO_LONG * self.training, NOTICED):
            lines += [
                "The steps of the fit are too long: what it found fits them better than the equations.",
                "Take shorter ones, such as steps=Grid(4), or adaptive ones, as least_squares does.",
            ]
        lines += [f"{name} stopped early: {message}" for name, message in self.messages.items()]
        return "\n".join(lines)


def drift_of(resolved: Sequence[Resolved], invariants: Mapping[str, Any]) -> dict[str, float]:
    """The largest change of each invariant along any run: weights (components,), or a function of states."""
    found = {}
    for name, invariant in invariants.items():
        changes = []
        for one in resolved:
            value = invariant(one.y) if callable(invariant) else one.y @ np.asarray(invariant, dtype=float)
            changes.append(np.nanmax(np.abs(value - value[0])))
        found[name] = float(max(changes))
    return found


def draw(
    resolved: Sequence[Resolved], components: Sequence[str], labels: Sequence[str], time_units: str
) -> Figure:
    """The runs solved again as lines, what was observed as points, a panel for each component, at most 16."""
    from stiffml.plotting import DATA, FIT, Figure
    from stiffml.plotting.axes import spans_decades

    shown = min(len(components), 16)
    columns = min(shown, 4)
    figure = Figure(figsize=(3.4 * columns, 2.6 * -(-shown // columns)))
    panels = figure.subplots(-(-shown // columns), columns, squeeze=False).ravel()
    logarithmic = all(spans_decades(one.run.times) for one in resolved)
    for c, panel in enumerate(panels):
        if c >= shown:
            panel.set_visible(False)
            continue
        for one in resolved:
            first = 1 if logarithmic else 0
            t, y = one.line
            drawn = [
                *panel.plot(one.run.times[first:], one.run.values[first:, c], ".", color=DATA, ms=4),
                *panel.plot(t[first:], y[first:, c], color=FIT, lw=1.2),
            ]
        panel.set_title(labels[c], fontsize=10)
        panel.set_xlabel(with_units("time", time_units))
        if logarithmic:
            panel.set_xscale("log")
    figure.legend(drawn, ["data", "model"], loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure
