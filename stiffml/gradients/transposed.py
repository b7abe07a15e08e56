"""The reverse sweep of a segment by one transposed linear solve instead of row by row.

R = L A x − B f(x) − E g(x) [− J x − τ ∂f/∂s] = 0 are the equations of all steps of a segment. Their
multipliers w solve (∂R/∂x)ᵀ w = dL/dx. The results are the same as those of :mod:`stiffml.gradients.sweep`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stiffml.all_at_once.matrix import Jacobians, matrix_of
from stiffml.all_at_once.structure import Structure
from stiffml.all_at_once.triangular import factorise
from stiffml.discretization.equations import Equations, Nodes
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
    """Reverse a segment as :func:`stiffml.gradients.sweep.sweep` does, for Jacobians as dense blocks."""
    structure = Structure(equations.segment, equations.blocks)
    at_f = _jacobians(structure, f, equations.f_nodes)
    at_g = None if g is None else _jacobians(structure, g, equations.g_nodes)
    inner, outer = matrix_of(structure, system, at_f, at_g, curvatures)
    shape = (structure.unknowns, system.layout.samples, system.layout.width)
    right = np.zeros((structure.unknowns, system.layout.size))
    _take_pending(structure, pending, right)
    _add_sources(structure, equations, sources or {}, right)
    multipliers = factorise(inner, structure.unknowns, structure.reach).solve(
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
        # Within an entry no vector occurs twice, so += with index arrays misses nothing.
        if entry.beta.any():
            swept.f[at_f.node[entry.column]] += entry.beta[:, None] * w
        if at_g is not None and swept.g is not None and entry.epsilon.any():
            swept.g[at_g.node[entry.column]] += entry.epsilon[:, None] * w
    to_given = np.zeros((structure.given, *shape[1:]))
    for row, column, values in outer:
        np.subtract.at(to_given, column, np.einsum("ksij,ksi->ksj", values, multipliers[row]))
    for state, cotangent in zip(structure.known.tolist(), to_given.reshape(len(to_given), -1), strict=True):
        pending.add(state, cotangent)
    return swept


def _jacobians(structure: Structure, linearization: DenseBlocks, nodes: Nodes) -> Jacobians:
    """The Jacobians of a linearization, indexed by position instead of node."""
    node = np.zeros(structure.count, dtype=int)
    for number, at in enumerate(structure.positions):
        for c, where in nodes.index[number].items():
            node[at[c]] = where
    return Jacobians(linearization.at(np.arange(len(nodes.s))), node)


def _take_pending(structure: Structure, pending: Pending, right: np.ndarray) -> None:
    """Move the cotangents of the segment's unknowns from ``pending`` to the right-hand side."""
    states = np.array(list(pending), dtype=int)
    positions = structure.position_of(states)
    for state, position in zip(states.tolist(), positions.tolist(), strict=True):
        if position >= structure.given:
            right[position - structure.given] += pending.pop(state)


def _add_sources(
    structure: Structure, equations: Equations, sources: dict[str, np.ndarray], right: np.ndarray
) -> None:
    """Add dL/dx of stages to the right-hand side; ``sources`` has them by the nodes of f and g."""
    for name, values in sources.items():
        nodes = equations.f_nodes if name == "f" else equations.g_nodes
        for number, block in enumerate(structure.blocks):
            for c in block.pattern.stages:
                where = nodes.index[number].get(c)
                if where is not None and (nodes.states[where] == STAGE).all():
                    np.add.at(right, structure.positions[number][c] - structure.given, values[where])
