"""The sparse Jacobian of a field's right-hand side, from products with groups of points."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from stiffml.distributed.decomposition import Decomposition
from stiffml.linear.sparse.compression import Compressed
from stiffml.system.derivatives.dynamics import Dynamics


class StencilJacobian(Compressed):
    """∂f/∂y of a right-hand side whose value at a point depends on the box of ``width`` points around it.

    One product with Jᵀ yields the rows of one species at all points of a group, in which no two are within
    reach of the same point. Every process then holds the columns of its own points.

    Parameters
    ----------
    decomposition : Decomposition
        Of the points of the field.
    species : int
        Numbers at each point.
    """

    def __init__(self, decomposition: Decomposition, species: int) -> None:
        width, ranges = decomposition.width, decomposition.own
        groups = [
            _axis_groups(points, width, wraps)
            for points, wraps in zip(decomposition.shape, decomposition.periodic, strict=True)
        ]
        counts = [int(numbers.max()) + 1 for numbers in groups]
        here = [numbers[start:stop] for numbers, (start, stop) in zip(groups, ranges, strict=True)]
        own: Any = np.ravel_multi_index(np.meshgrid(*here, indexing="ij"), counts)  # (n0, …)
        every = [
            numbers[np.arange(start - width, stop + width) % len(numbers)]
            for numbers, (start, stop) in zip(groups, ranges, strict=True)
        ]
        around: Any = np.ravel_multi_index(np.meshgrid(*every, indexing="ij"), counts)  # (n0 + 2·width, …)
        total = int(np.prod(counts))
        # The group of every unknown of this process, species by species.
        self._seeds = (np.arange(species)[:, None] * total + own.ravel()).ravel()

        shape = tuple(stop - start for start, stop in ranges)
        numbers: Any = decomposition.unknowns(decomposition.ghosted, species)  # (species, n0 + 2·width, …)
        inside = [slice(width, width + extent) for extent in shape]
        mine = numbers[(slice(None), *inside)]
        rows: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        products: list[np.ndarray] = []
        places: list[np.ndarray] = []
        local: Any = np.arange(mine.size).reshape(mine.shape)
        for offset in itertools.product(range(-width, width + 1), repeat=len(shape)):
            box = [slice(width + o, width + o + n) for o, n in zip(offset, shape, strict=True)]
            there = _exists(decomposition, offset)
            for row, column in itertools.product(range(species), repeat=2):
                rows.append(numbers[(row, *box)][there])
                columns.append(mine[column][there])
                products.append(row * total + around[tuple(box)][there])
                places.append(local[column][there])
        every_row, every_column = np.concatenate(rows), np.concatenate(columns)
        # On an axis of few points the same neighbour may lie on both sides.
        _, first = np.unique(np.stack([every_row, every_column]), axis=1, return_index=True)
        product, place = np.concatenate(products)[first], np.concatenate(places)[first]
        super().__init__(every_row[first], every_column[first], total * species, product, place)

    def values(self, dynamics: Dynamics, s: float, u: np.ndarray) -> np.ndarray:
        graph = dynamics.graph(s, u)
        return self._collected(
            lambda group: graph.apply((self._seeds == group).astype(float), transpose=True)
        )


def _exists(decomposition: Decomposition, offset: tuple[int, ...]) -> np.ndarray:
    """(n0, …) whether the point at an offset from each of this process's lies in the domain."""
    inside = []
    for (start, stop), wraps, points, o in zip(
        decomposition.own, decomposition.periodic, decomposition.shape, offset, strict=True
    ):
        places = np.arange(start, stop) + o
        inside.append(((places >= 0) & (places < points)) | wraps)
    return np.logical_and.reduce(np.meshgrid(*inside, indexing="ij"))


def _axis_groups(points: int, width: int, wraps: bool) -> np.ndarray:
    """(points,) groups along an axis: no two points of one within twice the width of one another."""
    apart = 2 * width + 1
    if points <= apart:
        return np.arange(points)
    numbers = np.arange(points) % apart
    left = points % apart
    if wraps and left:
        # What is left over at the end meets the beginning: it gets groups of its own.
        numbers[points - left :] = apart + np.arange(left)
    return numbers
