"""The matrix shift·M − J that PETSc factorises: one dense matrix, or one dense block a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stiffml.petsc.library import PETSc
from stiffml.system import System


class ShiftedMatrix(ABC):
    """shift·M − J as a PETSc matrix with its solver.

    With a constant J the matrix is filled, and so factorised, only when the shift changes.
    """

    def __init__(self, system: System) -> None:
        width = system.layout.width
        self._mass = np.eye(width)[None] if system.mass is None else system.mass.blocks
        self._constant = system.linear
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
            if shift == self._shift:
                return
            if self._blocks is None:
                self._blocks = jacobian()
        self._shift = shift
        self._set(shift * self._mass - (self._blocks if self._blocks is not None else jacobian()))


def matrix_for(system: System) -> ShiftedMatrix:
    return _Dense(system) if system.layout.samples == 1 else _Blocks(system)


class _Dense(ShiftedMatrix):
    """A PETSc dense matrix, factorised by LAPACK inside PETSc."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        width = system.layout.width
        self.mat = PETSc.Mat().createDense((width, width), comm=PETSc.COMM_SELF)
        self.mat.setUp()

    def configure(self, pc) -> None:
        pc.setType(PETSc.PC.Type.LU)

    def _set(self, blocks: np.ndarray) -> None:
        self.mat.getDenseArray()[:] = blocks[0]
        self.mat.assemble()


class _Blocks(ShiftedMatrix):
    """A shell matrix and the preconditioner that solves with it exactly, all samples in one call."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        layout = system.layout
        self._operator = _BlockOperator(layout.samples, layout.width)
        self.mat = PETSc.Mat().createPython((layout.size, layout.size), self._operator, comm=PETSc.COMM_SELF)
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


class _BlockSolver:
    def __init__(self, operator: _BlockOperator) -> None:
        self._operator = operator

    def setUp(self, pc) -> None:
        # A singular block yields inf or nan, which Newton reports as a failure of the step.
        self._factors, self._pivots, _ = torch.linalg.lu_factor_ex(self._operator.blocks)

    def apply(self, pc, x, y) -> None:
        rhs = torch.from_numpy(x.array_r.copy()).view(self._operator.shape)
        y.setArray(torch.linalg.lu_solve(self._factors, self._pivots, rhs).numpy().ravel())
