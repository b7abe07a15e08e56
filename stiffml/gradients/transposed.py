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
    structure = Structure(equations.blocks)
    topology = structure.topology
    at_f = _jacobians(structure, f, equations.f_nodes)
    at_g = None if g is None else _jacobians(structure, g, equations.g_nodes)
    parts = {"f": at_f} if at_g is None else {"f": at_f, "g": at_g}
    size, given, shape = equations.size, topology.given, (system.layout.samples, system.layout.width)
    cotangents = np.zeros((topology.count, size))  # those of given states stay zero at first
    _take_pending(structure, pending, cotangents)
    slopes = {name: np.zeros((len(jacobians.blocks), size)) for name, jacobians in parts.items()}
    of_outputs = np.empty((0, size))
    if len(topology.outputs):
        of_outputs = _through_outputs(structure, pending, cotangents, slopes, parts)
    matrix = matrix_of(structure, system, at_f, at_g, curvatures)
    multipliers = factorise(matrix, topology).solve(
        cotangents[given:].reshape(topology.unknowns, *shape), transpose=True
    )
    flat = multipliers.reshape(topology.unknowns, size)
    for name, jacobians in parts.items():
        if len(jacobians.blocks):
            through = structure.of_slopes(name, jacobians.node, len(jacobians.blocks))
            slopes[name] += through.T @ flat
    rows, columns = (part[topology.outside] for part in (topology.entries.row, topology.entries.column))
    to_given = cotangents[:given].reshape(given, *shape)
    np.subtract.at(to_given, columns, (multipliers[rows][:, :, None] @ matrix.outside)[:, :, 0])
    for state, cotangent in zip(topology.known.tolist(), to_given.reshape(given, -1), strict=True):
        pending.add(state, cotangent)
    swept = Swept(slopes["f"], slopes.get("g"), [])
    for block, at, asked in zip(equations.blocks, topology.positions, topology.output_equations, strict=True):
        steps = np.stack([flat[at[row.column] - given] for row in block.pattern.step_rows])
        swept.multipliers.append(np.concatenate([steps, of_outputs[asked].swapaxes(0, 1)]))
    return swept


def _through_outputs(
    structure: Structure,
    pending: Pending,
    cotangents: np.ndarray,
    slopes: dict[str, np.ndarray],
    parts: dict[str, Jacobians],
) -> np.ndarray:
    """Reverse the rows of outputs between the ends of steps, which nothing depends on.

    Adds to the ``cotangents`` (count, size) of what they are made of and to those of ``slopes``. Returns
    their own, (outputs, size).
    """
    topology, entries = structure.topology, structure.topology.output_entries
    zero = np.zeros(cotangents.shape[1])
    own = np.array([pending.pop(state, zero) for state in topology.outputs.tolist()])
    cotangents -= structure.outputs_of_vectors().T @ own
    for name, jacobians in parts.items():
        if not len(jacobians.blocks):
            continue
        along = structure.outputs_of_slopes(name, jacobians.node, len(jacobians.blocks)).T @ own
        slopes[name] += along
        at = np.unique(entries.column[entries.with_beta if name == "f" else entries.with_epsilon])
        through = along[jacobians.node[at]].reshape(len(at), -1, 1, jacobians.blocks.shape[-1])
        cotangents[at] += (through @ jacobians.at(at)).reshape(len(at), -1)
    return own


def _jacobians(structure: Structure, linearization: DenseBlocks, nodes: Nodes) -> Jacobians:
    """The Jacobians of a linearization, indexed by position instead of node."""
    node = np.zeros(structure.topology.count, dtype=int)
    for number, at in enumerate(structure.topology.positions):
        for c, where in nodes.index[number].items():
            node[at[c]] = where
    return Jacobians(linearization.at(np.arange(len(nodes.s))), node)


def _take_pending(structure: Structure, pending: Pending, cotangents: np.ndarray) -> None:
    """Move those of the segment's unknowns from ``pending`` to ``cotangents`` (count, size)."""
    states = np.array(list(pending), dtype=int)
    positions = structure.topology.position_of(states)
    own = positions >= structure.topology.given
    if own.any():
        cotangents[positions[own]] = np.stack([pending.pop(state) for state in states[own].tolist()])
