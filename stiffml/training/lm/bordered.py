"""Damped least squares with many unknowns in a band and few dense ones beside it.

With the residuals r and their Jacobian (K_x K_θ), where K_x is sparse and K_xᵀK_x a band, each step solves

    ( H_xx + λ D_x    H_xθ        ) (δx)       (K_xᵀ r)
    ( H_xθᵀ           H_θθ + λ D_θ) (δθ)  =  − (K_θᵀ r),      H = KᵀK,  D = diag H + ε tr(H)/n

by the Cholesky factors of the band, and of what is left for θ once δx is eliminated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cho_solve_banded, cholesky_banded
from scipy.sparse import csr_array


class Rows(NamedTuple):
    """Residuals (m,) with their derivatives by x (m, n), sparse, and by θ (m, P)."""

    residuals: np.ndarray
    by_x: csr_array
    by_theta: np.ndarray


class Bordered:
    """Steps of one linearisation for any damping.

    Parameters
    ----------
    parts : sequence of Rows
    diagonal : float
        ε: how much of the mean of the diagonal is added to it in D.
    """

    def __init__(self, parts: Sequence[Rows], diagonal: float) -> None:
        self.of_x = sum(part.by_x.T @ part.residuals for part in parts)
        self.of_theta = sum(part.by_theta.T @ part.residuals for part in parts)
        square = sum(part.by_x.T @ part.by_x for part in parts)
        self._mixed = sum(part.by_x.T @ part.by_theta for part in parts)
        self._dense = sum(part.by_theta.T @ part.by_theta for part in parts)
        self._band = _lower_band(square.tocoo())  # type: ignore[union-attr]
        diagonals = np.concatenate([self._band[0], np.diag(self._dense)])
        damped = diagonals + diagonal * diagonals.mean() + np.finfo(float).tiny
        self._damped_x, self._damped_theta = np.split(damped, [self._band.shape[1]])
        self._square, slopes = square, np.concatenate([self.of_x, self.of_theta])
        length = np.sqrt(sum(part.residuals @ part.residuals for part in parts) * np.maximum(diagonals, 0))
        self.steepest = float(np.max(np.abs(slopes) / np.where(length > 0, length, 1), initial=0))

    @property
    def size(self) -> int:
        """The number of unknowns in the band."""
        return self._band.shape[1]

    def step(self, damping: float, free: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """δx (n,), δθ (P,) that moves only ``free`` numbers, and by how much they lower half of |r|².

        Raises
        ------
        LinAlgError
            If the damping is too small for rounding.
        """
        band = self._band.copy()
        band[0] += damping * self._damped_x
        factors = cholesky_banded(band, lower=True, overwrite_ab=True, check_finite=False), True
        mixed = self._mixed[:, free]
        solved = cho_solve_banded(factors, np.column_stack([mixed, self.of_x]), check_finite=False)
        left = self._dense[np.ix_(free, free)] - mixed.T @ solved[:, :-1]
        left[np.diag_indices(len(free))] += damping * self._damped_theta[free]
        right = self.of_theta[free] - mixed.T @ solved[:, -1]
        theta = np.zeros(len(self.of_theta))
        if not np.isfinite(left).all() or not np.isfinite(right).all():
            raise LinAlgError("not finite")
        if len(free):
            theta[free] = -cho_solve(cho_factor(left, lower=True), right)
        x = -solved[:, -1] - solved[:, :-1] @ theta[free]
        slope = self.of_x @ x + self.of_theta @ theta
        bent = x @ (self._square @ x) + 2 * (self._mixed.T @ x) @ theta + theta @ self._dense @ theta
        return x, theta, float(-slope - 0.5 * bent)


def _lower_band(matrix) -> np.ndarray:
    """A symmetric sparse matrix as the rows of its lower band, for LAPACK."""
    row, column = matrix.coords
    down = row - column
    band = np.zeros((int(down.max(initial=0)) + 1, matrix.shape[0]))
    below = down >= 0
    band[down[below], column[below]] = matrix.data[below]
    return band
