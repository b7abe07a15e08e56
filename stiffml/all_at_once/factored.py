"""The equations of many steps, linearised and factorised: for Newton's updates, reverse sweeps, tangents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array, csr_array

from stiffml.all_at_once.matrix import Jacobians, matrix_of
from stiffml.all_at_once.structure import Structure
from stiffml.all_at_once.triangular import Triangular, factorise
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.system import System


class Reversed(NamedTuple):
    """The solution of the transposed equations.

    Attributes
    ----------
    multipliers : ndarray
        (unknowns, size, …)
    f, g : ndarray
        (M, size, …) dL/df and dL/dg where the Jacobians are; g is None if the problem is not split.
    """

    multipliers: np.ndarray
    f: np.ndarray
    g: np.ndarray | None


@dataclass(frozen=True)
class Factored(ABC):
    """∂R/∂x of the equations R = 0 of a structure.

    Attributes
    ----------
    structure : Structure
    f, g : Jacobians
        Those of f and g; g is None if the problem is not split.
    """

    structure: Structure
    f: Jacobians
    g: Jacobians | None

    @abstractmethod
    def reverse(self, x: np.ndarray) -> Reversed:
        """Solve the transposed equations, for one loss or, in further places of the arrays, for several.

        ``x`` (count, size, …) has dL/dx of the unknowns; that of the given states is added. Those of unknowns
        have no meaning afterwards.
        """

    @abstractmethod
    def along(self, right: np.ndarray, x: np.ndarray) -> None:
        """Solve ∂R/∂x ẋ = ``right`` (unknowns, size, P).

        ``x`` (count, size, P) has ẋ of the given states, and gets that of the unknowns.
        """


@dataclass(frozen=True)
class FactoredBlocks(Factored):
    """In blocks, for LAPACK.

    Attributes
    ----------
    factors : Triangular
        Of the matrix with respect to the unknowns.
    outside : ndarray
        (entries, samples, width, width) the blocks with respect to the given states, of those entries of the
        topology.
    """

    factors: Triangular
    outside: np.ndarray

    @classmethod
    def of(
        cls,
        structure: Structure,
        system: System,
        f: Jacobians,
        g: Jacobians | None,
        curvatures: Sequence[Curvature | None],
        columns: int = 1,
    ) -> FactoredBlocks:
        """``curvatures``: for each block those of its Rosenbrock brackets; None for other methods.

        ``columns`` is the number of right-hand sides that are to be solved for.
        """
        matrix = matrix_of(structure, system, f, g, curvatures)
        return cls(structure, f, g, factorise(matrix, structure.topology, columns), matrix.outside)

    def reverse(self, x: np.ndarray) -> Reversed:
        topology, size, columns = self.structure.topology, x.shape[1], x.shape[2:]
        given, shape = topology.given, (*self.outside.shape[1:3], *columns)
        multipliers = self.factors.solve(x[given:].reshape(topology.unknowns, *shape), transpose=True)
        flat = multipliers.reshape(topology.unknowns, size, *columns)
        slopes = [
            None
            if part is None
            else product(self.structure.of_slopes(name, part.node, len(part.blocks)).T, flat)
            for name, part in (("f", self.f), ("g", self.g))
        ]
        rows, places = (part[topology.outside] for part in (topology.entries.row, topology.entries.column))
        to_given = x[:given].reshape(given, *shape)
        np.subtract.at(to_given, places, transposed_product(self.outside, multipliers[rows]))
        assert slopes[0] is not None
        return Reversed(flat, slopes[0], slopes[1])

    def along(self, right: np.ndarray, x: np.ndarray) -> None:
        topology, (_, size, count) = self.structure.topology, x.shape
        shape = self.outside.shape[1:3]
        rows, columns = (part[topology.outside] for part in (topology.entries.row, topology.entries.column))
        from_given = self.outside @ x[columns].reshape(-1, *shape, count)
        right = right.copy()
        np.subtract.at(right, rows, from_given.reshape(-1, size, count))
        x[topology.given :] = self.factors.solve(right.reshape(-1, *shape, count)).reshape(right.shape)


def product(matrix: csr_array | csc_array, v: np.ndarray) -> np.ndarray:
    """A sparse matrix (M, K) times v (K, …)."""
    return (matrix @ v.reshape(len(v), math.prod(v.shape[1:]))).reshape(matrix.shape[0], *v.shape[1:])


def transposed_product(blocks: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bᵀ v of blocks (K, samples, w, w) and vectors (K, samples, w), or (K, samples, w, R)."""
    columns = v.reshape(*v.shape[:3], math.prod(v.shape[3:]))
    return (blocks.swapaxes(-1, -2) @ columns).reshape(v.shape)
