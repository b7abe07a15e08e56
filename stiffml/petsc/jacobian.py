"""The matrix shift·M − J that PETSc factorises: one dense matrix, or one dense block a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stiffml.petsc.formulation import Formulation
from stiffml.petsc.library import PETSc

_START = 1e15
"""A shift above this marks the solve for the slope at the start; PETSc scales that matrix afterwards."""


class ShiftedMatrix(ABC):
    """shift·M − J as a PETSc matrix with its solver.

    With a constant J the matrix is filled, and so factorised, only when the shift changes.
    """

    def __init__(self, problem: Formulation) -> None:
        self._mass, self._constant = problem.mass, problem.constant
        self._blocks: np.ndarray | None = None
        self._shift = np.nan

    mat: Any
    """The PETSc matrix."""

    @abstractmethod
    def configure(self, pc) -> None:
        """Make the preconditioner an exact solver."""

    @abstractmethod
    def _set(self, blocks: np.ndarray) -> None:
        """Take new values, (samples, width, width)."""

    def fill(self, shift: float, jacobian: Callable[[], np.ndarray]) -> None:
        """``jacobian()`` is (samples, width, width)."""
        if self._constant:
            if shift == self._shift and shift < _START:
                return
            if self._blocks is None:
                self._blocks = jacobian()
        self._shift = shift
        self._set(shift * self._mass - (self._blocks if self._blocks is not None else jacobian()))


def matrix_for(problem: Formulation) -> ShiftedMatrix:
    return _Dense(problem) if problem.samples == 1 else _Blocks(problem)


class _Dense(ShiftedMatrix):
    """A PETSc dense matrix, factorised by LAPACK inside PETSc."""

    def __init__(self, problem: Formulation) -> None:
        super().__init__(problem)
        self.mat = PETSc.Mat().createDense((problem.width, problem.width), comm=PETSc.COMM_SELF)
        self.mat.setUp()

    def configure(self, pc) -> None:
        pc.setType(PETSc.PC.Type.LU)

    def _set(self, blocks: np.ndarray) -> None:
        self.mat.getDenseArray()[:] = blocks[0]
        self.mat.assemble()


class _Blocks(ShiftedMatrix):
    """A shell matrix and the preconditioner that solves with it exactly, all samples in one call."""

    def __init__(self, problem: Formulation) -> None:
        super().__init__(problem)
        self._operator = _BlockOperator(problem.samples, problem.width)
        size = (problem.size, problem.size)
        self.mat = PETSc.Mat().createPython(size, self._operator, comm=PETSc.COMM_SELF)
        self.mat.setUp()

    def configure(self, pc) -> None:
        pc.setType(PETSc.PC.Type.PYTHON)
        pc.setPythonContext(_BlockSolver(self._operator))

    def _set(self, blocks: np.ndarray) -> None:
        self._operator.blocks = torch.from_numpy(blocks)
        self.mat.assemble()


class _BlockOperator:
    def __init__(self, samples: int, width: int) -> None:
        self.shape = (samples, width, 1)
        self.blocks = torch.empty(samples, width, width)

    def mult(self, mat, x, y) -> None:
        product = self.blocks @ torch.from_numpy(x.array_r.copy()).view(self.shape)
        y.setArray(product.numpy().ravel())

    def scale(self, mat, factor: float) -> None:
        self.blocks = self.blocks * factor


class _BlockSolver:
    def __init__(self, operator: _BlockOperator) -> None:
        self._operator = operator

    def setUp(self, pc) -> None:
        # A singular block yields inf or nan, which Newton reports as a failure of the step.
        self._factors, self._pivots, _ = torch.linalg.lu_factor_ex(self._operator.blocks)

    def apply(self, pc, x, y) -> None:
        rhs = torch.from_numpy(x.array_r.copy()).view(self._operator.shape)
        y.setArray(torch.linalg.lu_solve(self._factors, self._pivots, rhs).numpy().ravel())
