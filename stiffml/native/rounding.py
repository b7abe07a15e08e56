"""Stopping test for Newton iterations that run down to rounding error."""

from __future__ import annotations

import numpy as np
import torch

from stiffml.system.system import System

MAX_ITERATIONS = 50
"""The iteration has failed after this many updates."""

RELATIVE_FLOOR = 1e-8
"""Smaller components are treated as this fraction of the largest component of their sample."""

SMALL_TEST_LIMIT = 500_000
"""Convergence of small components is tested separately for iterates with at most this many numbers."""

ROUNDING_UNITS = 30
"""Rounding errors of f leave updates of up to this many units of rounding of the largest component."""


class Rounding:
    """Stops a Newton iteration when only rounding error is left.

    The iteration ends when the next update is expected to be less than ``enough``, relative to each
    component, or when updates no longer shrink and are at the level of rounding error.

    With exact Jacobians convergence is quadratic. With an iterative linear solver the contraction is limited
    by its tolerance. Close to the solution the last Jacobian is kept, which is cheaper.

    Parameters
    ----------
    system : System
    start : ndarray
        (…, size) the first iterate, or the size of what the equation begins with. Its rounding errors
        remain in the result, even where the result is near zero.
    contraction : float
        Relative tolerance of an iterative linear solver; it is made smaller where the next update can then
        be the last one. Default 0, for direct solvers.
    enough : float
        Relative size of the expected next update at which the iteration stops. Default 1e-17.

    Attributes
    ----------
    keeps_jacobian : bool
        Whether the next update should use the Jacobian of the last one.
    rtol : float
        Relative tolerance for the next update, if the linear solver is iterative.
    """

    limit = MAX_ITERATIONS

    def __init__(
        self, system: System, start: np.ndarray, contraction: float = 0.0, enough: float = 1e-17
    ) -> None:
        self._space, self._contraction, self._enough = system.space, contraction, enough
        self._samples = system.layout.samples, system.layout.width
        # States are float64, but func may compute in float32: its rounding error is what counts.
        self._unit = float(torch.finfo(system.layout.dtype).eps)
        self._start = self._largest(start)
        self._before: float | None = None
        self._update_before: np.ndarray | None = None
        self.keeps_jacobian = False
        self.rtol = contraction

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether ``x`` (…, size) is as accurate as rounding allows; ``update`` (…, size) is its last change.

        Raises
        ------
        FloatingPointError
            If the update is not finite: the iteration has diverged.
        """
        # Both tests communicate, so every process must run both.
        large_ones, small_ones = self._large_ones_reached(update, x), self._small_ones_reached(update, x)
        return large_ones and small_ones

    def _small_ones_reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether all components, each relative to its own size, have stopped converging.

        A component still converges if its update exceeds its own rounding error and shrinks. Updates that
        are rounding error of larger components do not shrink.
        """
        if x.size > SMALL_TEST_LIMIT:
            return True
        before, self._update_before = self._update_before, update
        change = np.abs(update)
        moving = change > max(1e-10, ROUNDING_UNITS * self._unit) * np.abs(x)
        if before is not None:
            moving &= change < 0.3 * np.abs(before)
        return self._space.every(not moving.any())

    def _large_ones_reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """The test of :meth:`reached` with small components treated as larger, see ``RELATIVE_FLOOR``."""
        largest = self._largest(x)
        change = self._part(update, x, 1.0, RELATIVE_FLOOR * largest)
        if not np.isfinite(change):
            raise FloatingPointError
        before, self._before = self._before, change
        if change <= 1e-15:
            return True
        if before is None:
            self._aim(change * max(change, self.rtol))
            # A remainder that is quadratic in the large components may appear in the small ones.
            return change * max(change / RELATIVE_FLOOR, self.rtol) <= self._enough
        # Expected contraction: about (change/before)² with a new Jacobian, change/before with the same one.
        contraction = change / before
        following = change * (
            contraction if self.keeps_jacobian else max(contraction * contraction, self.rtol)
        )
        self.keeps_jacobian = change < 1e-3 and contraction < 1e-2
        self._aim(following)
        if following <= self._enough:
            return True
        # Rounding errors of large components spread to components near zero.
        left = ROUNDING_UNITS * self._unit * np.maximum(largest, self._start)
        return contraction > 0.3 and self._part(update, x, 1e-9, left) <= 1

    def _largest(self, x: np.ndarray) -> np.ndarray:
        """The largest component of each sample, (…, samples, 1)."""
        largest = np.abs(x).reshape(*x.shape[:-1], *self._samples).max(axis=-1, keepdims=True)
        if self._space.is_distributed:
            parts = [self._space.max(value) for value in largest.ravel().tolist()]
            largest = np.array(parts).reshape(largest.shape)
        return largest

    def _part(self, update: np.ndarray, x: np.ndarray, relative: float, absolute: np.ndarray) -> float:
        """The largest |update| / (``relative`` |x| + ``absolute``) over all components."""
        scale = np.abs(x).reshape(*x.shape[:-1], *self._samples)  # in place from here on, to save memory
        scale *= relative
        scale += absolute + 1e-300
        np.divide(update.reshape(scale.shape), scale, out=scale)
        return self._space.max(float(np.abs(scale, out=scale).max()))

    def _aim(self, following: float) -> None:
        """Set the linear tolerance for the next update, whose relative size is about ``following``.

        The update should be accurate enough to be the last one. More accuracy than the remaining Newton
        error, about the square of its size, is of no use.
        """
        self.rtol = min(self._contraction, max(0.5 * self._enough / max(following, 1e-300), 0.1 * following))
