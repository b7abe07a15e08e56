"""shift·M − A as a sparse matrix of PETSc's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stiffml.petsc.library import PETSc
from stiffml.system.mass import Mass

LARGEST = 1e8
"""Size of shift·M, in multiples of that of a constant A, above which A hardly matters to what is solved with.

The rounding of larger ones, which methods begin with that solve for a slope, would stay in the diagonal.
"""


class Entries(NamedTuple):
    """Of a sparse matrix A: ``rows``, ``columns`` (entries,), and ``values``: (s, u) -> (entries,)."""

    rows: np.ndarray
    columns: np.ndarray
    values: Callable[[float, np.ndarray], np.ndarray]


class Matrix:
    """shift·M − A as a PETSc matrix ``mat``, all of its entries given anew each time."""

    def __init__(self, entries: Entries, mass: Mass | None, size: int, comm: Any) -> None:
        self._values = entries.values
        self.mat = PETSc.Mat().create(comm=comm)
        self.mat.setSizes(((size, None), (size, None)))
        self.mat.setType(PETSc.Mat.Type.AIJ)
        begin, _ = self.mat.createVecs()[0].getOwnershipRange()
        rows, columns, self._mass = _entries_of(mass, size)
        self.mat.setPreallocationCOO(
            np.concatenate([entries.rows, begin + rows], dtype=PETSc.IntType),
            np.concatenate([entries.columns, begin + columns], dtype=PETSc.IntType),
        )

    def update(self, s: float, u: np.ndarray, shift: float) -> None:
        """Become that at a state."""
        self.set(self._values(s, u), shift)

    def set(self, values: np.ndarray, shift: float) -> None:
        """Put in values of A, and a shift."""
        self.mat.setValuesCOO(np.concatenate([-values, shift * self._mass]), PETSc.InsertMode.INSERT_VALUES)

    def destroy(self) -> None:
        self.mat.destroy()


class ConstantMatrix(Matrix):
    """The same where A is constant: only shift·M changes, and nothing but the matrix is kept."""

    def __init__(self, entries: Entries, mass: Mass | None, size: int, comm: Any) -> None:
        super().__init__(entries, mass, size, comm)
        self._comm = comm
        self._shift: float | None = None
        self._largest = np.inf
        self._weights: Any = None  # M, where it is not the identity
        if mass is not None:
            nowhere = Entries(entries.rows[:0], entries.columns[:0], entries.values)
            matrix = Matrix(nowhere, mass, size, comm)
            matrix.set(np.empty(0), 1.0)
            self._weights = matrix.mat

    def update(self, s: float, u: np.ndarray, shift: float) -> None:
        if self._shift is None:
            super().update(s, u, 0.0)
            # Where each given entry belongs takes more memory than the matrix; a duplicate would keep it too.
            compressed, sizes = self.mat.getValuesCSR(), self.mat.getSizes()
            self.mat.destroy()
            self.mat = PETSc.Mat().createAIJ(sizes, csr=compressed, comm=self._comm)
            del self._values, self._mass
            size = PETSc.NormType.NORM_INFINITY
            self._shift, norm = 0.0, self.mat.norm(size)
            weight = 1.0 if self._weights is None else self._weights.norm(size)
            self._largest = LARGEST * norm / weight if norm > 0 and weight > 0 else np.inf
        shift = float(np.clip(shift, -self._largest, self._largest))
        if self._weights is None:
            self.mat.shift(shift - self._shift)
        else:
            structure = PETSc.Mat.Structure.SUBSET_NONZERO_PATTERN
            self.mat.axpy(shift - self._shift, self._weights, structure)
        self._shift = shift

    def destroy(self) -> None:
        super().destroy()
        if self._weights is not None:
            self._weights.destroy()


def _entries_of(mass: Mass | None, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of M, with all of its diagonal."""
    every = np.arange(size)
    if mass is None:
        return every, every, np.ones(size)
    matrix = mass.sparse().tocoo()
    extra = np.setdiff1d(every, matrix.row[matrix.row == matrix.col])
    rows, columns = (np.concatenate([where, extra]) for where in (matrix.row, matrix.col))
    return rows, columns, np.concatenate([matrix.data, np.zeros(len(extra))])
