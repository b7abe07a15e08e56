"""shift·M − J for PETSc's Newton iteration: one dense matrix, or one dense block a sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.linalg import lapack

from stiffml.compiled.factors import WIDEST, Factors, has_factors
from stiffml.linear.dense.blocks import BlockLU, shift_
from stiffml.linear.non_finite import finite_blocks
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.library import PETSc
from stiffml.petsc.matrix import ShiftedMatrix
from stiffml.system.derivatives.graph import Array

_SLOPE_SHIFT = 1e15
"""Above this, PETSc is solving for the slope at the start, and scales the matrix afterwards."""


def _in_c(problem: Formulation) -> bool:
    """Whether the factors are those of runs in C, so that watching a run from Python does not change it."""
    return problem.width <= WIDEST and has_factors()


class DenseMatrix(ShiftedMatrix):
    """shift·M − J as dense blocks. With the same J it is factorised only when the shift changes."""

    can_keep = True

    def __init__(self, problem: Formulation) -> None:
        self._problem = problem
        self._mass, self._constant = problem.mass, problem.constant
        self._blocks: np.ndarray | None = None
        self._shift = np.nan

    @abstractmethod
    def _release(self) -> None:
        """Free the factors, to make room for the next Jacobian."""

    @abstractmethod
    def _set(self, shift: float, jacobian: np.ndarray) -> None:
        """Take a shift and J, (samples, width, width), which may be overwritten."""

    def close(self) -> None:
        self.mat.destroy()

    def fill(self, shift: float, s: float, vector: Array) -> None:
        assert isinstance(vector, np.ndarray)  # only Krylov methods share vectors
        if self._constant and self._blocks is not None:
            return self.follow(shift)
        self._release()
        self._blocks = None  # frees its memory before more is taken
        blocks = self._evaluate(s, vector)
        if self.keeps or self._constant:
            self._blocks = blocks.copy()
        self._shift = shift
        self._set(shift, blocks)

    def follow(self, shift: float) -> None:
        if shift == self._shift and shift < _SLOPE_SHIFT:
            return
        assert self._blocks is not None
        self._shift = shift
        self._release()
        self._set(shift, self._blocks.copy())

    def _evaluate(self, s: float, vector: np.ndarray) -> np.ndarray:
        blocks = self._problem.jacobian(s, vector)
        return finite_blocks(self, self._problem, s, vector, blocks)


def dense_matrix(problem: Formulation) -> DenseMatrix:
    """One dense matrix, or one dense block a sample."""
    return _SingleMatrix(problem) if problem.samples == 1 else _BlockMatrix(problem)


class _SingleMatrix(DenseMatrix):
    """A PETSc dense matrix, factorised by LAPACK: PETSc's own LU ends the run where it is singular."""

    def __init__(self, problem: Formulation) -> None:
        super().__init__(problem)
        self._eye = np.eye(problem.width)
        self.mat = PETSc.Mat().createDense((problem.width, problem.width), comm=PETSc.COMM_SELF)
        self.mat.setUp()

    def configure(self, ksp) -> None:
        pc = ksp.getPC()
        if " pc_factor_" in " ".join(["", *PETSc.Options(pc.getOptionsPrefix()).getAll()]):
            pc.setType(PETSc.PC.Type.LU)  # options that only PETSc's own factors have
            return
        pc.setType(PETSc.PC.Type.PYTHON)
        pc.setPythonContext(
            _PCInC(partial(_by_rows, self.mat)) if _in_c(self._problem) else _SinglePC(self.mat)
        )

    def _release(self) -> None:
        pass  # the matrix is filled in the same place again

    def _set(self, shift: float, jacobian: np.ndarray) -> None:
        mass = self._eye if self._mass is None else self._mass[0]
        np.subtract(shift * mass, jacobian[0], out=self.mat.getDenseArray())
        self.mat.assemble()


