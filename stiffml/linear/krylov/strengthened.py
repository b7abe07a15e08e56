"""Incomplete factors of a sparse Jacobian, and whole ones where these take too many iterations.

Both are of the Jacobian at an earlier state and kept over many steps: the products with which a Krylov method
iterates are of the present one, so that solutions are as exact as with new factors.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.sparse.linalg import SuperLU

from stiffml.linear.inverse import ApproximateInverse
from stiffml.linear.krylov.inverses import AssembledInverse
from stiffml.linear.sparse.lu import SparseJacobian, SparseLU
from stiffml.linear.sparse.matrices import Entries
from stiffml.system.derivatives.linearization import JacobianAt

MANY = 60
"""Iterations of a solve from which whole factors take over: they cost about as much as so many iterations on
two-dimensional fields of 8 192 unknowns, and less on smaller ones."""


class Strength:
    """What forward and backward solves have in common: whether incomplete factors suffice."""

    is_whole = False


class StrengthenedInverse(ApproximateInverse):
    """Incomplete factors until a solve has taken many iterations, then whole ones, with pivoting.

    Parameters
    ----------
    direct : SparseLU
        How the Jacobian is evaluated and factorised.
    strength : Strength
        Shared with other solves of the same run.
    prefix : str
        Of PETSc options of the incomplete factors.
    """

    def __init__(self, direct: SparseLU, strength: Strength, prefix: str) -> None:
        self._direct, self._strength, self._prefix = direct, strength, prefix
        self._incomplete: AssembledInverse | None = None
        self._whole: SuperLU | None = None
        self._is_whole = strength.is_whole

    def renew(self, s: float, u: np.ndarray, shift: float, jacobian: JacobianAt) -> None:
        direct, self._is_whole = self._direct, self._strength.is_whole
        if not self._is_whole:
            self._factors().renew(s, u, shift, jacobian)
            return
        self.close()  # frees memory before more is taken
        try:
            self._whole = direct.factors(shift, 1.0, SparseJacobian(direct.coloured, direct.dynamics, s, u))
        except np.linalg.LinAlgError:
            self._whole = None

    def _factors(self) -> AssembledInverse:
        if self._incomplete is None:
            coloured, f = self._direct.coloured, self._direct.dynamics
            entries = Entries(coloured.rows, coloured.columns, partial(coloured.values, f))
            size, mass = f.layout.size, self._direct.mass
            self._incomplete = AssembledInverse(
                lambda: entries, mass, size, "ilu", f.space, self._prefix, False
            )
        return self._incomplete

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        if not self._is_whole:
            return self._factors().solve(v, transpose)
        if self._whole is None or not np.isfinite(v).all():
            return np.full(v.shape, np.nan)  # which Newton reports as a failure of the step
        return self._whole.solve(np.array(v), trans="T" if transpose else "N")

    def is_too_weak(self, iterations: int) -> bool:
        if self._is_whole or iterations <= MANY:
            return False
        self._strength.is_whole = True
        return True

    def close(self) -> None:
        if self._incomplete is not None:
            self._incomplete.close()
        self._incomplete = self._whole = None
