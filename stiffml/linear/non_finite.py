"""Jacobians of the forward Newton iteration with differences in place of entries that are not finite.

Where f is finite its derivative may be infinite, as that of a root at zero. With a difference there, Newton's
iteration still converges to the solution of the same equations, so that the steps are those of the method.
The backward pass does not use such Jacobians.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from stiffml.petsc.formulation import Formulation
from stiffml.petsc.matrix import ShiftedMatrix
from stiffml.system.derivatives.colouring import colour_columns
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import JacobianAt
from stiffml.system.finite import is_finite

SMALLEST = 1e-3
"""Components below this fraction of the largest one are moved as if they had that size."""


def finite_blocks(
    matrix: ShiftedMatrix, problem: Formulation, s: float, vector: np.ndarray, blocks: np.ndarray
) -> np.ndarray:
    """The blocks (samples, width, width) of ∂f/∂u, mended where they are not finite, as ``matrix`` counts."""
    if is_finite(blocks):
        return blocks
    matrix.mended += 1
    return mended_blocks(problem, s, vector, blocks)


def mended_blocks(problem: Formulation, s: float, vector: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """∂f/∂u (samples, width, width) of a problem, with differences for the entries that are not finite."""
    finite = np.isfinite(blocks)
    rows = vector.reshape(problem.samples, problem.width)
    sizes = _sizes(rows, problem.eps)
    blocks = np.where(finite, blocks, np.nan)
    f0 = problem.slope(s, vector, False).copy()
    for column in np.flatnonzero(~finite.all(axis=(0, 1))):
        for sign in (1.0, -1.0):
            # In all samples at once, since they do not depend on each other.
            moved = rows.copy()
            moved[:, column] += sign * sizes[:, column]
            change = (problem.slope(s, moved.ravel(), False) - f0).reshape(rows.shape)
            found = change / (moved - rows)[:, column, None]
            lacking = np.isnan(blocks[:, :, column]) & np.isfinite(found)
            blocks[:, :, column][lacking] = found[lacking]
    return blocks


def mended_values(
    entries: tuple[np.ndarray, np.ndarray],
    size: int,
    dynamics: Dynamics,
    s: float,
    u: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """The entries of a sparse ∂f/∂u (rows, columns), with differences for those that are not finite.

    Components whose columns share no row are moved at once.
    """
    rows, columns = entries
    pattern = csr_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    values = np.where(np.isfinite(values), values, np.nan)
    sizes = _sizes(u[None], dynamics.eps)[0]
    groups = colour_columns(pattern)
    bad = np.zeros(u.size, dtype=bool)
    bad[columns[np.isnan(values)]] = True
    f0 = dynamics.evaluate(s, u).copy()
    for group in np.unique(groups[bad]):
        which = bad & (groups == group)
        for sign in (1.0, -1.0):
            moved = np.where(which, u + sign * sizes, u)
            change, moves = dynamics.evaluate(s, moved) - f0, moved - u
            lacking = np.flatnonzero(which[columns] & np.isnan(values))
            found = change[rows[lacking]] / moves[columns[lacking]]
            values[lacking] = np.where(np.isfinite(found), found, np.nan)
    return values


class MendedProducts:
    """Products with J, with a difference of f along the vector where a product is not finite.

    ``note`` is called when that first happens.
    """

    def __init__(
        self, jacobian: JacobianAt, dynamics: Dynamics, s: float, u: np.ndarray, note: Callable[[], None]
    ) -> None:
        self._jacobian, self._dynamics, self._s, self._u = jacobian, dynamics, s, u
        self._note: Callable[[], None] | None = note

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        found = self._jacobian.apply(v, transpose)
        if transpose or is_finite(found) or not is_finite(v):
            return found
        largest = float(np.abs(v).max())
        if largest == 0:
            return np.zeros_like(v)
        if self._note is not None:
            self._note()
            self._note = None
        dynamics, u = self._dynamics, self._u
        size = math.sqrt(dynamics.eps) * max(float(np.abs(u).max()), SMALLEST) / largest
        f0 = dynamics.evaluate(self._s, u).copy()
        found = np.where(np.isfinite(found), found, np.nan)
        for step in (size, -size):
            change = (dynamics.evaluate(self._s, u + step * v) - f0) / step
            found = np.where(np.isnan(found) & np.isfinite(change), change, found)
        return found


def _sizes(rows: np.ndarray, eps: float) -> np.ndarray:
    """The step of the difference for each component of samples (samples, width)."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scale = np.maximum(np.abs(rows), SMALLEST * np.where(largest > 0, largest, 1.0 / SMALLEST))
    return math.sqrt(eps) * scale
