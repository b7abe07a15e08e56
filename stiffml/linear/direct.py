"""Solving by factorising a sparse Jacobian (SuperLU, with partial pivoting)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from stiffml.linear.approximate import Approximate
from stiffml.linear.jacobians import Coloured
from stiffml.linear.shell import Shell
from stiffml.linear.solver import LinearSolver, ShiftedMatrix
from stiffml.petsc.library import PETSc
from stiffml.system.dynamics import Dynamics
from stiffml.system.linearization import JacobianAt, Linearization
from stiffml.system.mass import Mass

if TYPE_CHECKING:
    from stiffml.petsc.formulation import Formulation

SINGULAR = "the sparse matrix a·M − b·∂f/∂y of a linear solve is singular"
NOT_FINITE = "the sparse matrix a·M − b·∂f/∂y of a linear solve has infinite or NaN entries"


class SparseJacobian:
    """J at one state as a sparse matrix."""

    def __init__(self, coloured: Coloured, dynamics: Dynamics, s: float, u: np.ndarray) -> None:
        values = coloured.values(dynamics, s, u)
        self.matrix = csr_array(
            (values, (coloured.rows, coloured.columns)), shape=(coloured.size, coloured.size)
        )

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        return (self.matrix.T if transpose else self.matrix) @ v


class SparseLU(LinearSolver):
    """Sparse LU factors.

    Parameters
    ----------
    coloured : Coloured
    mass : Mass or None
    """

    def __init__(self, coloured: Coloured, dynamics: Dynamics, mass: Mass | None) -> None:
        self.coloured, self.dynamics = coloured, dynamics
        self.mass_matrix = eye_array(coloured.size, format="csr") if mass is None else mass.sparse()
        self.mass = mass

    @property
    def description(self) -> str:
        entries, products = len(self.coloured.rows), self.coloured.products
        return f"LU of the Jacobian, sparse, {entries} entries from {products} products"

    @property
    def numbers_per_jacobian(self) -> int:
        return 1 + 2 * len(self.coloured.rows) // self.coloured.size

    def sparse_jacobian(self, s: float, u: np.ndarray) -> csr_array | None:
        return SparseJacobian(self.coloured, self.dynamics, s, u).matrix

    def factors(self, a: float, b: float, jacobian: SparseJacobian) -> SuperLU:
        """Of a·M − b·J.

        Raises
        ------
        LinAlgError
            If it is singular, or not finite.
        """
        matrix = csc_array(a * self.mass_matrix - b * jacobian.matrix)
        if not np.isfinite(matrix.data).all():
            raise np.linalg.LinAlgError(NOT_FINITE)
        try:
            return splu(matrix)
        except RuntimeError as error:
            raise np.linalg.LinAlgError(SINGULAR) from error

    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        return _DirectMatrix(self, problem)

    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> Linearization:
        return _DirectLinearization(self, s.numpy(), u.numpy(), constant)


class _Inverse(Approximate):
    """Exact, for the state and the shift it was made for."""

    def __init__(self, solver: SparseLU) -> None:
        self._solver = solver
        self._lu: SuperLU | None = None
        self._for: tuple[JacobianAt, float] | None = None

    def renew(self, s: float, u: np.ndarray, shift: float, jacobian: JacobianAt) -> None:
        if self._for is not None and self._for[0] is jacobian and self._for[1] == shift:
            return
        assert isinstance(jacobian, SparseJacobian)
        self._lu = None  # gives its memory back first
        self._for = jacobian, shift
        try:
            self._lu = self._solver.factors(shift, 1.0, jacobian)
        except np.linalg.LinAlgError:
            self._lu = None

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        if self._lu is None or not np.isfinite(v).all():
            return np.full(v.shape, np.nan)  # which Newton reports as a failure of the step
        return self._lu.solve(np.array(v), trans="T" if transpose else "N")

    def destroy(self) -> None:
        self._lu = self._for = None


class _DirectMatrix(ShiftedMatrix):
    """For the Newton iteration of a TS."""

    def __init__(self, solver: SparseLU, problem: Formulation) -> None:
        self._solver, self._problem = solver, problem
        self._inverse = _Inverse(solver)
        self._shell = Shell(
            solver.dynamics.layout, solver.mass, self._inverse, None, problem.time_is_state, always=True
        )
        self.mat = self._shell.mat
        self._kept: tuple[SparseJacobian, np.ndarray | None] | None = None

    def configure(self, ksp) -> None:
        ksp.setType(PETSc.KSP.Type.PREONLY)
        self._shell.configure(ksp)

    def options_are_set(self, ksp) -> None:
        pass

    def fill(self, shift: float, s: float, vector: np.ndarray) -> None:
        problem, dynamics = self._problem, self._solver.dynamics
        time, u = problem.at(s, vector)
        if not problem.constant or self._kept is None:
            jacobian = SparseJacobian(self._solver.coloured, dynamics, time, u)
            self._kept = jacobian, problem.wrt_time(time, u) if problem.time_is_state else None
        self._shell.set(shift, 1.0, time, u, *self._kept)

    def destroy(self) -> None:
        self._kept = None
        self._shell.destroy()


class _DirectLinearization(Linearization):
    """J at K states, as sparse matrices; the factors last used are kept."""

    def __init__(self, solver: SparseLU, s: np.ndarray, u: np.ndarray, constant: bool) -> None:
        self._solver, self._s, self._u, self._constant = solver, s, u, constant
        self._jacobians: dict[int, SparseJacobian] = {}
        self._factors: dict[tuple[int, float, float], SuperLU] = {}

    def _at(self, k: int) -> SparseJacobian:
        k = 0 if self._constant else k
        if k not in self._jacobians:
            solver = self._solver
            self._jacobians[k] = SparseJacobian(
                solver.coloured, solver.dynamics, float(self._s[k]), self._u[k]
            )
        return self._jacobians[k]

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        return self._at(k).apply(v.T, transpose).T

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        key = (0 if self._constant else k, a, b)
        factors = self._factors.get(key)
        if factors is None:
            # The stages of a step share one matrix; a constant Jacobian has one for each step size.
            if not self._constant or len(self._factors) > 20:
                self._factors.clear()
            factors = self._factors[key] = self._solver.factors(a, b, self._at(k))
        return factors.solve(np.ascontiguousarray(v.T), trans="T" if transpose else "N").T
