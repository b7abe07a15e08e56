"""Whether an explicit method takes short steps only because the problem is stiff."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from stiffml.methods import Method
from stiffml.system.space import Space

HITS, MISSES = 15, 6
"""So many steps at the limit of stability say that a problem is stiff, unless so many in a row are not there.

As in the code DOPRI5 of Hairer and Wanner.
"""

EVERY = 10
"""One step in so many is looked at while none was at the limit."""

LONG = 10_000
"""Steps still to be taken from which on it is worth stopping. Fewer are done in seconds."""


class StiffnessTest:
    """Estimates h·|λ| from the stages of a step: Hairer & Wanner, Solving ODEs II, section IV.2, eq. 2.28.

    Stages Yᵢ, and slopes kᵢ there, that differ by no smooth motion have ‖Δk‖/‖ΔY‖ near |λ|, that of the
    fastest mode: what the smooth motion leaves is what the limit of stability keeps alive. The last two
    stages of ``dopri5`` are both at the end of the step; for others, ΔY is the combination of stages that is
    zero for quadratic polynomials of time.

    Parameters
    ----------
    method : Method
        Explicit, its last stage at the new state.
    space : Space
    unit : float
        Rounding of func.
    """

    def __init__(self, method: Method, space: Space, unit: float) -> None:
        self._space, self._unit = space, unit
        c, self._bound = method.abscissae, method.real_stability
        if c[-1] == c[-2]:
            self._weights = np.array([-1.0, 1.0])
        else:
            # The Lagrange weights of the last four abscissae: their third divided difference.
            last = c[-4:]
            self._weights = np.array([1 / np.prod(last[i] - np.delete(last, i)) for i in range(4)])
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=len(self._weights))
        self._steps = self._hits = self._misses = 0

    def evaluated(self, u: np.ndarray, slope: np.ndarray) -> None:
        """func was evaluated at a stage."""
        self._recent.append((u.copy(), slope))

    def stepped(self, size: float, left: float, weights: np.ndarray) -> bool:
        """Whether the problem is stiff, and long, after an accepted step of this ``size``.

        ``left`` is what is left of the run, ``weights`` (size,) the tolerance of each component.
        """
        self._steps += 1
        if not self._hits and self._steps % EVERY:
            return False
        if size * self._rate(weights) > self._bound:
            self._misses = 0
            self._hits += 1
        else:
            self._misses += 1
            if self._misses >= MISSES:
                self._hits = 0
        return self._hits >= HITS and left > LONG * size

    def _rate(self, weights: np.ndarray) -> float:
        """‖Δk‖/‖ΔY‖; 0 where ΔY is rounding."""
        if len(self._recent) < len(self._weights):
            return 0.0
        states, slopes = zip(*self._recent, strict=True)
        change = sum(w * u for w, u in zip(self._weights, states, strict=True))
        turn = sum(w * k for w, k in zip(self._weights, slopes, strict=True))
        largest = np.abs(self._weights).max()
        size, rounding = self._norm(change / weights), self._norm(states[-1] / weights)
        if not size > 64 * self._unit * largest * rounding:
            return 0.0
        return self._norm(turn / weights) / size

    def _norm(self, v: np.ndarray) -> float:
        return math.sqrt(self._space.sum(float(v @ v)))
