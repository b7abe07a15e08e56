"""The tangents of a segment along P directions by one linear solve with P right-hand sides.

R = L A x − B f(x) − E g(x) [− D(x)] = 0 are the equations of all steps of a segment, with the brackets D of
Rosenbrock rows. ẋ₀ are the tangents of the given states. Those of all other vectors solve

    ∂R/∂x ẋ  =  B ∂f/∂θ θ̇ + E ∂g/∂θ θ̇ [+ ∂D/∂θ θ̇] − ∂R/∂x₀ ẋ₀.

The results are the same as those of :mod:`stiffml.gradients.tangent_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stiffml.all_at_once.matrix import Jacobians, matrix_of
from stiffml.all_at_once.structure import Entries, Structure
from stiffml.all_at_once.triangular import factorise
from stiffml.discretization.equations import Equations, Nodes
from stiffml.gradients.tangent_steps import Changes, Tangents
from stiffml.gradients.transposed import jacobians_of
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
    structure = Structure(equations.segment, equations.blocks)
    given, count = structure.given, len(next(iter(states.values())))
    size, shape = system.layout.size, (system.layout.samples, system.layout.width)
    parts = [_Part("f", jacobians_of(structure, f, equations.f_nodes), equations.f_nodes)]
    if g is not None:
        parts.append(_Part("g", jacobians_of(structure, g, equations.g_nodes), equations.g_nodes))
    x = np.zeros((structure.count, size, count))
    for position, state in enumerate(structure.known.tolist()):
        x[position] = states[state].T
    right = np.zeros((structure.unknowns, size, count))
    for entry in structure.entries:
        for part in parts:
            if part.numbers(entry).any():
                right[entry.row - given] += part.direct(entry, changes)
    for block, at, brackets in zip(structure.blocks, structure.positions, changes.brackets, strict=True):
        for row in block.pattern.step_rows:
            if row.rosenbrock:
                right[at[row.column] - given] += brackets[row.index]
    at_f, at_g = parts[0].jacobians, parts[1].jacobians if g is not None else None
    inner, outer = matrix_of(structure, system, at_f, at_g, changes.curvatures)
    for at_row, at_column, values in outer:  # within one of which no row occurs twice
        right[at_row] -= (values @ x[at_column].reshape(-1, *shape, count)).reshape(-1, size, count)
    factors = factorise(inner, structure.unknowns, structure.reach, columns=count)
    x[given:] = factors.solve(right.reshape(-1, *shape, count)).reshape(right.shape)
    for block, at in zip(structure.blocks, structure.positions, strict=True):
        for row in block.pattern.step_rows:
            held = block.state_of(row.column)
            if held is not None:
                states.update(zip(held.tolist(), x[at[row.column]].swapaxes(1, 2), strict=True))
    outputs = _outputs(structure, x, parts, changes, shape)
    states.update(zip(structure.outputs.tolist(), outputs.swapaxes(1, 2), strict=True))
    found = [np.moveaxis(x[_positions(structure, part.nodes)], -1, 0) for part in parts]
    of_brackets = [
        {
            row.index: np.moveaxis(x[at[row.column]], -1, 0)
            for row in block.pattern.step_rows
            if row.rosenbrock
        }
        for block, at in zip(structure.blocks, structure.positions, strict=True)
    ]
    return Tangents(found[0], found[1] if g is not None else None, of_brackets)


@dataclass(frozen=True)
class _Part:
    """f or g, by name, with its Jacobians and nodes."""

    name: str
    jacobians: Jacobians
    nodes: Nodes

    def numbers(self, entry: Entries) -> np.ndarray:
        """(K,) its coefficients in an entry."""
        return entry.beta if self.name == "f" else entry.epsilon

    def direct(self, entry: Entries, changes: Changes) -> np.ndarray:
        """β ∂f/∂θ θ̇ of an entry, (K, size, P)."""
        at_nodes = changes.through[self.name][self.jacobians.node[entry.column]]
        return self.numbers(entry)[:, None, None] * at_nodes


def _outputs(
    structure: Structure, x: np.ndarray, parts: Sequence[_Part], changes: Changes, shape: tuple[int, int]
) -> np.ndarray:
    """The tangents (outputs, size, P) of outputs between the ends of steps: explicit rows."""
    found = np.zeros((len(structure.outputs), *x.shape[1:]))
    for entry in structure.output_entries:
        along = x[entry.column]
        total = -entry.alpha[:, None, None] * along
        for part in parts:
            numbers = part.numbers(entry)
            if numbers.any():
                columns = along.reshape(-1, *shape, along.shape[-1])
                through = (part.jacobians.at(entry.column) @ columns).reshape(along.shape)
                total += numbers[:, None, None] * through + part.direct(entry, changes)
        found[entry.row] += total
    return found


def _positions(structure: Structure, nodes: Nodes) -> np.ndarray:
    """The positions of nodes, (M,)."""
    found = np.zeros(len(nodes.s), dtype=int)
    for index, at in zip(nodes.index, structure.positions, strict=True):
        for c, where in index.items():
            found[where] = at[c]
    return found
