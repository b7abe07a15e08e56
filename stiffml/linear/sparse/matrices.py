"""shift·M − A as a sparse PETSc matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stiffml.petsc.library import PETSc
from stiffml.system.mass import Mass
from stiffml.system.space import Space

LARGEST = 1e8
"""The size of shift·M, relative to a constant A, above which A hardly matters to a preconditioner.

Methods that begin by solving for a slope have such shifts. Their rounding would stay in the diagonal.
"""

MOST = 4
"""How often a matrix is made with room for the nonzero entries alone, before it gets room for all."""


class Entries(NamedTuple):
    """Entries of a sparse matrix A: ``rows`` and ``columns`` (entries,), ``values``: (s, u) -> (entries,)."""

    rows: np.ndarray
    columns: np.ndarray
    values: Callable[[float, np.ndarray], np.ndarray]


class Matrix:
    """shift·M − A as a PETSc matrix ``mat``, which exists from the first update on.

    Entries of A that are zero are left out. A pattern may be much too wide: that of a field counts all
    species as coupled. When an entry becomes nonzero, ``mat`` is made anew with room for it; after a few
    times it gets room for all entries.

    Parameters
    ----------
    entries : Entries
    mass : Mass or None
    size : int
        Numbers in this process's part of a state.
    space : Space
    """

    def __init__(self, entries: Entries, mass: Mass | None, size: int, space: Space) -> None:
        self._entries, self._mass, self._size, self._space = entries, _entries_of(mass, size), size, space
        self.comm: Any = PETSc.COMM_SELF if space.communicator is None else space.communicator
        self.mat: Any = None
        self._kept: Any = None  # which entries have a place
        self._has_all = False
        self._times = 0  # that it was made

    def update(self, s: float, u: np.ndarray, shift: float) -> None:
        """Take A at a state, and a shift."""
        self.set(self._entries.values(s, u), shift)

    def set(self, values: np.ndarray, shift: float) -> None:
        """Take the values of A, and a shift; collective."""
        if self.mat is None:
            self._make(values != 0)
        elif not self._has_all and not self._space.every(not values[~self._kept].any()):
            every = self._times == MOST
            self._make(np.ones(len(values), dtype=bool) if every else self._kept | (values != 0))
        *_, mass = self._mass
        given = np.concatenate([-values[self._kept], shift * mass])
        self.mat.setValuesCOO(given, PETSc.InsertMode.INSERT_VALUES)

    def _make(self, kept: np.ndarray) -> None:
        if self.mat is not None:
            self.mat.destroy()
        self.mat = PETSc.Mat().create(comm=self.comm)
        self.mat.setSizes(((self._size, None), (self._size, None)))
        self.mat.setType(PETSc.Mat.Type.AIJ)
        self._times += 1
        self._has_all = self._space.every(bool(kept.all()))
        self._kept = slice(None) if self._has_all else kept  # without copies
        begin, _ = self.mat.createVecs()[0].getOwnershipRange()
        rows, columns, _ = self._mass
        self.mat.setPreallocationCOO(
            np.concatenate([self._entries.rows[self._kept], begin + rows], dtype=PETSc.IntType),
            np.concatenate([self._entries.columns[self._kept], begin + columns], dtype=PETSc.IntType),
        )

    def close(self) -> None:
        """Free what PETSc holds."""
        if self.mat is not None:
            self.mat.destroy()


class ConstantMatrix(Matrix):
    """The same for a constant A: only shift·M changes, and nothing but the matrix is kept."""

    def __init__(self, entries: Entries, mass: Mass | None, size: int, space: Space) -> None:
        super().__init__(entries, mass, size, space)
        self._shift: float | None = None
        self._largest = np.inf
        self._weights: Any = None  # M, where it is not the identity
        if mass is not None:
            nowhere = Entries(entries.rows[:0], entries.columns[:0], entries.values)
            matrix = Matrix(nowhere, mass, size, space)
            matrix.set(np.empty(0), 1.0)
            self._weights = matrix.mat

    def update(self, s: float, u: np.ndarray, shift: float) -> None:
        if self._shift is None:
            super().update(s, u, 0.0)
            # Where each given entry belongs takes more memory than the matrix; a duplicate would keep it too.
            compressed, sizes = self.mat.getValuesCSR(), self.mat.getSizes()
            self.mat.destroy()
            self.mat = PETSc.Mat().createAIJ(sizes, csr=compressed, comm=self.comm)
            del self._entries, self._mass, self._kept
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

    def close(self) -> None:
        super().close()
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
