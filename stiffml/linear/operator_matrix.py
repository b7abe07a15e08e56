"""The matrix of PETSc's Newton iteration as an operator, for sparse factors and Krylov methods."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from torch import Tensor

from stiffml.linear.operator import ShiftedOperator
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.matrix import ShiftedMatrix
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt


class OperatorMatrix(ShiftedMatrix):
    """shift·M − J as an operator that takes a new Jacobian at each state, or keeps a constant one.

    Parameters
    ----------
    operator : ShiftedOperator
    problem : Formulation
    dynamics : Dynamics
        The right-hand side, or its implicit part.
    """

    def __init__(self, operator: ShiftedOperator, problem: Formulation, dynamics: Dynamics) -> None:
        self._operator, self._problem, self._dynamics = operator, problem, dynamics
        self.mat = operator.mat
        self._kept: tuple[JacobianAt, np.ndarray | None] | None = None
        self._at: tuple[float, Array] = 0.0, np.empty(0)

    @abstractmethod
    def _jacobian(self, s: float, u: Array) -> JacobianAt:
        """J at a state, with differences where it is not finite."""

    def fill(self, shift: float, s: float, vector: Array) -> None:
        problem = self._problem
        time, u = (s, self._dynamics.copied(vector)) if isinstance(vector, Tensor) else problem.at(s, vector)
        if self._kept is None or not problem.constant:
            self._operator.release_jacobian()
            self._kept = None
            wrt_time = None
            if problem.time_is_state:
                assert isinstance(u, np.ndarray)
                wrt_time = problem.wrt_time(time, u)
            self._kept = self._jacobian(time, u), wrt_time
        if self.keeps:
            self._at = time, u
        self._operator.set(shift, 1.0, time, u, *self._kept)

    def follow(self, shift: float) -> None:
        assert self._kept is not None
        self._operator.set(shift, 1.0, *self._at, *self._kept)

    def close(self) -> None:
        self._kept = None
        self._operator.close()
