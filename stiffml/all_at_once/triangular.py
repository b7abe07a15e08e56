"""Linear systems A x = v and Aᵀ x = v with A block lower triangular and blocks near the diagonal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import lapack

from stiffml.linear.dense.blocks import BlockLU

FEW_SAMPLES = 8
"""Up to this many samples, LAPACK factorises one band matrix for each sample.

For more samples, block substitution solves all samples of one position in one call.
"""


class Part(NamedTuple):
    """E blocks of a block matrix; blocks at the same place are added.

    ``row`` and ``column`` (E,) int are block positions, ``values`` (E, samples, w, w) the blocks.
    """

    row: np.ndarray
    column: np.ndarray
    values: np.ndarray


class Triangular(ABC):
    """The factors of a block lower triangular matrix for each sample."""

    @abstractmethod
    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Solve A x = v or Aᵀ x = v, with x and v (positions, samples, w).

        If a block is singular, the result is not finite.
        """


def factorise(parts: Sequence[Part], count: int, reach: int) -> Triangular:
    """The factors of the matrix that is the sum of ``parts``.

    ``count`` is the number of block rows, ``reach`` the largest distance of a block from the diagonal.
    """
    samples = parts[0].values.shape[1]
    return Band(parts, count, reach) if samples <= FEW_SAMPLES else Substitution(parts, count)


class Band(Triangular):
    """LU factors of one band matrix for each sample, with partial pivoting in the band (LAPACK's gbtrf)."""

    def __init__(self, parts: Sequence[Part], count: int, reach: int) -> None:
        samples, w = parts[0].values.shape[1:3]
        self._below, self._above = (reach + 1) * w - 1, w - 1
        height, width = 2 * self._below + self._above + 1, count * w
        diagonal = self._below + self._above
        i, j = np.arange(w)[:, None], np.arange(w)[None, :]
        self._factors = []
        matrices = np.zeros((samples, width * height))
        for row, column, values in parts:
            # Band storage: entry (r, c) of the matrix is in row diagonal + r − c of column c.
            down = diagonal + (row - column)[:, None, None] * w + i - j
            places = ((column[:, None, None] * w + j) * height + down).ravel()
            matrices[:, places] += values.swapaxes(0, 1).reshape(samples, -1)
        for matrix in matrices.reshape(samples, width, height):
            lu, pivots, _ = lapack.dgbtrf(matrix.T, self._below, self._above, overwrite_ab=1)
            self._factors.append((lu, pivots))

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        x = np.empty_like(v)
        for sample, (lu, pivots) in enumerate(self._factors):
            right = v[:, sample].reshape(-1, 1)
            found, _ = lapack.dgbtrs(lu, self._below, self._above, right, pivots, trans=int(transpose))
            x[:, sample] = found.reshape(x[:, sample].shape)
        return x


class Substitution(Triangular):
    """Block substitution, position by position, for all samples together."""

    def __init__(self, parts: Sequence[Part], count: int) -> None:
        row, column, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        on = row == column
        diagonal = np.zeros((count, *values.shape[1:]))
        np.add.at(diagonal, row[on], values[on])
        self._diagonal = BlockLU(torch.from_numpy(diagonal))
        row, column, self._values = row[~on], column[~on], values[~on]
        self._by_row = _grouped(row, column, count)
        self._by_column = _grouped(column, row, count)
        self._count = count

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        x, groups = v.copy(), self._by_column if transpose else self._by_row
        values = self._values.swapaxes(-1, -2) if transpose else self._values
        order = range(self._count)
        for position in reversed(order) if transpose else order:
            for other, which in groups[position]:
                x[position] -= (values[which] @ x[other][:, :, None])[:, :, 0]
            right = torch.from_numpy(x[position])[:, :, None]
            x[position] = self._diagonal.at(position, right, transpose)[:, :, 0].numpy()
        return x


def _grouped(by: np.ndarray, other: np.ndarray, count: int) -> list[list[tuple[int, int]]]:
    """For each position the blocks in its row (or column), as pairs (other position, number of block)."""
    groups: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for which, (position, where) in enumerate(zip(by.tolist(), other.tolist(), strict=True)):
        groups[position].append((where, which))
    return groups
