"""The size of the next step from the error of the last one."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Controller:
    """The elementary controller: h ← h · min(largest, max(smallest, safety · error^(−1/(q+1)))).

    Parameters
    ----------
    order : int
        q, that of the embedded solution: the error of a step falls with h^(q+1).
    safety : float
        Default 0.9.
    smallest, largest : float
        By how much a step may shrink or grow. Defaults 0.1 and 5.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, eq. 4.13; Hairer & Wanner, Solving ODEs
    II, section IV.2.
    """

    order: int
    safety: float = 0.9
    smallest: float = 0.1
    largest: float = 5.0

    def factor(self, error: float) -> float:
        """By what to multiply a step whose weighted error norm was ``error``; it was too long above 1.

        An error that is not finite asks for the smallest factor.
        """
        if not math.isfinite(error):
            return self.smallest
        if error == 0:
            return self.largest
        return min(self.largest, max(self.smallest, self.safety * error ** (-1 / (self.order + 1))))
