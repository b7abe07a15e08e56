"""Solving with a Jacobian that is the same at all states: one LU a shift, for all samples, both ways.

Where it is the same for all samples too, the matrix is (width, width), and all samples are right-hand sides
of one solve. A linear part has no mass matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import lapack

from stiffml.linear.dense.blocks import BlockLU, shift_
from stiffml.linear.non_finite import finite_blocks
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.library import PETSc
from stiffml.petsc.matrix import ShiftedMatrix
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import Linearization

KEPT = 20
"""Shifts whose factors are kept."""

SINGULAR = "the matrix a·M − b·∂f/∂y of a linear solve is singular"


class ConstantJacobian:
    """J, evaluated once, and factors of shift − J by shift, for forward and backward solves alike.

    Vectors are (P, samples, width), or what can be seen as such.

    Parameters
    ----------
    samples : int
    evaluate : callable
        () -> J as blocks (1 or samples, width, width): one if it is that of all samples.
    """

    def __init__(self, samples: int, evaluate: Callable[[], np.ndarray]) -> None:
        self.samples = samples
        self.blocks = evaluate()
        self.is_shared = len(self.blocks) == 1
        self._factors: dict[str, _OneLU | _BlocksLU] = {}

    def factors(self, shift: float) -> _OneLU | _BlocksLU:
        """Factors of shift − J. Solutions are NaN for samples whose matrix is singular."""
        key = f"{shift:.13e}"  # shifts that differ by rounding have the same
        if key not in self._factors:
            if len(self._factors) == KEPT:
                self._factors.clear()
            matrices = shift_(torch.from_numpy(self.blocks).clone(), shift, None, 1.0)
            self._factors[key] = _OneLU(matrices[0].numpy()) if self.is_shared else _BlocksLU(matrices)
        return self._factors[key]

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """J v, or Jᵀ v."""
        blocks = self.blocks
        if self.is_shared:
            rows = v.reshape(-1, blocks.shape[-1]) @ (blocks[0] if transpose else blocks[0].T)
        else:
            rows = v.reshape(-1, self.samples, 1, blocks.shape[-1])
            rows = rows @ (blocks if transpose else blocks.swapaxes(1, 2))
        return rows.reshape(v.shape)


class _OneLU:
    """LU factors of the matrix of all samples."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._lu, self._pivots, info = lapack.dgetrf(matrix)
        self.is_singular = info > 0
        if self.is_singular:
            self._lu = np.full_like(self._lu, np.nan)

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        # The rows of v are the columns that LAPACK wants, in its own order.
        columns = v.reshape(-1, len(self._lu)).T
        x, _ = lapack.dgetrs(self._lu, self._pivots, columns, trans=int(transpose))
        return x.T.reshape(v.shape)


class _BlocksLU:
    """LU factors of one matrix a sample."""

    def __init__(self, matrices: torch.Tensor) -> None:
        self._shape = matrices.shape[:2]
        self._lu = BlockLU(matrices)
        self.is_singular = bool(self._lu.info.any())
        self._lu.spoil_singular()

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        columns = torch.from_numpy(np.array(v)).view(-1, *self._shape).permute(1, 2, 0)
        x = self._lu.solve(columns.contiguous(), transpose)
        return x.permute(2, 0, 1).reshape(v.shape).numpy()


class ConstantBlocks(Linearization):
    """The constant J at all states. ``is_shared``: it is that of all samples."""

    def __init__(self, jacobian: ConstantJacobian) -> None:
        self._jacobian, self.is_shared = jacobian, jacobian.is_shared

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        return self._jacobian.apply(v, transpose)

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        factors = self._jacobian.factors(a / b)
        if factors.is_singular:
            raise np.linalg.LinAlgError(SINGULAR)
        return factors.solve(v, transpose) / b


class ConstantMatrix(ShiftedMatrix):
    """shift − J for the linear solves of a TS.

    Parameters
    ----------
    problem : Formulation
    jacobian_of : callable
        (evaluate) -> the ConstantJacobian of the solver, which calls ``evaluate`` unless it has one.
    """

    def __init__(
        self, problem: Formulation, jacobian_of: Callable[[Callable[[], np.ndarray]], ConstantJacobian]
    ) -> None:
        self._problem, self._jacobian_of = problem, jacobian_of
        self._jacobian: ConstantJacobian | None = None
        self._shift = self._factor = 1.0
        self.mat = PETSc.Mat().createPython((problem.size, problem.size), self, comm=PETSc.COMM_SELF)
        self.mat.setUp()

    def configure(self, ksp) -> None:
        ksp.getPC().setType(PETSc.PC.Type.PYTHON)
        ksp.getPC().setPythonContext(_ConstantPC(self))

    def fill(self, shift: float, s: float, vector: Array) -> None:
        assert isinstance(vector, np.ndarray)  # only Krylov methods share vectors
        self._jacobian = self._jacobian_of(lambda: self._evaluate(s, vector))
        self._shift, self._factor = shift, 1.0
        self.mat.assemble()

    def _evaluate(self, s: float, vector: np.ndarray) -> np.ndarray:
        blocks = self._problem.constant_blocks(s, vector)
        return finite_blocks(self, self._problem, s, vector, blocks)

    def close(self) -> None:
        self.mat.destroy()

    # What PETSc calls of a matrix of type "python".

    def mult(self, mat, x, y) -> None:
        assert self._jacobian is not None
        v = x.array_r
        y.setArray(self._factor * (self._shift * v - self._jacobian.apply(v)))

    def scale(self, mat, factor: float) -> None:
        self._factor *= factor

    def solve(self, v: np.ndarray) -> np.ndarray:
        """The exact solution, which Newton reports as a failure of the step if it is NaN."""
        assert self._jacobian is not None
        x = self._jacobian.factors(self._shift).solve(v)
        return x if self._factor == 1 else x / self._factor


class _ConstantPC:
    """The preconditioner: solves exactly."""

    def __init__(self, matrix: ConstantMatrix) -> None:
        self._matrix = matrix

    def apply(self, pc, x, y) -> None:
        y.setArray(self._matrix.solve(x.array_r))
