"""Stopping test for the Newton iterations of new steps: weighted updates and observed contraction."""

from __future__ import annotations

import math

import numpy as np

from stiffml.native.rounding import Rounding
from stiffml.settings import NewtonLimits
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System


class NewtonTest:
    """Stops when the expected remaining error is within Newton's tolerances; see :class:`stiffml.Newton`.

    It also stops when updates no longer shrink and are at the level of rounding error.

    Parameters
    ----------
    limits : NewtonLimits
    system : System
    solver : LinearSolver
    start : ndarray
        (1, size) the first iterate.
    atol : float or ndarray
        Absolute tolerance: ``limits.atol``, or (size,) values derived from the state at the start of the
        step.

    Attributes
    ----------
    limit : int
        The iteration has failed after this many updates.
    rtol : float
        Relative tolerance for updates, if the linear solver is iterative.
    sizes : list of float
        Weighted norms of the updates so far.
    """

    def __init__(
        self,
        limits: NewtonLimits,
        system: System,
        solver: LinearSolver,
        start: np.ndarray,
        atol: float | np.ndarray,
    ) -> None:
        self._rtol, self._atol, self.limit = limits.rtol, atol, limits.max_iterations
        self._space = system.space
        self._count = self._space.sum(start.size)
        self._rounding = Rounding(system, start, solver.contraction, solver.enough)
        self._previous = math.inf
        self.rtol = solver.contraction
        self.sizes: list[float] = []

    @property
    def keeps_jacobian(self) -> bool:
        """Whether the next update should use the Jacobian of the last one."""
        return self._rounding.keeps_jacobian

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the new iterate ``x`` (1, size) is good enough; ``update`` (1, size) is its last change.

        Raises
        ------
        FloatingPointError
            If the update is not finite.
        """
        scaled = (update / (self._rtol * np.abs(x) + self._atol)).ravel()
        with np.errstate(over="ignore"):
            square = float(scaled @ scaled)
        size = math.sqrt(self._space.sum(square) / self._count)
        self.sizes.append(size)
        is_rounding = self._rounding.reached(update, x)  # raises where the update is not finite
        previous, self._previous = self._previous, size
        if size <= 1 or is_rounding:
            return True
        contraction = size / previous if len(self.sizes) > 1 else math.inf
        return contraction < 1 and size * contraction <= 1 - contraction
