"""Consistent initial values of differential-algebraic problems: check and correction."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse import csc_array, diags_array
from scipy.sparse.linalg import splu

from stiffml.native.rounding import MAX_ITERATIONS, Rounding
from stiffml.settings import Tolerances
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System

MAX_DENSE = 2048
"""States with at most this many components a sample use a dense matrix for the algebraic equations."""

NOT_INDEX_1 = (
    "mass: the algebraic equations do not determine {what} at the start (their Jacobian is singular), so the "
    "problem is not of index 1 but of a higher index, unless y0 is a singular point. Differentiate {which} "
    "with respect to time, once for index 2 and twice for index 3, until it has that variable; or check y0"
)


class InconsistentError(ValueError):
    """No values of the algebraic variables were found that satisfy the algebraic equations."""


class Constraints:
    """The algebraic equations P f(s, u) = 0 of a system with a singular mass matrix M.

    P projects on the left null space of M. For problems of index 1, K = P ∂f/∂u + M is regular. Newton
    steps with K change the algebraic variables only.

    Parameters
    ----------
    system : System
    s : float
        The initial time, in solver time.
    solver : LinearSolver
        The linear solver of the method; for large systems it supplies the sparse Jacobian.
    """

    def __init__(self, system: System, s: float, solver: LinearSolver) -> None:
        assert system.mass is not None
        self.system, self.s, self._solver = system, s, solver
        self._mass = system.mass
        self._is_large = system.layout.width > MAX_DENSE

    def residual(self, u: np.ndarray) -> np.ndarray:
        """P f (size,) at the state ``u`` (size,)."""
        return self.project(self.system.f.evaluate(self.s, u))

    def project(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """P v or Pᵀ v for a vector (size,)."""
        layout = self.system.layout
        if self._mass.diagonal:
            return (self._mass.algebraic * v.reshape(layout.samples, layout.width)).reshape(-1)
        blocks = self._left.swapaxes(-1, -2) if transpose else self._left
        return (blocks @ v.reshape(layout.samples, layout.width, 1)).reshape(-1)

    @cached_property
    def _left(self) -> np.ndarray:
        return self._mass.constraints()[0]

    def solve(self, u: np.ndarray, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """The solution x (size,) of K x = v or Kᵀ x = v, with K at the state ``u`` (size,).

        Raises
        ------
        ValueError
            If K is singular: the problem has a higher index, or its equations contradict each other.
        """
        layout = self.system.layout
        if self._is_large:
            return self._solve_large(u, v, transpose)
        matrix = self._left @ self.system.f.jacobian_at(self.s, u) + self._mass.blocks
        # Singularity is tested by singular values of the scaled rows: by rounding, LU often does not fail.
        rows = np.abs(matrix).max(axis=-1, keepdims=True)
        scaled = matrix / np.where(rows > 0, rows, 1)
        smallest = np.linalg.svd(scaled, compute_uv=False).min(axis=-1)
        if not smallest.min() > 1e-13:
            raise InconsistentError(self._not_index_1(scaled, int(smallest.argmin())))
        if transpose:
            matrix = matrix.swapaxes(-1, -2)
        return np.linalg.solve(matrix, v.reshape(layout.samples, layout.width, 1)).reshape(-1)

    def _not_index_1(self, scaled: np.ndarray, sample: int) -> str:
        """The message for a singular K: what is not determined, and by which equation, by null vectors."""
        left, _, right = np.linalg.svd(scaled[sample if len(scaled) > 1 else 0])
        layout, projector = self.system.layout, self._left[sample if len(self._left) > 1 else 0]
        worst = [int(np.abs(v).argmax()) for v in (right[-1], projector.T @ left[:, -1])]
        variable, equation = (list(layout.component(sample * layout.width + i)) for i in worst)
        return NOT_INDEX_1.format(what=f"component {variable} of y", which=f"equation {equation}")

    def _solve_large(self, u: np.ndarray, v: np.ndarray, transpose: bool) -> np.ndarray:
        jacobian = self._solver.sparse_jacobian(self.s, u)
        if jacobian is None or not self._mass.diagonal:
            raise ValueError(
                f"mass: with a singular one, states of more than {MAX_DENSE} components need a diagonal mass "
                "and linear=LU() with jacobian='coloured' or Sparsity(pattern)"
            )
        layout = self.system.layout
        algebraic = np.broadcast_to(self._mass.algebraic, (layout.samples, layout.width)).ravel()
        matrix = csc_array(diags_array(algebraic.astype(float)) @ jacobian + self._mass.sparse())
        try:
            return splu(matrix).solve(v, trans="T" if transpose else "N")
        except RuntimeError as error:
            message = NOT_INDEX_1.format(what="all algebraic variables", which="the constraint")
            raise InconsistentError(message) from error

    def check(self, u: np.ndarray, tolerances: Tolerances) -> None:
        """Raise ValueError unless ``u`` (size,) satisfies the algebraic equations within the tolerances."""
        residual = self.residual(u)
        correction = np.abs(self.solve(u, residual))
        scaled = correction / (tolerances.atol + tolerances.rtol * np.abs(u))
        worst = int(np.argmax(scaled))
        if not scaled[worst] <= 1:
            where = self.system.layout.component(worst)
            raise ValueError(
                f"y0 is not consistent: the algebraic equations have the residual "
                f"{np.abs(residual).max():.3g}, and component {list(where)} is off by about "
                f"{correction[worst]:.3g}; pass consistent values, or make_consistent=True"
            )

    def satisfy(self, u: np.ndarray) -> np.ndarray:
        """A consistent state (size,): ``u`` with its algebraic variables changed by Newton's iteration.

        Raises
        ------
        InconsistentError
            If the iteration does not converge, or K is singular.
        """
        rounding = Rounding(self.system, u)
        for _ in range(MAX_ITERATIONS):
            change = self.solve(u, self.residual(u))
            u = u - change
            try:
                if rounding.reached(change, u):
                    return u
            except FloatingPointError:
                break
        raise InconsistentError(
            "make_consistent: Newton's iteration for the algebraic variables did not converge; pass a y0 "
            "that is closer to consistent"
        )
