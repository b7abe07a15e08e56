"""Sparse Jacobians: many columns, or rows, from one product each."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.sparse import csr_array

from stiffml.system.derivatives.colouring import colour_columns
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Graph

ROUNDING = 100.0
"""By how many units of rounding of its largest component a random product may be off everywhere."""

BATCHED = 2**15
"""Numbers up to which products in one call are faster: they save overhead, while they fit into the cache."""


class Compressed(ABC):
    """A Jacobian of known sparsity.

    Attributes
    ----------
    rows, columns : ndarray
        (entries,) of this process, numbered over all processes.
    products : int
        How many products its evaluation takes.
    """

    rows: np.ndarray
    columns: np.ndarray
    products: int

    @abstractmethod
    def values(self, dynamics: Dynamics, s: float, u: np.ndarray) -> np.ndarray:
        """(entries,) at one state.

        Raises
        ------
        ValueError
            If the Jacobian has entries elsewhere.
        """


class Coloured(Compressed):
    """Rows that share no column come from one product with Jᵀ, or columns that share no row from one with J.

    Whichever takes fewer (Curtis, Powell & Reid, J. Inst. Math. Appl. 13 (1974); Coleman & Verma, SIAM J.
    Sci. Comput. 19 (1998)). Each evaluation is compared with one product more, with a random vector.

    Parameters
    ----------
    pattern : csr_array
        (n, n)

    Attributes
    ----------
    is_symmetric : bool
        Whether the pattern is.
    """

    def __init__(self, pattern: csr_array) -> None:
        coordinates = pattern.tocoo()
        # Patterns are often larger than states.
        self.rows, self.columns = (numbers.astype(np.int32) for numbers in (coordinates.row, coordinates.col))
        self.size = pattern.shape[0]
        transposed = pattern.T.tocsr()
        self._groups, self._by_rows = colour_columns(transposed), True
        self.is_symmetric = (transposed != pattern).nnz == 0
        if not self.is_symmetric:
            of_columns = colour_columns(pattern)
            if of_columns.max(initial=0) < self._groups.max(initial=0):
                self._groups, self._by_rows = of_columns, False
        self.products = int(self._groups.max(initial=-1)) + 1
        seeds, found = (self.rows, self.columns) if self._by_rows else (self.columns, self.rows)
        group = self._groups[seeds]
        order = np.argsort(group, kind="stable").astype(np.int32)
        ends = np.searchsorted(group[order], np.arange(self.products + 1))
        self._entries = [order[ends[g] : ends[g + 1]] for g in range(self.products)]
        self._found = [found[entries] for entries in self._entries]
        self._random = np.random.default_rng(0)
        self._batches = True  # until it is known that f does not allow it

    def values(self, dynamics: Dynamics, s: float, u: np.ndarray) -> np.ndarray:
        graph = dynamics.graph(s, u)
        values = np.empty(len(self.rows))
        products = self._batch(graph)
        for group, (entries, found) in enumerate(zip(self._entries, self._found, strict=True)):
            product = self._product(graph, group) if products is None else products[group]
            values[entries] = product[found]
        self._require_complete(values, graph, dynamics)
        return values

    def _product(self, graph: Graph, group: int) -> np.ndarray:
        return graph.apply((self._groups == group).astype(float), transpose=self._by_rows)

    def _batch(self, graph: Graph) -> np.ndarray | None:
        """(products, n) all at once, where that is allowed and pays."""
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
            return  # a step that failed, of which nothing can be said
        # Each component by itself, since a single large one must not hide what the others lack.
        eps = torch.finfo(dynamics.layout.dtype).eps
        excess = off - np.sqrt(eps) * size - ROUNDING * eps * size.max(initial=0.0)
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
