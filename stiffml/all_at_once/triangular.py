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

WIDE = 2_000
"""Components of a sample times right-hand sides above which substitution, which multiplies matrices, pays."""


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
        """Solve A x = v or Aᵀ x = v, with x and v (positions, samples, w), or (positions, samples, w, P).

        If a block is singular, the result is not finite.
        """


def factorise(parts: Sequence[Part], count: int, reach: int, columns: int = 1) -> Triangular:
    """The factors of the matrix that is the sum of ``parts``.

    ``count`` is the number of block rows, ``reach`` the largest distance of a block from the diagonal,
    ``columns`` the number of right-hand sides that are to be solved for.
    """
    samples, width = parts[0].values.shape[1:3]
    if samples <= FEW_SAMPLES and width * columns <= WIDE:
        return Band(parts, count, reach)
    return Substitution(parts, count)


class Band(Triangular):
    """Of each sample a band matrix with a unit diagonal, solved by LAPACK's tbtrs.

    A = D (I + N) with the diagonal blocks D, which steps taken one by one solve with, and N below them. So no
    rows of different steps are exchanged, whose sizes may differ by many powers of ten.
    """

    def __init__(self, parts: Sequence[Part], count: int, reach: int) -> None:
        samples, w = parts[0].values.shape[1:3]
        self._diagonal, off = _by_diagonal(parts, count)
        self._below = reach * w + w - 1
        height, width = self._below + 1, count * w
        i, j = np.arange(w)[:, None], np.arange(w)[None, :]
        matrices = np.zeros((samples, width * height))
        for row, column, values in off:
            scaled = self._diagonal.at(row, torch.from_numpy(np.array(values))).numpy()
            # Stored by columns, entry (r, c) of the matrix in row r − c of its column.
            down = (row - column)[:, None, None] * w + i - j
            places = ((column[:, None, None] * w + j) * height + down).ravel()
            matrices[:, places] += scaled.swapaxes(0, 1).reshape(samples, -1)
        self._matrices = [matrix.T for matrix in matrices.reshape(samples, width, height)]

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        x = v if transpose else self._through_diagonal(v, transpose)
        found = np.empty_like(x)
        for sample, matrix in enumerate(self._matrices):
            right = x[:, sample].reshape(matrix.shape[1], -1)
            one, _ = lapack.dtbtrs(matrix, right, uplo="L", trans="T" if transpose else "N", diag="U")
            found[:, sample] = one.reshape(found[:, sample].shape)
        return self._through_diagonal(found, transpose) if transpose else found

    def _through_diagonal(self, v: np.ndarray, transpose: bool) -> np.ndarray:
        columns = torch.from_numpy(np.ascontiguousarray(v)).view(*v.shape[:3], -1)
        return self._diagonal.solve(columns, transpose).numpy().reshape(v.shape)


class Substitution(Triangular):
    """Block substitution, position by position, for all samples together."""

    def __init__(self, parts: Sequence[Part], count: int) -> None:
        self._diagonal, off = _by_diagonal(parts, count)
        row, column, self._values = (np.concatenate(arrays) for arrays in zip(*off, strict=True))
        self._by_row = _grouped(row, column, count)
        self._by_column = _grouped(column, row, count)
        self._count = count

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        x, groups = v.reshape(*v.shape[:3], -1).copy(), self._by_column if transpose else self._by_row
        values = self._values.swapaxes(-1, -2) if transpose else self._values
        order = range(self._count)
        for position in reversed(order) if transpose else order:
            for other, which in groups[position]:
                x[position] -= values[which] @ x[other]
            x[position] = self._diagonal.at(position, torch.from_numpy(x[position]), transpose).numpy()
        return x.reshape(v.shape)


def _by_diagonal(parts: Sequence[Part], count: int) -> tuple[BlockLU, list[Part]]:
    """Factors of the diagonal blocks, (count, samples, w, w), and the other blocks, at least one part."""
    diagonal = np.zeros((count, *parts[0].values.shape[1:]))
    off = []
    for row, column, values in parts:
        on = row == column
        if on.all():
            diagonal[row] += values  # within a part no place occurs twice
            continue
        if on.any():
            diagonal[row[on]] += values[on]
            row, column, values = row[~on], column[~on], values[~on]
        off.append(Part(row, column, values))
    nothing = Part(np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty((0, *diagonal.shape[1:])))
    return BlockLU(torch.from_numpy(diagonal)), [*off, nothing]


def _grouped(by: np.ndarray, other: np.ndarray, count: int) -> list[list[tuple[int, int]]]:
    """For each position the blocks in its row (or column), as pairs (other position, number of block)."""
    groups: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for which, (position, where) in enumerate(zip(by.tolist(), other.tolist(), strict=True)):
        groups[position].append((where, which))
    return groups