class _SinglePC:
    """The preconditioner: solves with the factors of one matrix."""

    def __init__(self, matrix) -> None:
        self._matrix = matrix

    def setUp(self, pc) -> None:
        self._lu, self._pivots, info = lapack.dgetrf(self._matrix.getDenseArray(readonly=True))
        if info > 0:
            self._lu = np.full_like(self._lu, np.nan)  # Newton reports it as a failure of the step

    def apply(self, pc, x, y) -> None:
        y.array_w[:] = lapack.dgetrs(self._lu, self._pivots, x.array_r)[0]


class _PCInC:
    """The same with factors by C, of one matrix or of the blocks of all samples.

    ``blocks``: returns a copy (count, w, w) of them, stored by rows.
    """

    def __init__(self, blocks: Callable[[], np.ndarray]) -> None:
        self._blocks = blocks
        self._factors: Factors | None = None

    def release(self) -> None:
        """Free the factors."""
        self._factors = None

    def setUp(self, pc) -> None:
        self._factors = Factors(self._blocks())

    def apply(self, pc, x, y) -> None:
        assert self._factors is not None
        solution = x.array_r.copy()
        self._factors.solve(solution)
        y.setArray(solution)


def _by_rows(matrix) -> np.ndarray:
    """(1, w, w) a copy of a PETSc dense matrix."""
    return np.array(matrix.getDenseArray(readonly=True), order="C")[None]


class _BlockMatrix(DenseMatrix):
    """A shell matrix and the preconditioner that solves with it exactly, all samples in one call."""

    def __init__(self, problem: Formulation) -> None:
        super().__init__(problem)
        self._operator = _BlockOperator(problem.samples, problem.width)
        self._pc = _PCInC(self._operator.by_rows) if _in_c(problem) else _BlockPC(self._operator)
        size = (problem.size, problem.size)
        self.mat = PETSc.Mat().createPython(size, self._operator, comm=PETSc.COMM_SELF)
        self.mat.setUp()

    def configure(self, ksp) -> None:
        ksp.getPC().setType(PETSc.PC.Type.PYTHON)
        ksp.getPC().setPythonContext(self._pc)

    def options_are_set(self, ksp) -> None:
        self._operator.is_multiplied_with = ksp.getType() != PETSc.KSP.Type.PREONLY

    def _release(self) -> None:
        self._operator.blocks = None
        self._pc.release()

    def _set(self, shift: float, jacobian: np.ndarray) -> None:
        self._operator.blocks = shift_(torch.from_numpy(jacobian), shift, self._mass, 1.0)
        self.mat.assemble()


class _BlockOperator:
    """The blocks, until their factors replace them.

    ``is_multiplied_with``: products with the matrix will be asked for too, so that it must be kept.
    """

    def __init__(self, samples: int, width: int) -> None:
        self.shape = (samples, width, 1)
        self.blocks: torch.Tensor | None = None
        self.is_multiplied_with = True

    def to_be_factorised(self) -> torch.Tensor:
        """The blocks, or a copy of them, for factors to overwrite."""
        blocks = self.blocks
        assert blocks is not None
        if self.is_multiplied_with:
            return blocks.mT.clone(memory_format=torch.contiguous_format).mT
        self.blocks = None
        return blocks

    def by_rows(self) -> np.ndarray:
        """The same, stored by rows."""
        return self.to_be_factorised().contiguous().numpy()

    def mult(self, mat, x, y) -> None:
        assert self.blocks is not None
        product = self.blocks @ torch.from_numpy(x.array_r.copy()).view(self.shape)
        y.setArray(product.numpy().ravel())

    def scale(self, mat, factor: float) -> None:
        assert self.blocks is not None
        self.blocks *= factor


class _BlockPC:
    """The preconditioner: solves with the factors of all blocks."""

    def __init__(self, operator: _BlockOperator) -> None:
        self._operator = operator
        self._lu: BlockLU | None = None

    def release(self) -> None:
        """Free the factors."""
        self._lu = None

    def setUp(self, pc) -> None:
        self._lu = BlockLU(self._operator.to_be_factorised())
        self._lu.spoil_singular()  # Newton reports it as a failure of the step

    def apply(self, pc, x, y) -> None:
        assert self._lu is not None
        rhs = torch.from_numpy(x.array_r.copy()).view(self._operator.shape)
        y.setArray(self._lu.solve(rhs).numpy().ravel())
