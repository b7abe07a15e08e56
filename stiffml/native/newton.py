"""Stopping test for Newton iterations of new steps: the weighted update, with the contraction seen."""

from __future__ import annotations

import math

import numpy as np

from stiffml.native.rounding import Rounding
from stiffml.settings import NewtonLimits
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System


class NewtonTest:
    """Stops once the expected remaining error is within Newton's tolerances; see :class:`stiffml.Newton`.

    Updates that no longer shrink and are rounding stop it too.

    Parameters
    ----------
    limits : NewtonLimits
    system : System
    start : ndarray
        (1, size) where the iteration starts.
    atol : float or ndarray
        That of ``limits``, or the one that follows from where the step begins.

    Attributes
    ----------
    limit : int
        Updates after which the iteration has failed.
    rtol : float
        How well updates should be solved for, if that is done iteratively.
    sizes : list of float
        Of the updates so far.
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
        """Whether the next update is to be found with the Jacobian of the last one."""
        return self._rounding.keeps_jacobian

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the iterate ``x`` (1, size) that ``update`` led to is good enough.

        Raises
        ------
        FloatingPointError
            If it is not finite.
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
