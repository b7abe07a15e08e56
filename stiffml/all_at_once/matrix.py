"""The matrix ∂R/∂x of the equations R = 0 of many steps, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stiffml.all_at_once.structure import Entries, Structure
from stiffml.all_at_once.triangular import Part
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


def matrix_of(
    structure: Structure,
    system: System,
    f: Jacobians,
    g: Jacobians | None,
    curvatures: Sequence[Curvature | None],
) -> tuple[list[Part], list[Part]]:
    """∂R/∂x with respect to the unknowns, and with respect to the given states.

    Rows, and columns of unknowns, are positions minus the number of given states, so that they start from 0.

    Parameters
    ----------
    structure : Structure
    system : System
    f, g : Jacobians
        g is None if the problem is not split.
    curvatures : sequence of Curvature or None
        For each block the derivative of its Rosenbrock brackets; None for other methods.
    """
    width = system.layout.width
    identity = np.eye(width)[None]
    mass = identity if system.mass is None else system.mass.blocks
    shape = (system.layout.samples, width, width)
    inner: list[Part] = []
    outer: list[Part] = []

    def place(row: np.ndarray, column: np.ndarray, values: np.ndarray) -> None:
        inside, row = column >= structure.given, row - structure.given
        values = np.broadcast_to(values, (len(row), *shape))
        if inside.all():
            inner.append(Part(row, column - structure.given, values))
            return
        if inside.any():
            inner.append(Part(row[inside], column[inside] - structure.given, values[inside]))
        outer.append(Part(row[~inside], column[~inside], values[~inside]))

    for entry in structure.entries:
        place(entry.row, entry.column, _block(entry, mass if entry.of.weighted else identity, f, g))
    for block, at, curvature in zip(structure.blocks, structure.positions, curvatures, strict=True):
        if curvature is None:
            continue
        assert curvature.blocks is not None
        base = at[block.pattern.base]
        for row in block.pattern.rows:
            if row.rosenbrock:
                place(at[row.column], at[row.column], -f.at(base))
                place(at[row.column], base, -curvature.blocks[row.index])
    return inner, outer


def _block(entry: Entries, weight: np.ndarray, f: Jacobians, g: Jacobians | None) -> np.ndarray:
    values = entry.alpha[:, None, None, None] * weight
    for jacobians, numbers in ((f, entry.beta), (g, entry.epsilon)):
        if jacobians is not None and numbers.any():
            values = values - numbers[:, None, None, None] * jacobians.at(entry.column)
    return values
