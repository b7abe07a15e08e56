"""How good a solution is: digits, drift of the invariants, excess over the bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from problems.definition import Definition
from problems.references import Reference
from stiffml import Solution
from stiffml.checks import described
from stiffml.display import Table, printed, readable

ROUNDING = 1e-15
"""Of the largest value of a component: excess below this is no excess."""


@readable
@dataclass(frozen=True)
class Comparison:
    """A state compared with a reference: the relative ``error``, its ``component``, and the ``digits``."""

    t: float
    error: float
    component: str
    source: str
    digits: float


@printed
@dataclass(frozen=True)
class Report:
    """What :meth:`Problem.check` found; printing it gives a table.

    Attributes
    ----------
    problem : str
    digits : float or None
        −log10 of the largest relative error at any reference, at most what the reference is known to;
        None where no reference time is among the outputs.
    comparisons : tuple of Comparison
        One for each reference whose time is among the outputs.
    drifts : mapping of str to float
        By invariant: the largest change, relative to the sum of the magnitudes it is made of.
    excess : float
        How far the solution leaves its bounds, in the units of the component; 0 if it does not, or by no more
        than rounding errors of the component's largest value.
    worst : str
        The component that leaves its bounds furthest, as a share of its largest value; empty if none does.
    share : float
        That share.

    Examples
    --------
    >>> import problems
    >>> problem = problems.load("robertson")
    >>> report = problem.check(problem.solve(rtol=1e-6))
    >>> report.digits > 4, sorted(report.drifts), report.excess
    (True, ['A + B + C'], 0.0)
    """

    problem: str
    comparisons: tuple[Comparison, ...]
    drifts: Mapping[str, float]
    excess: float
    worst: str
    share: float = 0.0

    @property
    def digits(self) -> float | None:
        """The fewest digits at any reference; None without one."""
        return min((comparison.digits for comparison in self.comparisons), default=None)

    @property
    def invariant_drift(self) -> float:
        """The largest of ``drifts``; 0 where there are no invariants."""
        return max(self.drifts.values(), default=0.0)

    def rows(self) -> list[tuple[str, str]]:
        """The report as pairs (name, value), for printing."""
        rows = [
            (f"digits at t = {c.t:g}", f"{c.digits:.1f} (error {c.error:.1e} in {c.component})")
            for c in self.comparisons
        ]
        rows = rows or [("digits", "no reference at an output time")]
        rows += [(f"drift of {name}", f"{drift:.1e}") for name, drift in self.drifts.items()]
        if self.worst:
            rows.append(
                (
                    "outside its bounds",
                    f"{self.worst} by {self.excess:.1e}, {self.share:.0e} of its largest value",
                )
            )
        return rows

    def _table(self) -> Table:
        return ("problem", self.problem), self.rows()

    def __str__(self) -> str:
        rows = [("problem", self.problem), *self.rows()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def check(problem: Definition, solution: Solution) -> Report:
    """Compare a solution with all that is known of its problem.

    Raises
    ------
    ValueError
        If the solution's states do not have the problem's shape.
    """
    require_solution(solution)
    assert isinstance(solution.y, Tensor)
    times, states = solution.t.detach().numpy(), solution.y.detach().numpy()
    if states.shape[1:] != problem.y0.shape:
        raise ValueError(f"{problem.name} has states of shape {problem.y0.shape}, not {states.shape[1:]}")
    comparisons = []
    for reference in problem.references:
        near = np.flatnonzero(np.isclose(times, reference.t, rtol=1e-12, atol=0.0))
        if len(near):
            comparisons.append(compare(problem, reference, states[near[0]]))
    return Report(problem.name, tuple(comparisons), drifts(problem, states), *_excess(problem, states))


def attributes_of(report: Report) -> dict[str, float | str]:
    """What a report says, as attributes of a file; ``digits`` only where there is a reference."""
    found: dict[str, float | str] = {} if report.digits is None else {"digits": report.digits}
    found["drift"] = json.dumps(dict(report.drifts))
    found["outside_bounds"] = report.excess
    return found


def require_solution(solution: object) -> None:
    """Raise TypeError unless it is a Solution whose state is one tensor."""
    if not isinstance(solution, Solution) or not isinstance(solution.y, Tensor):
        raise TypeError(f"solution must be a stiffml.Solution of this problem, not {described(solution)}")


def compare(problem: Definition, reference: Reference, y: np.ndarray) -> Comparison:
    """Compare a state of the problem with a reference."""
    errors = reference.errors(y)
    component = problem.components[int(np.nanargmax(errors)) // max(1, errors[0].size)]
    error = float(np.nanmax(errors))
    digits = -math.log10(max(error, reference.rtol_valid))
    return Comparison(reference.t, error, component, reference.source, digits)


def drifts(problem: Definition, states: np.ndarray) -> dict[str, float]:
    """By invariant, the largest drift over states (…, *shape) from the initial state.

    That of a row w is |w·(y − y0)| / max(Σ|w_i y_i|, Σ|w_i y0_i|): rounding alone makes about 1e-16.
    An invariant that has lost all its digits has a drift near 1.
    """
    start = problem.y0.ravel()
    flat = np.asarray(states).reshape(-1, start.size)
    found = {}
    for name, invariant in problem.invariants.items():
        if callable(invariant):
            p = problem.values
            drift = np.abs(invariant(np.asarray(states), p) - invariant(problem.y0, p))
        else:
            size = np.maximum(np.abs(flat) @ np.abs(invariant), np.abs(start) @ np.abs(invariant))
            drift = np.abs((flat - start) @ invariant) / np.where(size > 0, size, 1.0)
        found[name] = float(drift.max())
    return found


def _excess(problem: Definition, states: np.ndarray) -> tuple[float, str, float]:
    """The largest excess over the bounds, its component, and its share of the component's largest value."""
    if problem.bounds is None:
        return 0.0, "", 0.0
    low, high = (problem.per_component(bound) for bound in problem.bounds)
    over = (0, *range(2, states.ndim))
    outside = np.maximum(low - states, states - high).max(axis=over)
    largest = np.abs(states).max(axis=over)
    share = np.where(outside > 0, outside / np.where(largest > 0, largest, 1.0), 0.0)
    worst = int(share.argmax())
    if share[worst] <= ROUNDING:
        return 0.0, "", 0.0
    return float(outside[worst]), problem.components[worst], float(share[worst])
