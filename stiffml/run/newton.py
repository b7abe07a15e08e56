"""When a Newton iteration that is to leave only rounding has done so."""

from __future__ import annotations

import numpy as np

from stiffml.system.space import Space

MAX_ITERATIONS = 50

SMALLEST = 1e-8
"""Components below this part of the largest one count as being as large as that."""


class Rounding:
    """Watches the updates of one Newton iteration.

    With exact Jacobians it converges quadratically, unless linear systems are solved iteratively: by
    ``contraction`` at best, or better where one more update can then be the last. Once it is close, keeping
    the last Jacobian is cheaper. It ends where the next update would be less than ``enough``, relative to
    each component.

    Attributes
    ----------
    keeps_jacobian : bool
        Whether the next update is to be found with the Jacobian of the last one.
    rtol : float
        How well the next update should be solved for, if that is done iteratively.
    """

    def __init__(self, space: Space, contraction: float = 0.0, enough: float = 1e-17) -> None:
        self._space, self._contraction, self._enough = space, contraction, enough
        self._before: float | None = None
        self.keeps_jacobian = False
        self.rtol = contraction

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the iterate ``x`` (…, size) that ``update`` led to is as good as it gets.

        Raises
        ------
        FloatingPointError
            If it is not finite: the iteration has diverged.
        """
        scale = np.abs(x)  # in place from here on: states may be large
        largest = scale.max(axis=-1, keepdims=True)
        if self._space.is_distributed:
            largest = np.array([[self._space.max(float(row[0]))] for row in np.atleast_2d(largest)])
        scale += SMALLEST * largest.reshape(*x.shape[:-1], 1) + 1e-300
        np.divide(update, scale, out=scale)
        change = self._space.max(float(np.abs(scale, out=scale).max()))
        if not np.isfinite(change):
            raise FloatingPointError
        before, self._before = self._before, change
        if change <= 1e-15:
            return True
        if before is None:
            self._aim(change * max(change, self.rtol))
            # What is quadratic in the largest components may be that of the smallest.
            return change * max(change / SMALLEST, self.rtol) <= self._enough
        # By what the next update is smaller: about (change/before)², with the same Jacobian change/before.
        contraction = change / before
        following = change * (contraction if self.keeps_jacobian else max(contraction**2, self.rtol))
        self.keeps_jacobian = change < 1e-3 and contraction < 1e-2
        self._aim(following)
        # Or updates no longer shrink.
        return following <= self._enough or (contraction > 0.3 and change < 1e-9)

    def _aim(self, following: float) -> None:
        """The next update will be of about this size: solve for it so well that it can be the last one.

        Unless what Newton's iteration itself leaves of it, about its square, is more than that.
        """
        self.rtol = min(self._contraction, max(0.5 * self._enough / max(following, 1e-300), 0.1 * following))
