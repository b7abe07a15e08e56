"""Sparse Jacobians, of which one product yields many rows or columns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_array

from stiffml.system.derivatives.colouring import colour_columns
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Graph
from stiffml.system.derivatives.product_check import beyond_rounding
from stiffml.system.space import field_of

BATCHED = 2**15
"""Numbers in all products up to which one call for all is faster: it saves overhead while they fit into the
cache."""


class Compressed(ABC):
    """A Jacobian of known sparsity.

    Attributes
    ----------
    rows, columns : ndarray
        (entries,) those of this process, numbered over all processes.
    products : int
        How many products its evaluation takes.

    Parameters
    ----------
    rows, columns, products
        As above.
    product, place : ndarray
        (entries,) int: in which product an entry is found, and at which place of it.
    """

    def __init__(
        self, rows: np.ndarray, columns: np.ndarray, products: int, product: np.ndarray, place: np.ndarray
    ) -> None:
        self.rows, self.columns, self.products = rows, columns, products
        order = np.argsort(product, kind="stable").astype(np.int32)
        ends = np.searchsorted(product[order], np.arange(products + 1))
        self._entries = [order[ends[g] : ends[g + 1]] for g in range(products)]
        self._places = [place[entries] for entries in self._entries]

    @property
    def description(self) -> str:
        """How many entries there are, and where they come from, in a few words."""
        return f"{len(self.rows)} entries from {self.products} products"

    def _collected(self, product: Callable[[int], np.ndarray]) -> np.ndarray:
        """(entries,) from the products by number."""
        values = np.empty(len(self.rows))
        for number, (entries, places) in enumerate(zip(self._entries, self._places, strict=True)):
            values[entries] = product(number)[places]
        return values

    @abstractmethod
    def values(self, dynamics: Dynamics, s: float, u: np.ndarray) -> np.ndarray:
        """(entries,) at one state.

        Raises
        ------
        ValueError
            If the Jacobian has entries elsewhere.
        """


@runtime_checkable
class HasSparseJacobian(Protocol):
    """A field that knows the sparsity of its right-hand sides."""

    part_shape: tuple[int, ...]
    """The shape of this process's part of a state."""

    def sparse_jacobian(self) -> Compressed:
        """∂f/∂y of any right-hand side of the field."""


def offered_jacobian(func: object, size: int) -> Callable[[], Compressed] | None:
    """The sparse Jacobian that the field of a right-hand side offers; None without such a field.

    A state of another ``size`` than that of a part of the field holds more than the field.
    """
    field = field_of(func)
    if not isinstance(field, HasSparseJacobian) or math.prod(field.part_shape) != size:
        return None
    return field.sparse_jacobian


class LocalJacobian(Compressed):
    """A Jacobian that is whole in this process.

    Attributes
    ----------
    size : int
        Of a state.
    is_symmetric : bool
        Whether the pattern is.
    """

    size: int
    is_symmetric: bool

    is_of_graph = False
    """Whether it is made of products with the autograd graph of f."""

    def matrix(self, dynamics: Dynamics, s: float, u: np.ndarray) -> csr_array:
        """(size, size) at one state; raises as :meth:`values` does."""
        values = self.values(dynamics, s, u)
        return csr_array((values, (self.rows, self.columns)), shape=(self.size, self.size))


class Coloured(LocalJacobian):
    """Rows that share no column come from one product with Jᵀ, or columns that share no row from one with J.

    The way that takes fewer products is used (Curtis, Powell & Reid, J. Inst. Math. Appl. 13 (1974);
    Coleman & Verma, SIAM J. Sci. Comput. 19 (1998)). Each evaluation is checked by a further product, with a
    random vector.

    Parameters
    ----------
    pattern : csr_array
        (n, n)
    """

    is_of_graph = True

    def __init__(self, pattern: csr_array) -> None:
        coordinates = pattern.tocoo()
        # Patterns are often larger than states.
        rows, columns = (numbers.astype(np.int32) for numbers in (coordinates.row, coordinates.col))
        self.size = pattern.shape[0]
        transposed = pattern.T.tocsr()
        self._groups, self._by_rows = colour_columns(transposed), True
        self.is_symmetric = (transposed != pattern).nnz == 0
        if not self.is_symmetric:
            of_columns = colour_columns(pattern)
            if of_columns.max(initial=0) < self._groups.max(initial=0):
                self._groups, self._by_rows = of_columns, False
        seeds, places = (rows, columns) if self._by_rows else (columns, rows)
        products = int(self._groups.max(initial=-1)) + 1
        super().__init__(rows, columns, products, self._groups[seeds], places)
        self._random = np.random.default_rng(0)
        self._batches = True  # until it is known that f does not allow it

    def values(self, dynamics: Dynamics, s: float, u: np.ndarray) -> np.ndarray:
        graph = dynamics.graph(s, u)
        products = self._batch(graph)
        values = self._collected(
            (lambda group: self._product(graph, group)) if products is None else products.__getitem__
        )
        self._require_complete(values, graph, dynamics)
        return values

    def _product(self, graph: Graph, group: int) -> np.ndarray:
        return graph.apply((self._groups == group).astype(float), transpose=self._by_rows)

    def _batch(self, graph: Graph) -> np.ndarray | None:
        """(products, n) all in one call; None where f does not allow it, or it would be slower."""
        if not self._batches or not self._by_rows or not 1 < self.products <= BATCHED // self.size:
            return None
        seeds = (self._groups == np.arange(self.products)[:, None]).astype(float)
        found = graph.transposed_products(seeds)
        self._batches = found is not None
        return found

    def _require_complete(self, values: np.ndarray, graph: Graph, dynamics: Dynamics) -> None:
        matrix = csr_array((values, (self.rows, self.columns)), shape=(self.size, self.size))
        matrix = matrix.T if self._by_rows else matrix
        v = self._random.standard_normal(self.size)
        exact = graph.apply(v, transpose=self._by_rows)
        with np.errstate(invalid="ignore"):
            off, size = np.abs(matrix @ v - exact), abs(matrix) @ np.abs(v)
        if not np.isfinite(off).all():
            return  # f or its Jacobian is not finite, and the step fails
        excess = beyond_rounding(off, size, dynamics.eps)
        if excess.max(initial=0.0) <= 0:
            return
        worst = int(np.argmax(excess))
        kind = "column" if self._by_rows else "row"
        raise MissingEntriesError(
            f"jacobian: the sparsity pattern lacks entries that the Jacobian has, in the {kind} of component "
            f"{list(dynamics.layout.component(worst))}. Try: a Sparsity with more entries, or "
            "jacobian='matrix-free'"
        )


class MissingEntriesError(ValueError):
    """A Jacobian has entries where its sparsity pattern has none."""
