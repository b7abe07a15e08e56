"""Periodic finite differences in torch, and where their Jacobians have entries."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

Offsets = Iterable[tuple[int, ...]]


def neighbours(u: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The values one point before and one point after along a periodic axis."""
    return u.roll(1, axis), u.roll(-1, axis)


def second_difference(u: Tensor, axis: int) -> Tensor:
    """u[i−1] − 2u[i] + u[i+1]."""
    before, after = neighbours(u, axis)
    return before - 2 * u + after


def laplacian(u: Tensor) -> Tensor:
    """The five-point stencil over the last two axes, for a spacing of 1."""
    north, south = neighbours(u, -2)
    west, east = neighbours(u, -1)
    return north + south + west + east - 4 * u


def star(dimensions: int, reach: int = 1) -> list[tuple[int, ...]]:
    """Offsets of the point itself and of up to ``reach`` neighbours each way along each axis."""
    offsets = [(0,) * dimensions]
    for axis, step in itertools.product(range(dimensions), range(1, reach + 1)):
        for sign in (-step, step):
            offsets.append(tuple(sign if i == axis else 0 for i in range(dimensions)))
    return offsets


def stencil_sparsity(shape: tuple[int, ...], couplings: Mapping[tuple[int, int], Offsets]) -> csr_array:
    """The pattern of a Jacobian over a periodic grid.

    Parameters
    ----------
    shape : tuple of int
        Of the state: components first, then the grid.
    couplings : mapping
        (component of rhs, component of y) -> the offsets at which the one depends on the other.

    Returns
    -------
    csr_array
        (n, n) bool over the flat state.
    """
    numbers = np.arange(np.prod(shape)).reshape(shape)
    axes = tuple(range(len(shape) - 1))
    rows, columns = [], []
    for (row, column), offsets in couplings.items():
        for offset in offsets:
            rows.append(numbers[row].ravel())
            columns.append(np.roll(numbers[column], [-o for o in offset], axes).ravel())
    places = (np.concatenate(rows), np.concatenate(columns))
    pattern = csr_array((np.ones(len(places[0]), dtype=bool), places), shape=(numbers.size, numbers.size))
    pattern.sum_duplicates()
    return pattern


def reaction_diffusion_sparsity(shape: tuple[int, ...]) -> csr_array:
    """The pattern where each component diffuses by itself and reacts with all others at its point."""
    dimensions = len(shape) - 1
    here, neighbourhood = star(dimensions, reach=0), star(dimensions)
    pairs = itertools.product(range(shape[0]), repeat=2)
    return stencil_sparsity(shape, {(i, j): neighbourhood if i == j else here for i, j in pairs})
