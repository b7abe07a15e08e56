"""The matrix ∂R/∂x of the equations R = 0 of many steps, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stiffml.all_at_once.structure import Structure
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.system import System


class Jacobians(NamedTuple):
    """The Jacobians ∂f/∂x of f or g at M vectors.

    ``blocks`` (M, samples, width, width) are the Jacobians, ``node`` (count,) maps positions to them.
    """

    blocks: np.ndarray
    node: np.ndarray

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The Jacobians (K, samples, width, width) at the vectors with these positions (K,)."""
        return self.blocks[self.node[positions]]


class Matrix(NamedTuple):
    """∂R/∂x in blocks (…, samples, width, width).

    ``diagonal`` has one for each unknown, ``below`` and ``outside`` those of the entries of these names in
    the topology.
    """

    diagonal: np.ndarray
    below: np.ndarray
    outside: np.ndarray


def matrix_of(
    structure: Structure,
    system: System,
    f: Jacobians,
    g: Jacobians | None,
    curvatures: Sequence[Curvature | None],
) -> Matrix:
    """∂R/∂x with respect to the unknowns and the given states.

    Parameters
    ----------
    structure : Structure
    system : System
    f, g : Jacobians
        g is None if the problem is not split.
    curvatures : sequence of Curvature or None
        For each block the derivative of its Rosenbrock brackets; None for other methods.
    """
    topology, width = structure.topology, system.layout.width
    entries, numbers = topology.entries, structure.coefficients
    alpha = numbers.alpha[:, None, None, None]
    if system.mass is None:
        values = np.zeros((len(entries.row), system.layout.samples, width, width))
        np.einsum("...ii->...i", values)[:] = alpha[..., 0]
    else:
        weights = np.where(entries.weighted[:, None, None, None], system.mass.blocks, np.eye(width))
        shape = (len(entries.row), system.layout.samples, width, width)
        values = np.broadcast_to(alpha * weights, shape).copy()
    for jacobians, which, factors in (
        (f, entries.with_beta, numbers.beta),
        (g, entries.with_epsilon, numbers.epsilon),
    ):
        if jacobians is not None and len(which):
            values[which] -= factors[:, None, None, None] * jacobians.at(entries.column[which])
    for bracket in topology.brackets:
        curvature = curvatures[bracket.block]
        assert curvature is not None
        assert curvature.blocks is not None
        values[bracket.own] -= f.at(entries.column[bracket.base])
        values[bracket.base] -= curvature.blocks[bracket.row.index]
    return Matrix(values[topology.diagonal], values[topology.below], values[topology.outside])
