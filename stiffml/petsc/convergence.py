"""When PETSc's Newton iteration stops: a test on the weighted update, with the contraction seen."""

from __future__ import annotations

import math
from typing import Any

from stiffml.petsc.library import PETSc
from stiffml.petsc.sharing import shared
from stiffml.system.space import Space

_Reason = PETSc.SNES.ConvergedReason


class NewtonTest:
    """SNES convergence test; see :class:`stiffml.Newton` for the rule.

    PETSc's own test compares 2-norms of the residual, which mixes components of all scales and
    depends on the step size; with BDF's extrapolated guess a tight relative tolerance can then not
    be met at all.
    """

    def __init__(
        self,
        rtol: float,
        atol: float,
        max_iterations: int,
        space: Space,
        count: float,
        shares_vectors: bool = False,
    ) -> None:
        self._space, self._count = space, count  # numbers in a whole state
        self._shares_vectors = shares_vectors
        self._rtol, self._atol, self._max_iterations = rtol, atol, max_iterations
        self.solves = 0  # that have ended
        self._previous = math.inf
        self._needed = 1  # iterations of the solve before
        self._iteration = 0  # of the next residual evaluation
        self.sizes: list[float] = []  # of the updates of the last solve
        self.failed_sizes: list[float] = []  # of the last one that did not converge

    @property
    def expects_jacobian(self) -> bool:
        """Whether the residual evaluated next will probably be followed by a Jacobian there."""
        return self._iteration < self._needed

    def __call__(self, snes, iteration: int, norms: tuple[float, float, float]) -> int:
        reason = self._judge(snes, iteration, norms)
        if reason == _Reason.ITERATING:
            self._iteration = iteration + 1
        else:
            self._iteration, self._needed = 0, max(iteration, 1)
        if reason != _Reason.ITERATING or iteration >= self._max_iterations:
            self.solves += 1
        if reason == _Reason.ITERATING and iteration >= self._max_iterations:
            self.failed_sizes = self.sizes
        return reason

    def _read(self, vector: Any) -> Any:
        return shared(vector) if self._shares_vectors else vector.array_r

    def _is_rounding(self, update: Any, state: Any) -> bool:
        floor = 1e-10 * (state + 1e-8 * self._space.max(float(state.max())))
        return self._space.every(bool((abs(update) <= floor).all()))

    def _judge(self, snes, iteration: int, norms: tuple[float, float, float]) -> int:
        residual_norm = norms[2]
        if not math.isfinite(residual_norm):
            return _Reason.DIVERGED_FUNCTION_NANORINF
        if iteration == 0:
            self._previous = math.inf
            self.sizes = []
            return _Reason.CONVERGED_FNORM_ABS if residual_norm == 0 else _Reason.ITERATING
        update, state = self._read(snes.getSolutionUpdate()), abs(self._read(snes.getSolution()))
        scaled = update / (self._rtol * state + self._atol)
        size = math.sqrt(self._space.sum(float(scaled @ scaled)) / self._count)
        previous, self._previous = self._previous, size
        self.sizes.append(size)
        if size <= 1:
            return _Reason.CONVERGED_SNORM_RELATIVE
        if iteration > 1:
            contraction = size / previous
            if contraction < 1 and size * contraction / (1 - contraction) <= 1:
                return _Reason.CONVERGED_SNORM_RELATIVE
            # Updates that no longer shrink and are at the level of rounding: nothing is left to gain.
            if contraction > 0.3 and self._is_rounding(update, state):
                return _Reason.CONVERGED_SNORM_RELATIVE
        return _Reason.ITERATING
