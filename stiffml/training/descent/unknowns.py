"""What is fitted besides a model: initial values that are not known, and starts of intervals."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.training.lm.intervals import Interval
from stiffml.training.lm.residuals import Residuals


class Unknowns:
    """Offsets of starts from the observations, in units of the scale.

    One tensor for all rows of all runs, so that it stays the same when intervals change.

    Parameters
    ----------
    residuals : Residuals
    starts : bool
        Whether the starts of intervals within runs are fitted.

    Attributes
    ----------
    parameters : list of Tensor
        [(rows of all runs, components)], or nothing if nothing is to be fitted.
    """

    def __init__(self, residuals: Residuals, starts: bool) -> None:
        self._of = residuals
        runs = residuals.runs
        self._first = np.cumsum([0, *map(len, runs)]).tolist()
        free = np.full((self._first[-1], len(runs.components)), starts)
        for first, learned in zip(self._first, residuals.vector.learned, strict=False):
            free[first] = False
            free[first, list(learned)] = True
        self._free = torch.from_numpy(free)
        self._scale = torch.from_numpy(residuals.scale.copy())
        self.starts = starts
        self.parameters: list[Tensor] = []
        if free.any():
            self.parameters = [torch.zeros(free.shape, dtype=torch.float64, requires_grad=True)]

    def start(self, interval: Interval) -> Tensor:
        """(components,) where an interval starts."""
        return self._at(interval.run, interval.first)

    def next(self, interval: Interval) -> Tensor | None:
        """(components,) where the next interval of the run starts; None at its end."""
        if not self.starts or interval.last == len(self._of.runs[interval.run]) - 1:
            return None
        return self._at(interval.run, interval.last)

    def _at(self, run: int, row: int) -> Tensor:
        known = torch.from_numpy(self._of.filled(Interval(run, row, row))[0])
        if not self.parameters:
            return known
        at = self._first[run] + row
        return known + torch.where(self._free[at], self.parameters[0][at], 0.0) * self._scale

    def prior(self, interval: Interval) -> Tensor:
        """(k,) residuals of initial values that were measured with a known error."""
        vector, learned = self._of.vector, self._of.vector.learned[interval.run]
        if interval.first or not learned:
            return torch.zeros(0, dtype=torch.float64)
        known = {component: n for component, n in learned.items() if vector.weight[n] > 0}
        components, positions = list(known), list(known.values())
        centre, weight = (
            torch.from_numpy(vector.centre[positions]),
            torch.from_numpy(vector.weight[positions]),
        )
        return weight * (self.start(interval)[components] - centre)

    def initial(self) -> dict[str, np.ndarray]:
        """By run, its initial state (components,)."""
        with torch.no_grad():
            return {run.name: self._at(i, 0).numpy().copy() for i, run in enumerate(self._of.runs)}
