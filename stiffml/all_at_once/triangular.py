"""Systems A x = v and Aᵀ x = v whose matrix is block lower triangular, with blocks near the diagonal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import lapack

from stiffml.linear.dense.blocks import BlockLU

FEW_SAMPLES = 8
"""Up to this many samples each has a band matrix of its own, which LAPACK factorises; of more samples the
blocks of one position are solved with together, in one call for all of them."""


class Part(NamedTuple):
    """Some blocks: rows and columns (E,) by position, values (E, samples, w, w). Equal places add up."""

    row: np.ndarray
    column: np.ndarray
    values: np.ndarray


class Triangular(ABC):
    """Factors of such a matrix, of each sample."""

    @abstractmethod
    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """The x of A x = v, or of Aᵀ x = v: (positions, samples, w).

        What comes of a singular block is not finite.
        """


def factorise(parts: Sequence[Part], count: int, reach: int) -> Triangular:
    """Factors of the matrix that parts add up to.

    ``count``: how many block rows it has. ``reach``: how far from the diagonal blocks lie at most.
    """
    samples = parts[0].values.shape[1]
    return Band(parts, count, reach) if samples <= FEW_SAMPLES else Substitution(parts, count)


class Band(Triangular):
    """LU factors of one band matrix a sample, with partial pivoting within the band (LAPACK's gbtrf)."""

    def __init__(self, parts: Sequence[Part], count: int, reach: int) -> None:
        samples, w = parts[0].values.shape[1:3]
        self._below, self._above = (reach + 1) * w - 1, w - 1
        height, width = 2 * self._below + self._above + 1, count * w
        diagonal = self._below + self._above
        i, j = np.arange(w)[:, None], np.arange(w)[None, :]
        self._factors = []
        matrices = np.zeros((samples, width * height))
        for row, column, values in parts:
            # Stored by columns, entry (r, c) of the matrix in row diagonal + r − c of its column.
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
    """Position by position; all samples together."""

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
    """For each position the blocks in its row, or column: (the other position, which block)."""
    groups: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for which, (position, where) in enumerate(zip(by.tolist(), other.tolist(), strict=True)):
        groups[position].append((where, which))
    return groups
