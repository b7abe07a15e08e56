"""The reverse sweep of a segment by one transposed linear solve instead of row by row.

R = L A x − B f(x) − E g(x) [− J x − τ ∂f/∂s] = 0 are the equations of all steps of a segment. Their
multipliers w solve (∂R/∂x)ᵀ w = dL/dx. The results are the same as those of :mod:`stiffml.gradients.sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stiffml.all_at_once.matrix import Jacobians, matrix_of
from stiffml.all_at_once.structure import Entries, Structure
from stiffml.all_at_once.triangular import factorise
from stiffml.discretization.equations import Equations, Nodes
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
) -> Swept:
    """Reverse a segment as :func:`stiffml.gradients.sweep.sweep` does, for Jacobians as dense blocks."""
    structure = Structure(equations.segment, equations.blocks)
    at_f = jacobians_of(structure, f, equations.f_nodes)
    at_g = None if g is None else jacobians_of(structure, g, equations.g_nodes)
    swept = Swept(
        np.zeros(equations.f_nodes.u.shape), None if g is None else np.zeros(equations.g_nodes.u.shape), []
    )
    shape = (structure.count, system.layout.samples, system.layout.width)
    cotangents = np.zeros((structure.count, system.layout.size))  # those of given states stay zero at first
    given = structure.given
    _take_pending(structure, pending, cotangents)
    of_outputs = _through_outputs(structure, pending, cotangents, swept, at_f, at_g, shape)
    inner, outer = matrix_of(structure, system, at_f, at_g, curvatures)
    multipliers = factorise(inner, structure.unknowns, structure.reach).solve(
        cotangents[given:].reshape(structure.unknowns, *shape[1:]), transpose=True
    )
    flat = multipliers.reshape(structure.unknowns, -1)
    _add_to_nodes(structure.entries, swept, at_f, at_g, lambda row: flat[row - given])
    to_given = cotangents[:given].reshape(given, *shape[1:])
    for row, column, values in outer:
        np.subtract.at(to_given, column, np.einsum("ksij,ksi->ksj", values, multipliers[row]))
    for state, cotangent in zip(structure.known.tolist(), to_given.reshape(given, -1), strict=True):
        pending.add(state, cotangent)
    taken = 0
    for block, at in zip(structure.blocks, structure.positions, strict=True):
        rows = [flat[at[row.column] - given] for row in block.pattern.step_rows]
        for _ in block.pattern.output_rows:
            rows.append(of_outputs[taken : taken + block.steps])
            taken += block.steps
        swept.multipliers.append(np.stack(rows))
    return swept


def _through_outputs(
    structure: Structure,
    pending: Pending,
    cotangents: np.ndarray,
    swept: Swept,
    f: Jacobians,
    g: Jacobians | None,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Reverse the rows of outputs between the ends of steps, which nothing depends on.

    Adds to the ``cotangents`` (count, size) of what they are made of. Returns their own, (outputs, size).
    """
    zero = np.zeros(cotangents.shape[1])
    own = np.array([pending.pop(state, zero) for state in structure.outputs.tolist()]).reshape(-1, len(zero))
    _add_to_nodes(structure.output_entries, swept, f, g, lambda row: own[row])
    for entry in structure.output_entries:
        w = own[entry.row]
        np.add.at(cotangents, entry.column, -entry.alpha[:, None] * w)
        for jacobians, numbers in ((f, entry.beta), (g, entry.epsilon)):
            if jacobians is not None and numbers.any():
                through = np.einsum("ksij,ksi->ksj", jacobians.at(entry.column), w.reshape(-1, *shape[1:]))
                np.add.at(cotangents, entry.column, numbers[:, None] * through.reshape(w.shape))
    return own


def _add_to_nodes(
    entries: Sequence[Entries],
    swept: Swept,
    f: Jacobians,
    g: Jacobians | None,
    multiplier: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Add β w and ε w to dL/df and dL/dg at the nodes; ``multiplier``: rows (K,) -> w (K, size)."""
    for entry in entries:
        for jacobians, numbers, total in ((f, entry.beta, swept.f), (g, entry.epsilon, swept.g)):
            if jacobians is not None and total is not None and numbers.any():
                # Within an entry no vector occurs twice, so += with index arrays misses nothing.
                total[jacobians.node[entry.column]] += numbers[:, None] * multiplier(entry.row)


def jacobians_of(structure: Structure, linearization: DenseBlocks, nodes: Nodes) -> Jacobians:
    """The Jacobians of a linearization, indexed by position instead of node."""
    node = np.zeros(structure.count, dtype=int)
    for number, at in enumerate(structure.positions):
        for c, where in nodes.index[number].items():
            node[at[c]] = where
    return Jacobians(linearization.at(np.arange(len(nodes.s))), node)


def _take_pending(structure: Structure, pending: Pending, cotangents: np.ndarray) -> None:
    """Move those of the segment's unknowns from ``pending`` to ``cotangents`` (count, size)."""
    states = np.array(list(pending), dtype=int)
    positions = structure.position_of(states)
    for state, position in zip(states.tolist(), positions.tolist(), strict=True):
        if position >= structure.given:
            cotangents[position] += pending.pop(state)
