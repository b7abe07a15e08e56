"""Solving by factorising a sparse Jacobian (SuperLU, with partial pivoting)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from stiffml.linear.inverse import ApproximateInverse
from stiffml.linear.non_finite import mended_values
from stiffml.linear.operator import ShiftedOperator
from stiffml.linear.operator_matrix import OperatorMatrix
from stiffml.linear.sparse.compression import LocalJacobian
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.library import PETSc
from stiffml.petsc.matrix import PETScSolver, ShiftedMatrix
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt, Linearization
from stiffml.system.finite import is_finite
from stiffml.system.mass import Mass

MOST_KEPT = 5_000_000
"""Numbers in the factors of a constant Jacobian that are kept, one set for each step size."""

SINGULAR = "the sparse matrix a·M − b·∂f/∂y of a linear solve is singular"
NOT_FINITE = "the sparse matrix a·M − b·∂f/∂y of a linear solve has infinite or NaN entries"


class SparseJacobian:
    """J at one state as a sparse matrix."""

    def __init__(self, jacobian: LocalJacobian, dynamics: Dynamics, s: float, u: np.ndarray) -> None:
        self.matrix = jacobian.matrix(dynamics, s, u)

    def mend(self, dynamics: Dynamics, s: float, u: np.ndarray) -> None:
        """Take differences for the entries that are not finite."""
        known = self.matrix.tocoo()
        entries = known.row, known.col
        values = mended_values(entries, len(u), dynamics, s, u, known.data)
        self.matrix = csr_array((values, entries), shape=known.shape)

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        return (self.matrix.T if transpose else self.matrix) @ v


class SparseLU(PETScSolver):
    """Sparse LU factors.

    Parameters
    ----------
    coloured : LocalJacobian
        How the Jacobian is evaluated.
    dynamics : Dynamics
        The right-hand side, or its implicit part.
    mass : Mass or None
    """

    def __init__(self, coloured: LocalJacobian, dynamics: Dynamics, mass: Mass | None) -> None:
        self.coloured, self.dynamics = coloured, dynamics
        self.mass_matrix = eye_array(coloured.size, format="csr") if mass is None else mass.sparse()
        self.mass = mass
        self.keeps_graphs = coloured.is_of_graph
        # Minimum degree on A + Aᵀ halves the fill of grids, but suits no pattern that is not symmetric.
        self._ordering = "MMD_AT_PLUS_A" if coloured.is_symmetric and mass is None else "COLAMD"
        self._constant: SparseJacobian | None = None
        self._factors: dict[str, SuperLU] = {}

    @property
    def description(self) -> str:
        return f"LU of the Jacobian, sparse, {self.coloured.description}"

    @property
    def numbers_per_jacobian(self) -> int:
        return 1 + 2 * len(self.coloured.rows) // self.coloured.size

    def sparse_jacobian(self, s: float, u: np.ndarray) -> csr_array | None:
        return SparseJacobian(self.coloured, self.dynamics, s, u).matrix

    def constant_jacobian(self, s: float, u: np.ndarray) -> SparseJacobian:
        """J where it is the same at all states, for forward and backward solves alike."""
        if self._constant is None:
            self._constant = SparseJacobian(self.coloured, self.dynamics, s, u)
        return self._constant

    def constant_factors(self, shift: float) -> SuperLU:
        """Factors of shift·M − J where J is constant; forward and backward solves share them."""
        assert self._constant is not None
        key = f"{shift:.13e}"  # shifts that differ by rounding have the same
        if key not in self._factors:
            if sum(factors.nnz for factors in self._factors.values()) > MOST_KEPT:
                self._factors.clear()
            self._factors[key] = self.factors(shift, 1.0, self._constant)
        return self._factors[key]

    def factors(self, a: float, b: float, jacobian: SparseJacobian) -> SuperLU:
        """Factors of a·M − b·J.

        Raises
        ------
        LinAlgError
            If it is singular, or not finite.
        """
        matrix = csc_array(a * self.mass_matrix - b * jacobian.matrix)
        if not np.isfinite(matrix.data).all():
            raise np.linalg.LinAlgError(NOT_FINITE)
        try:
            # Relaxed supernodes fill in more than their larger blocks gain.
            return splu(matrix, permc_spec=self._ordering, relax=1)
        except RuntimeError as error:
            raise np.linalg.LinAlgError(SINGULAR) from error

    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        return _SparseMatrix(self, problem)

    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> Linearization:
        return _SparseLinearization(self, s.numpy(), u.numpy(), constant)


class _ExactInverse(ApproximateInverse):
    """Factors at one state and for one shift."""

    def __init__(self, solver: SparseLU, constant: bool) -> None:
        self._solver, self._constant = solver, constant
        self._lu: SuperLU | None = None
        self._for: tuple[JacobianAt, float] | None = None

    def renew(self, s: float, u: np.ndarray, shift: float, jacobian: JacobianAt) -> None:
        if self._for is not None and self._for[0] is jacobian and self._for[1] == shift:
            return
        assert isinstance(jacobian, SparseJacobian)
        self._lu = None  # frees its memory before more is taken
        self._for = jacobian, shift
        try:
            solver = self._solver
            self._lu = (
                solver.constant_factors(shift) if self._constant else solver.factors(shift, 1.0, jacobian)
            )
        except np.linalg.LinAlgError:
            self._lu = None

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        if self._lu is None or not np.isfinite(v).all():
            return np.full(v.shape, np.nan)  # which Newton reports as a failure of the step
        return self._lu.solve(np.array(v), trans="T" if transpose else "N")

    def close(self) -> None:
        self._lu = self._for = None


class _SparseMatrix(OperatorMatrix):
    """For the Newton iteration of a TS, whose KSP only applies the factors."""

    can_keep = True

    def __init__(self, solver: SparseLU, problem: Formulation) -> None:
        inverse, with_time = _ExactInverse(solver, problem.constant), problem.time_is_state
        layout, mass = solver.dynamics.layout, solver.mass
        operator = ShiftedOperator(layout, mass, inverse, None, with_time, always=True)
        super().__init__(operator, problem, solver.dynamics)
        self._solver = solver

    def configure(self, ksp) -> None:
        ksp.setType(PETSc.KSP.Type.PREONLY)
        self._operator.configure(ksp)

    def _jacobian(self, s: float, u: Array) -> JacobianAt:
        assert isinstance(u, np.ndarray)
        solver = self._solver
        if self._problem.constant:
            jacobian = solver.constant_jacobian(s, u)
        else:
            jacobian = SparseJacobian(solver.coloured, solver.dynamics, s, u)
        if not is_finite(jacobian.matrix.data):
            self.mended += 1
            jacobian.mend(solver.dynamics, s, u)
        return jacobian


class _SparseLinearization(Linearization):
    """J at K states as sparse matrices. The last factors are kept; of a constant J those for all shifts."""

    def __init__(self, solver: SparseLU, s: np.ndarray, u: np.ndarray, constant: bool) -> None:
        self._solver, self._s, self._u, self._constant = solver, s, u, constant
        self._jacobians: dict[int, SparseJacobian] = {}
        self._for: tuple[int, float, float] | None = None
        self._factors: SuperLU | None = None

    def _at(self, k: int) -> SparseJacobian:
        solver, s, u = self._solver, float(self._s[k]), self._u[k]
        if self._constant:
            return solver.constant_jacobian(s, u)
        if k not in self._jacobians:
            self._jacobians[k] = SparseJacobian(solver.coloured, solver.dynamics, s, u)
        return self._jacobians[k]

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        return self._at(k).apply(v.T, transpose).T

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        trans, rows = "T" if transpose else "N", np.ascontiguousarray(v.T)
        if self._constant:
            self._at(k)
            return self._solver.constant_factors(a / b).solve(rows, trans).T / b
        return self._factorised(k, a, b).solve(rows, trans).T

    def _factorised(self, k: int, a: float, b: float) -> SuperLU:
        if self._factors is None or self._for != (k, a, b):  # the stages of a step may share one matrix
            self._factors = None  # frees its memory before more is taken
            self._factors, self._for = self._solver.factors(a, b, self._at(k)), (k, a, b)
        return self._factors
