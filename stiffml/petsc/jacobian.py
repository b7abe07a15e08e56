"""The matrix shift·I − J that PETSc factorises: one dense matrix, or one dense block a sample."""

from __future__ import annotations

import numpy as np
import torch

from stiffml.petsc.library import PETSc


class DenseMatrix:
    """A PETSc dense matrix, factorised by LAPACK inside PETSc."""

    def __init__(self, width: int) -> None:
        self.mat = PETSc.Mat().createDense((width, width), comm=PETSc.COMM_SELF)
        self.mat.setUp()
        self._diagonal = np.arange(width)

    def configure(self, pc) -> None:
        pc.setType(PETSc.PC.Type.LU)

    def fill(self, shift: float, blocks: np.ndarray) -> None:
        values = self.mat.getDenseArray()
        np.negative(blocks[0], out=values)
        values[self._diagonal, self._diagonal] += shift
        self.mat.assemble()


class BlockMatrix:
    """A shell matrix and the preconditioner that solves with it exactly, all samples in one call."""

    def __init__(self, samples: int, width: int) -> None:
        size = samples * width
        self._operator = _BlockOperator(samples, width)
        self.mat = PETSc.Mat().createPython((size, size), self._operator, comm=PETSc.COMM_SELF)
        self.mat.setUp()
        self._eye = np.eye(width)

    def configure(self, pc) -> None:
        pc.setType(PETSc.PC.Type.PYTHON)
        pc.setPythonContext(_BlockSolver(self._operator))

    def fill(self, shift: float, blocks: np.ndarray) -> None:
        self._operator.blocks = torch.from_numpy(shift * self._eye - blocks)
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
