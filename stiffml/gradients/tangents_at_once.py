"""The tangents of a segment along P directions by one linear solve with P right-hand sides.

R = L A x − B f(x) − E g(x) [− D(x)] = 0 are the equations of all steps of a segment, with the brackets D of
Rosenbrock rows. ẋ₀ are the tangents of the given states. Those of all other vectors solve

    ∂R/∂x ẋ  =  B ∂f/∂θ θ̇ + E ∂g/∂θ θ̇ [+ ∂D/∂θ θ̇] − ∂R/∂x₀ ẋ₀.

The results are the same as those of :mod:`stiffml.gradients.tangent_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stiffml.all_at_once.factored import Factored, product
from stiffml.all_at_once.matrix import Jacobians
from stiffml.all_at_once.topology import Topology
from stiffml.discretization.equations import Equations, Nodes
from stiffml.gradients.tangent_steps import Changes, Tangents
from stiffml.gradients.transposed import factored_anew, nodes_of_positions
from stiffml.linear.dense.lu import DenseBlocks
from stiffml.system.system import System


def tangents_at_once(
    equations: Equations,
    system: System,
    f: DenseBlocks,
    g: DenseBlocks | None,
    changes: Changes,
    states: dict[int, np.ndarray],
) -> Tangents:
    """The same as :func:`stiffml.gradients.tangent_steps.tangents_row_by_row`, for dense blocks."""
    count = len(next(iter(states.values())))
    factored = factored_anew(equations, system, f, g, changes.curvatures, columns=count)
    structure, topology = factored.structure, factored.structure.topology
    given, size, shape = topology.given, system.layout.size, (system.layout.samples, system.layout.width)
    parts = [_Part("f", factored.f, equations.f_nodes, topology)]
    if factored.g is not None:
        parts.append(_Part("g", factored.g, equations.g_nodes, topology))
    x = np.zeros((topology.count, size, count))
    for position, state in enumerate(topology.known.tolist()):
        x[position] = states[state].T
    right = np.zeros((topology.unknowns, size, count))
    for part in parts:
        through = changes.through[part.name]
        if len(through):
            right += product(structure.of_slopes(part.name, part.node_of, len(through)), through)
    for block, at, brackets in zip(equations.blocks, topology.positions, changes.brackets, strict=True):
        for row in block.pattern.step_rows:
            if row.rosenbrock:
                right[at[row.column] - given] += brackets[row.index]
    factored.along(right, x)
    for block, at in zip(equations.blocks, topology.positions, strict=True):
        for row in block.pattern.step_rows:
            held = block.state_of(row.column)
            if held is not None:
                states.update(zip(held.tolist(), x[at[row.column]].swapaxes(1, 2), strict=True))
    if len(topology.outputs):
        outputs = _outputs(factored, x, parts, changes, shape)
        states.update(zip(topology.outputs.tolist(), outputs.swapaxes(1, 2), strict=True))
    found = [np.moveaxis(x[part.positions], -1, 0) for part in parts]
    of_brackets = [
        {
            row.index: np.moveaxis(x[at[row.column]], -1, 0)
            for row in block.pattern.step_rows
            if row.rosenbrock
        }
        for block, at in zip(equations.blocks, topology.positions, strict=True)
    ]
    return Tangents(found[0], found[1] if g is not None else None, of_brackets)


class _Part:
    """f or g, by name, with its Jacobians, and (count,) and (M,) int, from positions to nodes and back."""

    def __init__(self, name: str, jacobians: Jacobians, nodes: Nodes, topology: Topology) -> None:
        self.name, self.jacobians = name, jacobians
        self.node_of = nodes_of_positions(topology, nodes)
        self.positions = np.zeros(len(nodes.s), dtype=int)
        evaluated = np.flatnonzero(self.node_of >= 0)
        self.positions[self.node_of[evaluated]] = evaluated


def _outputs(
    factored: Factored, x: np.ndarray, parts: Sequence[_Part], changes: Changes, shape: tuple[int, int]
) -> np.ndarray:
    """The tangents (outputs, size, P) of outputs between the ends of steps: explicit rows."""
    structure = factored.structure
    found = -product(structure.outputs_of_vectors(), x)
    for part in parts:
        if not len(part.positions):
            continue
        along = x[part.positions]
        slopes = part.jacobians.at(part.positions) @ along.reshape(-1, *shape, along.shape[-1])
        moved = slopes.reshape(along.shape) + changes.through[part.name]
        found += product(structure.outputs_of_slopes(part.name, part.node_of, len(moved)), moved)
    return found
