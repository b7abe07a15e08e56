"""Convergence test for PETSc's Newton iterations: weighted updates and observed contraction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stiffml.petsc.library import NOT_FINITE, PETSc
from stiffml.petsc.sharing import shared
from stiffml.petsc.stages import line_search_length
from stiffml.run.kept_jacobian import KeptJacobian
from stiffml.settings import NewtonLimits
from stiffml.system.space import Space

_Reason = PETSc.SNES.ConvergedReason
_ITERATING = _Reason.ITERATING

_SLOW_CONTRACTION = 0.3
"""A contraction above this is not quadratic: updates are rounding error, or far from the solution."""

_ROUNDING_FACTOR = 30
"""Updates of up to this many times the estimated rounding error count as rounding error."""

_ROUNDING_LIMIT = 1e-6
"""Updates above this fraction of the largest component are never taken for rounding error."""

_FLOOR_DECAY = 0.5
"""An estimate of the rounding error is multiplied by this at each new solve, until it is made again."""


def _no_rounding() -> np.ndarray:
    raise RuntimeError("this test has left its equations")


class SNESTest:
    """Convergence test for SNES; see :class:`stiffml.Newton` for the rule.

    PETSc's own test compares 2-norms of residuals. These mix components of all scales and depend on the step
    size. BDF starts from an extrapolated guess with a small residual, so that a tight relative tolerance may
    never be met.

    Parameters
    ----------
    limits : NewtonLimits
    space : Space
    count : float
        Number of components of the state, over all processes.
    rounding : callable
        Returns the estimated size (size,) of updates that are rounding errors of the current equations.
    shares_vectors : bool
        Whether vectors are read as torch tensors on their device. Default False.
    searches : bool
        Whether a line search may shorten updates. The test then uses the full updates. Default False.
    keeping : KeptJacobian or None
        Set if Jacobians are kept. The iterations with a kept one do not count towards the limit.

    Attributes
    ----------
    expects_jacobian : bool
        Whether a Jacobian will probably be needed where the next residual is evaluated.
    solves : int
        Number of solves that have ended.
    sizes, failed_sizes : list of float
        Weighted norms of the updates of the last solve, and of the last solve that failed.
    """

    def __init__(
        self,
        limits: NewtonLimits,
        space: Space,
        count: float,
        rounding: Callable[[], np.ndarray],
        shares_vectors: bool = False,
        searches: bool = False,
        keeping: KeptJacobian | None = None,
    ) -> None:
        self._space, self._count = space, count
        self._shares_vectors, self._searches = shares_vectors, searches
        self._rtol, self._max_iterations = limits.rtol, limits.max_iterations
        self._atol: Any = 0.0 if limits.atol is None else limits.atol
        self._rounding = rounding
        self.keeping = keeping
        self._floor: Any = None  # the last estimate of rounding error, reduced at each solve since
        self._estimated = False  # whether it was estimated in this solve
        self.solves = 0
        self._previous = math.inf
        self._needed = 1  # iterations of the previous solve
        self.expects_jacobian = True
        self.sizes: list[float] = []
        self.failed_sizes: list[float] = []

    def release(self) -> None:
        """Leave the equations: what refers to them and back would keep their vectors for long."""
        self._rounding, self._floor = _no_rounding, None

    def __call__(self, snes, iteration: int, norms: tuple[float, float, float]) -> int:
        if not math.isfinite(norms[2]):
            reason = NOT_FINITE
        elif iteration > 0:
            reason = self._judge(snes, iteration)
        else:
            self._previous, self.sizes, self._estimated = math.inf, [], False
            if self.keeping is not None:
                self.keeping.begins()
            if self._floor is not None:
                self._floor *= _FLOOR_DECAY
            reason = _Reason.CONVERGED_FNORM_ABS if norms[2] == 0 else _ITERATING
        keeping, before = self.keeping, 0
        if keeping is not None:
            before = keeping.iterations
        if reason == _ITERATING:
            self.expects_jacobian = iteration + 1 < self._needed
            if iteration - before >= self._max_iterations:
                self.solves += 1
                self.failed_sizes = self.sizes
                return _Reason.DIVERGED_MAX_IT
        else:
            self._needed, self.expects_jacobian = max(iteration, 1), True
            self.solves += 1
            if keeping is not None and reason > 0:
                keeping.has_converged()
        if keeping is not None:
            # Within a solve the Jacobian that begins it is kept, or there is one for each iterate.
            self.expects_jacobian &= keeping.is_exact if reason == _ITERATING else keeping.wants_new
        return reason

    def step_begins(self, vector: Any) -> None:
        """Set the absolute tolerance from the state at the start of a step, if the caller gave none."""
        state = shared(vector) if self._shares_vectors else vector.array_r
        # The tiny constant avoids division by zero for components that stay at zero.
        self._atol = 0.01 * self._rtol * abs(state) + 1e-250

    def _is_rounding(self, update: Any, state: Any) -> bool:
        """Whether every component of an update is at the level of rounding error; ``state`` is |u|."""
        change, every = abs(update), self._space.every
        if not every(bool(change.max() <= _ROUNDING_LIMIT * self._space.max(float(state.max())))):
            return False
        if not self._estimated:
            self._estimated = True
            self._floor = self._like(_ROUNDING_FACTOR * self._rounding(), state)
        return every(bool((change <= 1e-10 * state + self._floor).all()))

    @staticmethod
    def _like(values: np.ndarray, other: Any) -> Any:
        return torch.from_numpy(values).to(other) if isinstance(other, torch.Tensor) else values

    def _judge(self, snes, iteration: int) -> int:
        """The reason to stop according to the last update, or ``ITERATING``."""
        if self._shares_vectors:
            update, state = shared(snes.getSolutionUpdate()), abs(shared(snes.getSolution()))
            if isinstance(self._atol, np.ndarray):
                self._atol = self._like(self._atol, state)
        else:
            update, state = snes.getSolutionUpdate().array_r, abs(snes.getSolution().array_r)
        if self._searches:
            update = update / (abs(line_search_length(snes)) or 1.0)
        weights = self._rtol * state + self._atol
        scaled = update / (weights if self._floor is None else weights + self._floor)
        # A component that starts at zero has a tiny weight, so its scaled update may overflow.
        with np.errstate(over="ignore"):
            square = float(scaled @ scaled)
        if self._space.is_distributed:
            square = self._space.sum(square)
        size = math.sqrt(square / self._count)
        previous, self._previous = self._previous, size
        self.sizes.append(size)
        if self.keeping is not None:
            good = self.keeping.judge(size, previous)
            if good is not None:
                return _Reason.CONVERGED_SNORM_RELATIVE if good else _ITERATING
        if size <= 1:
            return _Reason.CONVERGED_SNORM_RELATIVE
        if iteration > 1:
            contraction = size / previous
            if contraction < 1 and size * contraction / (1 - contraction) <= 1:
                return _Reason.CONVERGED_SNORM_RELATIVE
            # Updates no longer shrink and are at the level of rounding error: nothing is left to gain.
            if not contraction <= _SLOW_CONTRACTION and self._is_rounding(update, state):
                return _Reason.CONVERGED_SNORM_RELATIVE
        return _ITERATING
