"""Stopping test for the Newton iterations of new steps: weighted updates and observed contraction."""

from __future__ import annotations

import math

import numpy as np

from stiffml.native.rounding import Rounding
from stiffml.run.kept_jacobian import MOST_KEPT, KeptJacobian
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
    keeping : KeptJacobian or None
        Set if Jacobians of earlier steps are used. Default None.

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
        keeping: KeptJacobian | None = None,
    ) -> None:
        self._rtol, self._atol, self._exact = limits.rtol, atol, limits.max_iterations
        self.limit = limits.max_iterations + (0 if keeping is None else MOST_KEPT)
        self._keeping = keeping
        if keeping is not None:
            keeping.begins()
        self._space = system.space
        self._count = self._space.sum(start.size)
        self._rounding = Rounding(system, start, solver.contraction, solver.enough)
        self._previous = math.inf
        self.rtol = solver.contraction
        self.sizes: list[float] = []

    @property
    def keeps_jacobian(self) -> bool:
        """Whether the next update should use the Jacobian of the last one."""
        return self._rounding.keeps_jacobian if self._keeping is None else not self._keeping.wants_new

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the new iterate ``x`` (1, size) is good enough; ``update`` (1, size) is its last change.

        Raises
        ------
        FloatingPointError
            If the update is not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told below
            scaled = (update / (self._rtol * np.abs(x) + self._atol)).ravel()
            square = float(scaled @ scaled)
        size = math.sqrt(self._space.sum(square) / self._count)
        self.sizes.append(size)
        previous, self._previous = self._previous, size
        keeping = self._keeping
        good = None
        if keeping is not None:
            if not math.isfinite(size):
                self._previous = math.inf  # the solve may begin again
                raise FloatingPointError
            good = keeping.judge(size, previous)
        if good is None:
            good = self._is_good(update, x, size, previous)
        if keeping is not None and good:
            keeping.has_converged()
        elif keeping is not None and len(self.sizes) - keeping.iterations >= self._exact:
            raise FloatingPointError
        return good

    def _is_good(self, update: np.ndarray, x: np.ndarray, size: float, previous: float) -> bool:
        """Whether the iterate is good enough after an update with a new Jacobian."""
        is_rounding = self._rounding.reached(update, x)  # raises where the update is not finite
        if size <= 1 or is_rounding:
            return True
        contraction = size / previous if previous < math.inf else math.inf
        return contraction < 1 and size * contraction <= 1 - contraction
