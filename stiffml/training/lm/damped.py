"""Damped steps of one linearisation of least squares, for any damping.

With the Jacobian K (m, P) of residuals r, and a prior with residuals w (θ − c), a step solves

    min |K δ + r|² + |w (δ + θ − c)|² + λ |D δ|²,   D² = diag(KᵀK + w²) + ε tr(KᵀK + w²).

Where there are more residuals than unknowns that is done by orthogonal factors. Else, with H = w² + λ D²
diagonal and μ = K δ + r,

    (I + K H⁻¹ Kᵀ) μ = r − K H⁻¹ w² (θ − c),   δ = − H⁻¹ (Kᵀ μ + w² (θ − c)),

whose matrix is (m, m) only: the cost grows with P, not with its cube. With few parameters orthogonal factors
cost little, and keep more digits at small λ.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack

DIAGONAL = 1e-8
"""ε: how much of the trace is added to the diagonal, so that parameters without effect are damped too."""

BLOCK = 16
"""Columns that LAPACK turns at a time."""

BLOCK_QR = 64
"""Columns for which the factorisation has room."""

MANY = 300
"""Parameters from which the small system is solved, where residuals are fewer."""


class DampedSystem(Protocol):
    """Steps of one linearisation for any damping.

    ``steepest``: the largest cosine between the residuals and a column of the Jacobian.
    """

    @property
    def steepest(self) -> float: ...

    def step(self, damping: float) -> tuple[np.ndarray, float]:
        """The step (size,), and by how much it lowers half the sum of squares of the linearisation."""


class Factors:
    """Q and R of a matrix (m, n), m ≥ n, whose Q is kept as reflectors: it is only ever multiplied with."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._rows, size = matrix.shape
        if size:
            self._reflectors, self._scalars, _, _ = lapack.dgeqrf(matrix, lwork=BLOCK_QR * size)
            self.triangle = np.asfortranarray(np.triu(self._reflectors[:size]))
        else:
            self.triangle = np.zeros((0, 0))

    def across(self, v: np.ndarray) -> np.ndarray:
        """(n,) Qᵀ v, of ``v`` (m,)."""
        return self._times(v, "T")[: len(self.triangle)]

    def back(self, v: np.ndarray) -> np.ndarray:
        """(m,) Q v, of ``v`` (n,)."""
        return self._times(np.pad(v, (0, self._rows - len(v))), "N")

    def _times(self, v: np.ndarray, trans: str) -> np.ndarray:
        if not len(self.triangle):
            return v
        room = BLOCK_QR
        return lapack.dormqr("L", trans, self._reflectors, self._scalars, v[:, None], room)[0][:, 0]


