"""Stiffness detection for explicit methods."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from stiffml.methods import Method
from stiffml.methods.base import ABSCISSA_ROUNDING
from stiffml.system.space import Space

HITS, MISSES = 15, 6
"""A problem is stiff after ``HITS`` steps at the limit of stability.

``MISSES`` steps in a row that are not at the limit reset the count. As in the code DOPRI5 of Hairer & Wanner.
"""

TEST_EVERY = 10
"""Only one step in this many is tested until one is found at the limit of stability."""

MANY_STEPS = 10_000
"""The run stops only if more than this many steps are left. Fewer take seconds."""


class StiffnessTest:
    """Estimates h·|λ| from the stages of a step, with λ the eigenvalue of the fastest mode.

    At the limit of stability the fastest mode is not damped. A combination of stages that cancels the smooth
    part of the solution then contains this mode only, so |λ| ≈ ‖Δk‖/‖ΔY‖ with Y the stages, k the slopes f(Y)
    and Δ the combination. For ``dopri5``, and others of order 5 and more, it is the difference of the last
    two stages, both at the end of the step. For ``bosh3`` it combines all four stages so that quadratic
    polynomials in time cancel.

    Parameters
    ----------
    method : Method
        An explicit method with an error estimate.
    space : Space
    unit : float
        The unit of rounding of func.

    Attributes
    ----------
    weights : ndarray
        (2 or 4,) the combination of the last stages.
    bound : float
        The largest h·|λ| for which the method is stable, or slightly less.

    Source: Hairer & Wanner, Solving ODEs II, section IV.2, eq. 2.28.
    """

    def __init__(self, method: Method, space: Space, unit: float) -> None:
        self._space, self._unit = space, unit
        c, self.bound = method.abscissae, method.real_stability
        if abs(c[-1] - c[-2]) <= ABSCISSA_ROUNDING:
            self.weights = np.array([-1.0, 1.0])
        else:
            # The weights of the third divided difference on the last four abscissae.
            last = c[-4:]
            self.weights = np.array([1 / np.prod(last[i] - np.delete(last, i)) for i in range(4)])
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=len(self.weights))
        self._steps = self._hits = self._misses = 0

    def evaluated(self, u: np.ndarray, slope: np.ndarray) -> None:
        """Record a stage ``u`` (size,) and its slope (size,)."""
        self._recent.append((u.copy(), slope))

    def recall(self, states: Sequence[np.ndarray], slopes: np.ndarray) -> None:
        """Record the stages of a step and their slopes (stages, size), of which the last are looked at."""
        self._recent.extend(zip(states, slopes, strict=True))

    def stepped(self, size: float, left: float, weights: np.ndarray) -> bool:
        """Whether the problem is stiff and many steps are left, after an accepted step of ``size``.

        ``left`` is the remaining time of the run, ``weights`` (size,) the tolerance of each component.
        """
        self._steps += 1
        if not self._hits and self._steps % TEST_EVERY:
            return False
        if size * self._rate(weights) > self.bound:
            self._misses = 0
            self._hits += 1
        else:
            self._misses += 1
            if self._misses >= MISSES:
                self._hits = 0
        return self._hits >= HITS and left > MANY_STEPS * size

    def _rate(self, weights: np.ndarray) -> float:
        """‖Δk‖/‖ΔY‖, the estimate of |λ|; 0 if ΔY is at the level of rounding error."""
        if len(self._recent) < len(self.weights):
            return 0.0
        states, slopes = zip(*self._recent, strict=True)
        change = sum(w * u for w, u in zip(self.weights, states, strict=True))
        turn = sum(w * k for w, k in zip(self.weights, slopes, strict=True))
        largest = np.abs(self.weights).max()
        size, rounding = self._norm(change / weights), self._norm(states[-1] / weights)
        if not size > 64 * self._unit * largest * rounding:
            return 0.0
        return self._norm(turn / weights) / size

    def _norm(self, v: np.ndarray) -> float:
        return math.sqrt(self._space.sum(float(v @ v)))
