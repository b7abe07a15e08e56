"""The size of the next step from the error of the last one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REPEATED = 0.45
"""The safety factor where one attempt at a step after another was too long, if it is not smaller anyway."""

MUCH_LONGER = 100.0
"""For a step so many times longer than the last, an explicit first stage takes its slope anew."""


@dataclass(frozen=True)
class Controller:
    """The elementary step size controller: h ← h · min(largest, max(smallest, safety · error^(−1/(q+1)))).

    Its numbers are those of PETSc's ``TSAdaptBasic``, as ``petsc/time_stepper.py`` sets them.

    Parameters
    ----------
    order : int
        q, the order of the embedded solution: the error of a step is proportional to h^(q+1).
    safety : float
        Default 0.9.
    smallest, largest : float
        Smallest and largest factor by which the step size changes. Defaults 0.1 and 10.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, eq. 4.13; Hairer & Wanner, Solving ODEs
    II, section IV.2.
    """

    order: int
    safety: float = 0.9
    smallest: float = 0.1
    largest: float = 10.0

    def factor(self, error: float, again: bool = False) -> float:
        """The factor for the step size after a step with weighted error norm ``error``.

        A norm above 1 means the step was too long. ``again``: an earlier attempt at it was, too. A norm that
        is not finite gives the smallest factor.
        """
        if not math.isfinite(error):
            return self.smallest
        if error == 0:
            return self.largest
        safety = min(self.safety, REPEATED) if again and error > 1 else self.safety
        return min(self.largest, max(self.smallest, safety * error ** (-1 / (self.order + 1))))

    def factors(self, errors: np.ndarray, again: np.ndarray) -> np.ndarray:
        """The same for K steps: (K,) and (K,) bool -> (K,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            safety = np.where(again & (errors > 1), min(self.safety, REPEATED), self.safety)
            found = safety * errors ** (-1 / (self.order + 1))
        found = np.where(errors == 0, self.largest, found)
        return np.where(np.isfinite(errors), np.clip(found, self.smallest, self.largest), self.smallest)