class Tall:
    """By orthogonal factors of all rows, those of the prior among them, not by normal equations.

    Parameters
    ----------
    matrix, right : ndarray
        (m, size) and (m,): Jacobian and residuals, with rows and residuals of the prior.
    free : ndarray
        Which numbers may move.
    """

    def __init__(self, matrix: np.ndarray, right: np.ndarray, free: np.ndarray) -> None:
        self._free, self._count = free, matrix.shape[1]
        matrix = matrix[:, free]
        squares = (matrix**2).sum(axis=0)
        self.steepest = steepest_of(matrix.T @ right, squares, np.linalg.norm(right))
        self._scale = scale_of(squares)
        scaled = matrix / self._scale
        self._is_tall = len(scaled) >= scaled.shape[1]
        self._factors = Factors(scaled if self._is_tall else scaled.T)
        self._triangle, self._rows = self._factors.triangle, len(right)
        self._right = self._factors.across(right) if self._is_tall else right
        self._damped: tuple[float, tuple[np.ndarray, ...]] | None = None

    def step(self, damping: float) -> tuple[np.ndarray, float]:
        if not len(self._triangle):
            return np.zeros(self._count), 0.0
        step, left = self._solved(damping, self._right)
        return step, 0.5 * float(self._right @ self._right - left @ left)

    def answer(self, damping: float, residuals: np.ndarray) -> np.ndarray:
        """(size,) the step with this damping for other residuals (m,), where those of the prior are zero."""
        if not len(self._triangle):
            return np.zeros(self._count)
        right = np.pad(residuals, (0, self._rows - len(residuals)))
        return self._solved(damping, self._factors.across(right) if self._is_tall else right)[0]

    def _factored(self, damping: float) -> tuple[np.ndarray, ...]:
        """[R; √λ I] = Q [T; 0]: T, and Q as reflectors. Those of the last damping are kept."""
        if self._damped is None or self._damped[0] != damping:
            # Both blocks are triangular, which takes a fraction of the work of full ones.
            size = len(self._triangle)
            below = np.asfortranarray(np.sqrt(damping) * np.eye(size))
            self._damped = damping, lapack.dtpqrt(size, min(BLOCK, size), self._triangle, below)[:3]
        return self._damped[1]

    def _solved(self, damping: float, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The step (size,), and what it leaves of ``right``, which is as ``_right`` is."""
        step, size = np.zeros(self._count), len(self._triangle)
        triangle, reflectors, factors = self._factored(damping)

        def turned(top: np.ndarray, trans: str) -> np.ndarray:
            none = np.zeros((size, 1))
            return lapack.dtpmqrt(size, reflectors, factors, top[:, None], none, trans=trans)[0][:, 0]

        if self._is_tall:  # the least squares of R y + r and √λ y
            found = lapack.dtrtrs(triangle, turned(-right, "T"))[0]
            scaled, left = found, right + self._triangle @ found
        else:  # the least y, √λ e with Rᵀ y + √λ e + r = 0, of which the step is Q y
            found = turned(lapack.dtrtrs(triangle, -right, trans=1)[0], "N")
            scaled, left = self._factors.back(found), right + self._triangle.T @ found
        step[self._free] = scaled / self._scale
        return step, left

    def length(self, step: np.ndarray) -> float:
        """|D δ| of a step (size,)."""
        return float(np.linalg.norm(self._scale * step[self._free]))


class Wide:
    """By a system of as many unknowns as there are residuals, for more parameters than these.

    Parameters
    ----------
    matrix, right : ndarray
        (m, size) and (m,): Jacobian and residuals, without those of the prior.
    weight, away : ndarray
        (size,) of the prior: w and θ − c.
    free : ndarray
        Which numbers may move.
    """

    def __init__(
        self, matrix: np.ndarray, right: np.ndarray, weight: np.ndarray, away: np.ndarray, free: np.ndarray
    ) -> None:
        self._free, self._count = free, matrix.shape[1]
        self._matrix = matrix = matrix if len(free) == self._count else matrix[:, free]
        self._right, self._weight, self._away = right, weight[free] ** 2, away[free]
        squares = np.einsum("ij,ij->j", matrix, matrix) + self._weight
        self._pull = self._weight * self._away
        self._cost = float(right @ right + self._pull @ self._away)
        whole = np.sqrt(right @ right + (weight * away) @ (weight * away))
        self.steepest = steepest_of(matrix.T @ right + self._pull, squares, whole)
        self._square = scale_of(squares) ** 2
        self._damped: tuple[float, np.ndarray, tuple[np.ndarray, bool]] | None = None

    def step(self, damping: float) -> tuple[np.ndarray, float]:
        step = np.zeros(self._count)
        if not len(self._free):
            return step, 0.0
        step[self._free] = found = self._solved(damping, self._right, self._pull)
        left, away = self._right + self._matrix @ found, self._away + found
        return step, 0.5 * (self._cost - float(left @ left + self._weight @ away**2))

    def answer(self, damping: float, residuals: np.ndarray) -> np.ndarray:
        """As of :class:`Tall`."""
        step = np.zeros(self._count)
        step[self._free] = self._solved(damping, residuals, np.zeros(len(self._free)))
        return step

    def length(self, step: np.ndarray) -> float:
        """|D δ| of a step (size,)."""
        return float(np.sqrt(self._square @ step[self._free] ** 2))

    def _solved(self, damping: float, right: np.ndarray, pull: np.ndarray) -> np.ndarray:
        if self._damped is None or self._damped[0] != damping:
            inverse = 1 / (self._weight + damping * self._square)
            half = self._matrix * np.sqrt(inverse)
            system = half @ half.T
            system[np.diag_indices_from(system)] += 1.0
            self._damped = damping, inverse, cho_factor(system)
        _, inverse, factors = self._damped
        multipliers = cho_solve(factors, right - self._matrix @ (inverse * pull))
        return -inverse * (self._matrix.T @ multipliers + pull)


def steepest_of(slopes: np.ndarray, squares: np.ndarray, size: float | np.floating) -> float:
    lengths = np.sqrt(squares) * size
    return float(np.max(np.abs(slopes) / np.where(lengths > 0, lengths, 1), initial=0))


def scale_of(squares: np.ndarray) -> np.ndarray:
    """(free,) D, from the sums of squares of the columns."""
    return np.sqrt(squares + DIAGONAL * squares.sum() + np.finfo(float).tiny)
