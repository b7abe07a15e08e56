"""The reverse sweep of a segment by one transposed solve, instead of step by step.

With R = L A x − B f(x) − E g(x) [− J x − τ ∂f/∂s] = 0 the equations of a segment, the multipliers of all of them
are the w of (∂R/∂x)ᵀ w = dL/dx. What :mod:`stiffml.gradients.sweep` finds row by row is then known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stiffml.all_at_once.structure import Entries, Structure
from stiffml.all_at_once.triangular import Part, factorise
from stiffml.discretization.equations import Equations
from stiffml.discretization.numbering import STAGE
from stiffml.gradients.sweep import Pending, Swept
from stiffml.linear.dense.lu import DenseBlocks
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.system import System


def sweep_at_once(
    equations: Equations,
    system: System,
    f: DenseBlocks,
    g: DenseBlocks | None,
    curvatures: Sequence[Curvature | None],
    pending: Pending,
    sources: dict[str, np.ndarray] | None = None,
) -> Swept:
    """What ``gradients.sweep.sweep`` does, for Jacobians that are dense blocks."""
    structure = Structure(equations.segment, equations.blocks)
    matrix = Matrix(structure, equations, system, f, g, curvatures)
    shape = (structure.unknowns, system.layout.samples, system.layout.width)
    right = np.zeros((structure.unknowns, system.layout.size))
    _take_pending(structure, pending, right)
    _add_sources(structure, equations, sources or {}, right)
    multipliers = factorise(matrix.inner, structure.unknowns, structure.reach).solve(
        right.reshape(shape), transpose=True
    )
    flat = multipliers.reshape(right.shape)
    swept = Swept(
        np.zeros(equations.f_nodes.u.shape),
        None if g is None else np.zeros(equations.g_nodes.u.shape),
        [
            np.stack([flat[at[row.column] - structure.given] for row in block.pattern.rows])
            for block, at in zip(structure.blocks, structure.positions, strict=True)
        ],
    )
    for entry in structure.entries:
        w = flat[entry.row - structure.given]
        if entry.beta.any():
            where = equations.f_nodes.index[entry.block][entry.c]
            np.add.at(swept.f, where, entry.beta[:, None] * w)
        if entry.epsilon.any() and swept.g is not None:
            where = equations.g_nodes.index[entry.block][entry.c]
            np.add.at(swept.g, where, entry.epsilon[:, None] * w)
    to_given = np.zeros((structure.given, *shape[1:]))
    for row, column, values in matrix.outer:
        np.subtract.at(to_given, column, np.einsum("ksij,ksi->ksj", values, multipliers[row]))
    for state, cotangent in zip(structure.known.tolist(), to_given.reshape(len(to_given), -1), strict=True):
        pending.add(state, cotangent)
    return swept


class Matrix:
    """∂R/∂x in blocks.

    Attributes
    ----------
    inner : list of Part
        By the unknowns, whose positions begin at 0 here.
    outer : list of Part
        By the vectors that the segment starts from.
    """

    def __init__(
        self,
        structure: Structure,
        equations: Equations,
        system: System,
        f: DenseBlocks,
        g: DenseBlocks | None,
        curvatures: Sequence[Curvature | None],
    ) -> None:
        self._identity = np.eye(system.layout.width)[None]
        self._mass = self._identity if system.mass is None else system.mass.blocks
        self.inner: list[Part] = []
        self.outer: list[Part] = []
        self._given = structure.given
        self._shape = (system.layout.samples, system.layout.width, system.layout.width)
        for entry in structure.entries:
            self._add(entry, self._block(entry, equations, f, g))
        for number, (block, curvature) in enumerate(zip(structure.blocks, curvatures, strict=True)):
            if curvature is None:
                continue
            at = structure.positions[number]
            base, where = at[block.pattern.base], equations.f_nodes.index[number][block.pattern.base]
            for row in block.pattern.rows:
                if row.rosenbrock:
                    own = at[row.column]
                    self._place(own, own, -f.at(where))
                    assert curvature.blocks is not None
                    self._place(own, base, -curvature.blocks[row.index])

    def _block(
        self, entry: Entries, equations: Equations, f: DenseBlocks, g: DenseBlocks | None
    ) -> np.ndarray:
        weight = self._mass if entry.of.weighted else self._identity
        values = entry.alpha[:, None, None, None] * weight
        for part, numbers, nodes in (
            (f, entry.beta, equations.f_nodes),
            (g, entry.epsilon, equations.g_nodes if g is not None else None),
        ):
            if part is not None and nodes is not None and numbers.any():
                jacobian = part.at(nodes.index[entry.block][entry.c])
                values = values - numbers[:, None, None, None] * jacobian
        return values

    def _add(self, entry: Entries, values: np.ndarray) -> None:
        self._place(entry.row, entry.column, values)

    def _place(self, row: np.ndarray, column: np.ndarray, values: np.ndarray) -> None:
        inner, row = column >= self._given, row - self._given
        values = np.broadcast_to(values, (len(row), *self._shape))
        if inner.all():
            self.inner.append(Part(row, column - self._given, values))
            return
        if inner.any():
            self.inner.append(Part(row[inner], column[inner] - self._given, values[inner]))
        self.outer.append(Part(row[~inner], column[~inner], values[~inner]))


def _take_pending(structure: Structure, pending: Pending, right: np.ndarray) -> None:
    """Move the cotangents of what the segment determines from ``pending`` to the right-hand side."""
    states = np.array(list(pending), dtype=int)
    positions = structure.position_of(states)
    for state, position in zip(states.tolist(), positions.tolist(), strict=True):
        if position >= structure.given:
            right[position - structure.given] += pending.pop(state)


def _add_sources(
    structure: Structure, equations: Equations, sources: dict[str, np.ndarray], right: np.ndarray
) -> None:
    """Add dL/dx of stages, which ``sources`` has by the nodes of f and g."""
    for name, values in sources.items():
        nodes = equations.f_nodes if name == "f" else equations.g_nodes
        for number, block in enumerate(structure.blocks):
            for c in block.pattern.stages:
                where = nodes.index[number].get(c)
                if where is not None and (nodes.states[where] == STAGE).all():
                    np.add.at(right, structure.positions[number][c] - structure.given, values[where])
