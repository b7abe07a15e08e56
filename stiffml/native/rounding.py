"""Stopping test for Newton iterations that run down to rounding error."""

from __future__ import annotations

import numpy as np
import torch

from stiffml.system.system import System

MAX_ITERATIONS = 50
"""Updates after which such an iteration has failed."""

SMALLEST = 1e-8
"""Components below this part of the largest one count as being as large as that."""

SMALL_ALONE = 500_000
"""Numbers in an iterate up to which small components are watched each for itself."""

LEFT = 30
"""Updates that rounding of f leaves: up to this many units of it, of the largest component of a sample."""


class Rounding:
    """Watches the updates of one Newton iteration.

    With exact Jacobians it converges quadratically, unless linear systems are solved iteratively: by
    ``contraction`` at best, or better where one more update can then be the last. Once it is close, keeping
    the last Jacobian is cheaper. It ends where the next update would be less than ``enough``, relative to
    each component; or where updates no longer shrink and are rounding.

    Parameters
    ----------
    system : System
    start : ndarray
        (…, size) where the iteration starts. What is rounded there is in its result, which may be near zero.
    contraction, enough : float
        As above.

    Attributes
    ----------
    keeps_jacobian : bool
        Whether the next update is to be found with the Jacobian of the last one.
    rtol : float
        How well the next update should be solved for, if that is done iteratively.
    """

    limit = MAX_ITERATIONS

    def __init__(
        self, system: System, start: np.ndarray, contraction: float = 0.0, enough: float = 1e-17
    ) -> None:
        self._space, self._contraction, self._enough = system.space, contraction, enough
        self._samples = system.layout.samples, system.layout.width
        # A function of single precision is constant over many states of double precision.
        self._unit = float(torch.finfo(system.layout.dtype).eps)
        self._start = self._largest(start)
        self._before: float | None = None
        self._update_before: np.ndarray | None = None
        self.keeps_jacobian = False
        self.rtol = contraction

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the iterate ``x`` (…, size) that ``update`` led to is as good as it gets.

        Raises
        ------
        FloatingPointError
            If it is not finite: the iteration has diverged.
        """
        # Asked of all processes alike, so in both cases.
        large_ones, small_ones = self._large_ones_reached(update, x), self._small_ones_reached(update, x)
        return large_ones and small_ones

    def _small_ones_reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether no component that counts as larger than it is still converges.

        That is one whose updates are more than rounding of itself, and shrink: those which are rounding of
        large components do not.
        """
        if x.size > SMALL_ALONE:
            return True
        before, self._update_before = self._update_before, update
        change = np.abs(update)
        moving = change > max(1e-10, LEFT * self._unit) * np.abs(x)
        if before is not None:
            moving &= change < 0.3 * np.abs(before)
        return self._space.every(not moving.any())

    def _large_ones_reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        largest = self._largest(x)
        change = self._part(update, x, 1.0, SMALLEST * largest)
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
        following = change * (
            contraction if self.keeps_jacobian else max(contraction * contraction, self.rtol)
        )
        self.keeps_jacobian = change < 1e-3 and contraction < 1e-2
        self._aim(following)
        if following <= self._enough:
            return True
        # Rounding in large components reaches those near zero as well.
        left = LEFT * self._unit * np.maximum(largest, self._start)
        return contraction > 0.3 and self._part(update, x, 1e-9, left) <= 1

    def _largest(self, x: np.ndarray) -> np.ndarray:
        """The largest component of each sample, (…, samples, 1)."""
        largest = np.abs(x).reshape(*x.shape[:-1], *self._samples).max(axis=-1, keepdims=True)
        if self._space.is_distributed:
            parts = [self._space.max(value) for value in largest.ravel().tolist()]
            largest = np.array(parts).reshape(largest.shape)
        return largest

    def _part(self, update: np.ndarray, x: np.ndarray, relative: float, absolute: np.ndarray) -> float:
        """The largest part of ``relative`` |x| + ``absolute`` that an update is."""
        scale = np.abs(x).reshape(*x.shape[:-1], *self._samples)  # in place from here on: may be large
        scale *= relative
        scale += absolute + 1e-300
        np.divide(update.reshape(scale.shape), scale, out=scale)
        return self._space.max(float(np.abs(scale, out=scale).max()))

    def _aim(self, following: float) -> None:
        """The next update will be of about this size: solve for it so well that it can be the last one.

        Unless what Newton's iteration itself leaves of it, about its square, is more than that.
        """
        self.rtol = min(self._contraction, max(0.5 * self._enough / max(following, 1e-300), 0.1 * following))
