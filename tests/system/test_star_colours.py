"""Colours of stars of neighbours: as many as an entry has neighbours, not as a box around it has points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, diags_array, eye_array, kron
from torch import Tensor

from problems.stencils import Offsets, star, stencil_sparsity
from stiffml import Sparsity
from stiffml.linear.sparse.compression import Coloured
from stiffml.system.derivatives.colouring import colour_columns
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.state import Layout


def between_walls(*shape: int) -> csr_array:
    """The nearest neighbours on a grid that is not periodic."""
    total = csr_array((math.prod(shape), math.prod(shape)))
    for axis, points in enumerate(shape):
        ones = np.ones(points)
        along = diags_array([ones[1:], ones, ones[1:]], offsets=[-1, 0, 1])
        before, after = eye_array(math.prod(shape[:axis])), eye_array(math.prod(shape[axis + 1 :]))
        total = total + kron(kron(before, along), after)
    return csr_array(total)


def periodic(shape: tuple[int, ...], reach: int = 1) -> csr_array:
    return stencil_sparsity((1, *shape), {(0, 0): star(len(shape), reach)})


def reacting(points: int) -> csr_array:
    """Two components that meet at every point."""
    near, here = star(2), [(0, 0)]
    couplings: dict[tuple[int, int], Offsets] = {(0, 0): near, (1, 1): near, (0, 1): here, (1, 0): here}
    return stencil_sparsity((2, points, points), couplings)


PATTERNS = {
    "5 points, walls": (between_walls(30, 30), 5),
    "5 points, walls, primes": (between_walls(37, 41), 5),
    "5 points, walls, 4 columns": (between_walls(50, 4), 8),
    "5 points, periodic": (periodic((30, 30)), 5),
    "5 points, periodic, not by 5": (periodic((32, 32)), 8),
    "9 points, reach 2, periodic": (periodic((30, 30), 2), 10),
    "7 points, walls": (between_walls(11, 12, 13), 7),
    "7 points, periodic": (periodic((14, 14, 14)), 7),
    "two components, periodic": (reacting(32), 8),
}
"""With the colours that each may take. A box of neighbours has 9 points, 25 for a reach of 2, and 27 in three
dimensions. On a torus whose sides are no multiples of 5 five colours do not suffice."""


@pytest.mark.parametrize("name", PATTERNS)
def test_stars_need_few_colours(name: str) -> None:
    pattern, most = PATTERNS[name]
    groups = colour_columns(pattern)
    entries = pattern.tocoo()
    count = int(groups.max()) + 1
    assert np.bincount(entries.row * count + groups[entries.col]).max() == 1, "two of a group share a row"
    assert count <= most


def test_axes_that_are_no_grid_are_coloured_all_the_same() -> None:
    """Distances that are frequent, but no strides of a grid of this size."""
    n = 211
    offsets = [-50, -7, -1, 0, 1, 7, 50]
    pattern = csr_array(diags_array([np.ones(n - abs(o)) for o in offsets], offsets=offsets))
    groups, entries = colour_columns(pattern), pattern.tocoo()
    count = int(groups.max()) + 1
    assert np.bincount(entries.row * count + groups[entries.col]).max() == 1


@pytest.mark.parametrize("shape", [(6, 7), (4, 4, 5)])
def test_jacobians_are_the_dense_ones(shape: tuple[int, ...]) -> None:
    pattern = between_walls(*shape)

    def func(t: Tensor, y: Tensor) -> Tensor:
        change = torch.sin(y) - 3 * y
        for axis, step in itertools.product(range(len(shape)), (1, -1)):
            moved = y.roll(step, axis)
            edge = [slice(None)] * len(shape)
            edge[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            keep = torch.ones_like(y)
            keep[tuple(edge)] = 0
            change = change + keep * moved**2
        return change

    y = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coloured = Coloured(Sparsity(pattern).pattern)
    assert coloured.products <= 2 * len(shape) + 2
    values = coloured.values(Dynamics(func, Layout.of(y, 0)), 0.0, y.flatten().numpy())
    found = np.zeros(pattern.shape)
    found[coloured.rows, coloured.columns] = values
    exact = torch.autograd.functional.jacobian(lambda v: func(torch.zeros(()), v), y)
    assert np.allclose(found, exact.reshape(pattern.shape).numpy(), rtol=1e-12, atol=1e-12)
