"""The matrix of PETSc's Newton iteration, whose KSP solves with products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from stiffml.linear.krylov.failures import describe_failure
from stiffml.linear.krylov.matrix_free import JacobianOf, ReleasableJacobian
from stiffml.linear.non_finite import MendedProducts
from stiffml.linear.operator import ShiftedOperator
from stiffml.linear.operator_matrix import OperatorMatrix
from stiffml.petsc.formulation import Formulation
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt
from stiffml.system.finite import is_finite


class KrylovMatrix(OperatorMatrix):
    """For a TS whose KSP is a Krylov method.

    Parameters
    ----------
    operator, problem, dynamics
        As for :class:`OperatorMatrix`.
    jacobian_of : callable
        (dynamics, s, u) -> J there.
    set_up : callable
        Sets up a KSP to solve with the operator.
    """

    def __init__(
        self,
        operator: ShiftedOperator,
        problem: Formulation,
        dynamics: Dynamics,
        jacobian_of: JacobianOf,
        set_up: Callable[[Any], None],
    ) -> None:
        super().__init__(operator, problem, dynamics)
        self._jacobian_of, self._set_up = jacobian_of, set_up
        self._ksp: Any = None

    def configure(self, ksp) -> None:
        self._set_up(ksp)
        ksp.setPostSolve(lambda ksp, b, x: self._solved(ksp, b))
        self._ksp = ksp

    def _solved(self, ksp, b) -> None:
        self._operator.took(ksp.getIterationNumber())
        failure = describe_failure(ksp)
        # Where the right-hand side is not finite func has failed, not the method.
        if failure and self._dynamics.space.every(is_finite(b.array_r)):
            self.failures += 1
            self.last_failure = failure

    def _jacobian(self, s: float, u: Array) -> JacobianAt:
        return ReleasableJacobian(lambda: self._evaluate(s, u))

    def _evaluate(self, s: float, u: Array) -> JacobianAt:
        jacobian = self._jacobian_of(self._dynamics, s, u)
        if isinstance(u, Tensor) or self._dynamics.space.is_distributed:
            return jacobian
        return MendedProducts(jacobian, self._dynamics, s, u, self._note_mended)

    def _note_mended(self) -> None:
        self.mended += 1

    def release_jacobian(self) -> None:
        if self._kept is None or not self._dynamics.is_large or self._problem.constant:
            return
        jacobian, _ = self._kept
        assert isinstance(jacobian, ReleasableJacobian)
        jacobian.release()

    @property
    def failure(self) -> str:
        return "" if self._ksp is None else describe_failure(self._ksp)

    def close(self) -> None:
        self._ksp = None
        super().close()
