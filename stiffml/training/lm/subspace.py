"""Damped steps from products with a Jacobian, which is never formed.

With A = [K; W] D⁻¹, of the Jacobian K (m, P) of residuals r and the weights W of a prior w (θ − c), and
b = [r; w (θ − c)], a step δ = D⁻¹ y solves

    min |A y + b|² + λ |y|²

in the Krylov space of AᵀA and Aᵀb. Golub-Kahan bidiagonalisation makes it: A V = U B, with orthonormal
columns, and B lower bidiagonal. Then y = V z, and min |B z − β e₁|² + λ |z|² for any λ, from the same B. The
space grows until a step gains hardly more. The squares of the columns of A, of which D is made, are means
over products of Kᵀ with random signs.

Sources: G. H. Golub & W. Kahan, SIAM J. Numer. Anal. 2 (1965) 205; C. C. Paige & M. A. Saunders, ACM Trans.
Math. Software 8 (1982) 43; D. C.-L. Fong & M. Saunders, SIAM J. Sci. Comput. 33 (2011) 2950; the estimate of
columns: C. Bekas, E. Kokiopoulou & Y. Saad, Appl. Numer. Math. 57 (2007) 1214.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stiffml.training.lm.damped import scale_of, steepest_of

PROBES = 8
"""Products from which the squares of columns are estimated."""

MOST, ROOM = 80, 400_000_000
"""Dimensions of the space at most, of which each takes two products; and numbers in its directions."""

ENOUGH, WINDOW = 1e-2, 4
"""The space is large enough for a damping if its last ``WINDOW`` dimensions add so little of the gain."""

NOTHING = 1e-14
"""The space is whole where the next direction is shorter than this fraction of the first."""


class Products(Protocol):
    """A Jacobian (m, size) by its products."""

    def along(self, v: np.ndarray) -> np.ndarray:
        """K v (m,), for v (size,)."""

    def back(self, w: np.ndarray) -> np.ndarray:
        """Kᵀ w (size,), for w (m,)."""


class Subspace:
    """Steps for any damping, see :class:`stiffml.training.lm.damped.DampedSystem`.

    Parameters
    ----------
    of : Products
    size, right : ndarray
        (m,) the factors of the rows of the Jacobian, and residuals.
    weight, away : ndarray
        (size,) of the prior: w and θ − c.
    free : ndarray
        Which numbers may move.
    slopes : ndarray
        (size,) Kᵀ r, which the caller knows.
    """

    def __init__(
        self,
        of: Products,
        size: np.ndarray,
        right: np.ndarray,
        weight: np.ndarray,
        away: np.ndarray,
        free: np.ndarray,
        slopes: np.ndarray,
    ) -> None:
        self._of, self._size, self._free, self._count = of, size, free, len(weight)
        self._weight = weight[free]
        random, squares = np.random.default_rng(0), self._weight**2
        for _ in range(PROBES):
            squares = squares + self._back_k(random.choice((-1.0, 1.0), len(right))) ** 2 / PROBES
        self._scale = scale_of(squares)
        b = np.concatenate([right, self._weight * away[free]])
        pull = slopes[free] + self._weight**2 * away[free]
        self.steepest = steepest_of(pull, squares, float(np.linalg.norm(b)))
        self._beta = float(np.linalg.norm(b))
        self._u, self._v = [-b / max(self._beta, np.finfo(float).tiny)], list[np.ndarray]()
        self._diagonal, self._below = list[float](), list[float]()
        self._is_whole = self._beta == 0 or not len(free)

    def step(self, damping: float) -> tuple[np.ndarray, float]:
        step, gains = np.zeros(self._count), [0.0]
        while True:
            found, gain = self._projected(damping, len(gains) - 1)
            gains.append(gain)
            last = gains[-1 - WINDOW] if len(gains) > WINDOW + 1 else 0.0
            if len(gains) > WINDOW + 1 and gain - last <= ENOUGH * gain:
                break
            if len(found) == len(self._v) and (self._is_whole or not self._grow()):
                break
        step[self._free] = (np.array(self._v[: len(found)]).T @ found if len(found) else 0) / self._scale
        return step, gains[-1]

    def _projected(self, damping: float, count: int) -> tuple[np.ndarray, float]:
        """z (count,) in the first dimensions of the space, and what its step gains."""
        if not count:
            return np.zeros(0), 0.0
        matrix = np.zeros((count + 1, count))
        np.fill_diagonal(matrix, self._diagonal[:count])
        np.fill_diagonal(matrix[1:], self._below[:count])
        right = np.zeros(2 * count + 1)
        right[0] = self._beta
        z = np.linalg.lstsq(np.vstack([matrix, np.sqrt(damping) * np.eye(count)]), right, rcond=None)[0]
        left = right[: count + 1] - matrix @ z
        return z, 0.5 * (self._beta**2 - float(left @ left))

    def _grow(self) -> bool:
        """Add a dimension to the space; whether there was one."""
        if len(self._v) == min(MOST, max(WINDOW, ROOM // len(self._free))):
            return False
        v = self._back(self._u[-1])
        for one in self._v:  # rounding would bring back directions that are there
            v -= (one @ v) * one
        alpha = float(np.linalg.norm(v))
        first = self._diagonal[0] if self._diagonal else alpha
        if not alpha > NOTHING * first:
            self._is_whole = True
            return False
        self._v.append(v / alpha)
        u = self._along(self._v[-1])
        for one in self._u:
            u -= (one @ u) * one
        below = float(np.linalg.norm(u))
        self._diagonal.append(alpha)
        self._below.append(below)
        self._is_whole = not below > NOTHING * first
        self._u.append(u / below if below else u)
        return True

    def _along(self, y: np.ndarray) -> np.ndarray:
        """A y"""
        moved = y / self._scale
        whole = np.zeros(self._count)
        whole[self._free] = moved
        return np.concatenate([self._size * self._of.along(whole), self._weight * moved])

    def _back(self, u: np.ndarray) -> np.ndarray:
        """Aᵀ u"""
        rows = len(self._size)
        return (self._back_k(u[:rows]) + self._weight * u[rows:]) / self._scale

    def _back_k(self, w: np.ndarray) -> np.ndarray:
        return self._of.back(self._size * w)[self._free]
