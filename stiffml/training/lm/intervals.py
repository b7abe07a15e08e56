"""Stretches of runs that are solved from a state of their own: whole runs, or intervals of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stiffml.training.data import Run


@dataclass(frozen=True)
class Interval:
    """Rows ``first`` … ``last`` of run number ``run``; it is solved from the state at the first."""

    run: int
    first: int
    last: int


@dataclass(frozen=True)
class Rung:
    """What one Levenberg-Marquardt iteration fits: intervals, and for how long.

    Attributes
    ----------
    name : str
        For the history and messages.
    intervals : tuple of Interval
    iterations : int
        At most.
    tolerance : float
        It ends after three iterations that lower the cost by less than this fraction.
    to_target : bool
        Whether it ends where the error is that which the fit is to reach.
    weight : float or None
        Of the defects of the steps, if states are unknown beside the parameters; None where steps hold.
    """

    name: str
    intervals: tuple[Interval, ...]
    iterations: int
    tolerance: float
    to_target: bool = True
    weight: float | None = None


def filled(run: Run) -> np.ndarray:
    """(n, components) the observations, gaps filled by straight lines over the rows, y0 in the first row.

    The rows of a run are where its states change, also where its times span decades.
    """
    values = run.observations
    values[0] = run.y0
    rows = np.arange(len(run))
    for column in values.T:
        seen = ~np.isnan(column)
        column[~seen] = np.interp(rows[~seen], rows[seen], column[seen])
    return values


def whole(runs: Sequence[Run]) -> tuple[Interval, ...]:
    """Each run from its first row to its last."""
    return tuple(Interval(i, 0, len(run) - 1) for i, run in enumerate(runs))


def shot(runs: Sequence[Run], length: int) -> tuple[Interval, ...]:
    """Intervals of ``length`` rows, each of which starts from the observations in its first."""
    return tuple(
        Interval(i, first, min(first + length, len(run) - 1))
        for i, run in enumerate(runs)
        for first in range(0, len(run) - 1, length)
    )


def observed_rows(run: Run) -> np.ndarray:
    """The rows after the first in which something is observed."""
    return 1 + np.flatnonzero(run.mask[1:].any(axis=1))


def up_to(runs: Sequence[Run], count: int) -> tuple[Interval, ...]:
    """Each run up to the row of its observation number ``count``; to its end if it has not as many.

    So none ends with rows that nothing holds to the data, from which it could not be continued rightly.
    """
    found = []
    for i, run in enumerate(runs):
        rows = observed_rows(run)
        found.append(Interval(i, 0, int(rows[count - 1]) if count < len(rows) else len(run) - 1))
    return tuple(found)
