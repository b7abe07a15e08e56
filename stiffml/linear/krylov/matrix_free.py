"""The Jacobian at one state as a graph to take products from, and one whose memory can be freed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Array, Graph
from stiffml.system.derivatives.linearization import JacobianAt, TensorJacobianAt

JacobianOf = Callable[[Dynamics, float, Array], JacobianAt]
"""(dynamics, s, u) -> J there."""


class MatrixFree:
    """J as the graph of f. At its first state J v and Jᵀw are checked against each other."""

    def __init__(self) -> None:
        self._tried = False

    def __call__(self, dynamics: Dynamics, s: float, u: Array) -> Graph:
        graph = dynamics.graph(s, u)
        if not self._tried:
            graph.require_adjoint(dynamics.space)
            self._tried = True
        return graph


class ReleasableJacobian:
    """J at one state, which is evaluated again if it is needed after its release."""

    def __init__(self, evaluate: Callable[[], JacobianAt]) -> None:
        self._evaluate = evaluate
        self._jacobian: JacobianAt | None = evaluate()

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        if self._jacobian is None:
            self._jacobian = self._evaluate()
        return self._jacobian.apply(v, transpose)

    def product(self, v: Tensor, transpose: bool = False) -> Tensor:
        if self._jacobian is None:
            self._jacobian = self._evaluate()
        assert isinstance(self._jacobian, TensorJacobianAt)
        return self._jacobian.product(v, transpose)

    def release(self) -> None:
        """Free it."""
        self._jacobian = None
