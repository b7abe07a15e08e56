"""Linear systems A x = v and Aᵀ x = v with A block lower triangular and blocks near the diagonal."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.linalg import lapack

from stiffml.all_at_once.matrix import Matrix
from stiffml.all_at_once.topology import Topology
from stiffml.linear.dense.blocks import BlockLU

FEW_SAMPLES = 8
"""Up to this many samples, LAPACK factorises one band matrix for each sample.

For more samples, block substitution solves all samples of one position in one call.
"""

SPARSEST = 8
"""Blocks of a band matrix for each that is not zero, above which substitution takes less memory and time.

Steps of one trajectory have far fewer. Those of several may stand far from the states that they start from.
"""

WIDE = 1_000
"""Components of a sample times right-hand sides above which substitution, which multiplies matrices, pays."""


class Triangular(ABC):
    """The factors of a block lower triangular matrix for each sample: A = D (I + N).

    D are the diagonal blocks, which steps taken one by one solve with, and N is below them. So no rows of
    different steps are exchanged, whose sizes may differ by many powers of ten.
    """

    def __init__(self, matrix: Matrix, topology: Topology) -> None:
        self._diagonal = BlockLU(torch.from_numpy(matrix.diagonal))
        self._row = topology.entries.row[topology.below]
        self._scaled = matrix.below
        if len(matrix.below):
            self._scaled = self._diagonal.at(self._row, torch.from_numpy(matrix.below)).numpy()

    @abstractmethod
    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Solve A x = v or Aᵀ x = v, with x and v (positions, samples, w), or (positions, samples, w, P).

        If a block is singular, the result is not finite.
        """

    def _through_diagonal(self, v: np.ndarray, transpose: bool) -> np.ndarray:
        columns = torch.from_numpy(np.ascontiguousarray(v)).view(*v.shape[:3], -1)
        return self._diagonal.solve(columns, transpose).numpy().reshape(v.shape)


class Band(Triangular):
    """Of each sample a band matrix with a unit diagonal, solved by LAPACK's tbtrs."""

    def __init__(self, matrix: Matrix, topology: Topology) -> None:
        super().__init__(matrix, topology)
        count, samples, w = matrix.diagonal.shape[:3]
        height, width = (topology.reach + 1) * w, count * w
        matrices, places = np.zeros((samples, width * height)), topology.band_places(w).ravel()
        for sample in range(samples):
            matrices[sample, places] = self._scaled[:, sample].ravel()
        self._matrices = [matrix.T for matrix in matrices.reshape(samples, width, height)]

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        x = v if transpose else self._through_diagonal(v, transpose)
        found = np.empty_like(x)
        for sample, matrix in enumerate(self._matrices):
            right = x[:, sample].reshape(matrix.shape[1], -1)
            one, _ = lapack.dtbtrs(matrix, right, uplo="L", trans="T" if transpose else "N", diag="U")
            found[:, sample] = one.reshape(found[:, sample].shape)
        return self._through_diagonal(found, transpose) if transpose else found


class Substitution(Triangular):
    """Block substitution with I + N, position by position, for all samples together."""

    def __init__(self, matrix: Matrix, topology: Topology) -> None:
        super().__init__(matrix, topology)
        self._column = topology.entries.column[topology.below] - topology.given

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        x = v.copy() if transpose else self._through_diagonal(v, transpose)
        columns = x.reshape(*x.shape[:3], -1)  # a view
        blocks = zip(self._row.tolist(), self._column.tolist(), self._scaled, strict=True)
        if transpose:
            # They are ordered by row: what is added to columns[row] has been when its turn comes.
            for row, column, block in reversed(list(blocks)):
                columns[column] -= block.swapaxes(-1, -2) @ columns[row]
            return self._through_diagonal(x, transpose)
        for row, column, block in blocks:
            columns[row] -= block @ columns[column]
        return x


def factorise(matrix: Matrix, topology: Topology, columns: int = 1) -> Triangular:
    """The factors of the matrix with respect to the unknowns, for ``columns`` right-hand sides."""
    samples, width = matrix.diagonal.shape[1:3]
    is_full = (topology.reach + 1) * topology.unknowns <= SPARSEST * len(topology.entries.row)
    if samples <= FEW_SAMPLES and width * columns <= WIDE and is_full:
        return Band(matrix, topology)
    return Substitution(matrix, topology)
