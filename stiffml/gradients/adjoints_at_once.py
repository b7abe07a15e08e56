"""Many adjoints of a run: each segment reversed for all of them by one transposed solve.

As :mod:`stiffml.gradients.transposed`, with a right-hand side for each component of each output. The
multipliers are then contracted with ∂f/∂θ at all nodes. Where that is not to be had, f is differentiated for
each adjoint or for each parameter, whichever are fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stiffml.all_at_once.matrix import Jacobians, matrix_of
from stiffml.all_at_once.structure import Entries, Structure
from stiffml.all_at_once.triangular import factorise
from stiffml.discretization.equations import Equations, Nodes
from stiffml.gradients.adjoint import SEGMENT_NUMBERS, as_blocks, curvatures_of, last_state, longest_segment
from stiffml.gradients.directions import Units
from stiffml.gradients.sweep import Pending
from stiffml.gradients.tangent import linearize_both
from stiffml.gradients.tape import Tape
from stiffml.gradients.transposed import jacobians_of
from stiffml.linear.dense.lu import DenseBlocks
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.system import System


def adjoints_at_once(tape: Tape, units: Units) -> tuple[np.ndarray, np.ndarray] | None:
    """The gradients of every component of every output, R in all, by u0 (R, size) and along ``units`` (R, P).

    None if the Jacobians are not small dense blocks.
    """
    replay, system, readings = tape.replay, tape.replay.system, tape.readings
    size = system.layout.size
    count = len(readings) * size
    pending = Pending()
    for reading, cotangents in zip(readings, np.eye(count).reshape(-1, size, count), strict=True):
        pending.read(reading, cotangents)
    found = np.zeros((count, units.count))
    longest = max(1, min(longest_segment(replay), SEGMENT_NUMBERS // (8 * count * system.f.largest)))
    for segment in tape.checkpoints.segments(replay, last_state(readings), longest):
        segment = replay.with_stages(segment)
        equations = Equations(segment, replay.blocks(segment))
        curvatures = curvatures_of(equations, system.f)
        blocks = as_blocks(*linearize_both(equations, replay), curvatures)
        if blocks is None:
            return None
        _reverse_segment(equations, system, *blocks, curvatures, pending, units, found)
    start = pending.pop(0, np.zeros((size, count)))
    return start.T, found


def _reverse_segment(
    equations: Equations,
    system: System,
    f: DenseBlocks,
    g: DenseBlocks | None,
    curvatures: Sequence[Curvature | None],
    pending: Pending,
    units: Units,
    found: np.ndarray,
) -> None:
    """Reverse a segment, with (size, R) for each state in ``pending``, and add to ``found`` (R, P)."""
    structure = Structure(equations.segment, equations.blocks)
    given, count = structure.given, len(found)
    size, shape = system.layout.size, (system.layout.samples, system.layout.width)
    at_f = jacobians_of(structure, f, equations.f_nodes)
    at_g = None if g is None else jacobians_of(structure, g, equations.g_nodes)
    into = [np.zeros((*equations.f_nodes.u.shape, count))]
    if g is not None:
        into.append(np.zeros((*equations.g_nodes.u.shape, count)))
    cotangents = np.zeros((structure.count, size, count))
    states = np.array(list(pending), dtype=int)
    for state, position in zip(states.tolist(), structure.position_of(states).tolist(), strict=True):
        if position >= given:
            cotangents[position] += pending.pop(state)
    zero = np.zeros((size, count))
    own = np.array([pending.pop(state, zero) for state in structure.outputs.tolist()])
    for entry in structure.output_entries:
        w = own[entry.row]
        np.add.at(cotangents, entry.column, -entry.alpha[:, None, None] * w)
        for jacobians, numbers in ((at_f, entry.beta), (at_g, entry.epsilon)):
            if jacobians is not None and numbers.any():
                transposed = jacobians.at(entry.column).swapaxes(-1, -2)
                through = (transposed @ w.reshape(-1, *shape, count)).reshape(w.shape)
                np.add.at(cotangents, entry.column, numbers[:, None, None] * through)
        _add_to_nodes(entry, (at_f, at_g), into, w)
    inner, outer = matrix_of(structure, system, at_f, at_g, curvatures)
    factors = factorise(inner, structure.unknowns, structure.reach, columns=count)
    multipliers = factors.solve(cotangents[given:].reshape(-1, *shape, count), transpose=True)
    for row, column, values in outer:
        through = (values.swapaxes(-1, -2) @ multipliers[row]).reshape(-1, size, count)
        np.subtract.at(cotangents, column, through)
    for state, cotangent in zip(structure.known.tolist(), cotangents[:given], strict=True):
        pending.add(state, cotangent)
    w = multipliers.reshape(-1, size, count)
    for entry in structure.entries:
        _add_to_nodes(entry, (at_f, at_g), into, w[entry.row - given])
    for dynamics, nodes, values in zip(
        system.parts, (equations.f_nodes, equations.g_nodes), into, strict=False
    ):
        _add_to_parameters(dynamics, nodes, values, units, found)
    for block, at, curvature in zip(structure.blocks, structure.positions, curvatures, strict=True):
        if curvature is not None:
            of_rows = {
                row.index: w[at[row.column] - given] for row in block.pattern.step_rows if row.rosenbrock
            }
            _add_through_brackets(curvature, of_rows, len(block.pattern.rows), units, found)


def _add_to_nodes(
    entry: Entries, jacobians: Sequence[Jacobians | None], into: Sequence[np.ndarray], w: np.ndarray
) -> None:
    """Add β w and ε w to the cotangents (M, size, R) of f and g; ``w`` (K, size, R)."""
    for of_part, numbers, total in zip(jacobians, (entry.beta, entry.epsilon), into, strict=False):
        if of_part is not None and numbers.any():  # within an entry no vector occurs twice
            total[of_part.node[entry.column]] += numbers[:, None, None] * w


def _add_to_parameters(
    dynamics: Dynamics, nodes: Nodes, cotangents: np.ndarray, units: Units, found: np.ndarray
) -> None:
    """Add Σ (∂f/∂θ)ᵀ f̄ over the nodes for each of the cotangents f̄ (M, size, R)."""
    count = len(found)
    if not units.first:
        return
    through = units.jacobian(dynamics, nodes.s, nodes.u)
    if through is None and units.moved <= count:
        through = units.through(dynamics, nodes.s, nodes.u)
    if through is not None:
        found += _contracted(cotangents, through)
        return
    for number in range(count):
        one = torch.from_numpy(np.ascontiguousarray(cotangents[..., number]))
        units.add_gradients(dynamics.vjp(nodes.s, nodes.u, one, False)[1], found[number])


def _add_through_brackets(
    curvature: Curvature, multipliers: dict[int, np.ndarray], rows: int, units: Units, found: np.ndarray
) -> None:
    """Add Σ (∂D/∂θ)ᵀ w over the Rosenbrock rows; ``multipliers``: by row (steps, size, R)."""
    if not units.first:
        return
    through = units.jacobian_of_brackets(curvature)
    if through is None and units.moved <= len(found):
        through = units.through_brackets(curvature)
    if through is not None:
        for row, values in through.items():
            found += _contracted(multipliers[row], values)
        return
    for number in range(len(found)):
        one = np.zeros((rows, *curvature.u.shape))
        for row, values in multipliers.items():
            one[row] = values[..., number]
        units.add_gradients(curvature.gradients(one)[0], found[number])


def _contracted(cotangents: np.ndarray, through: np.ndarray) -> np.ndarray:
    """(M, size, R), (M, size, P) -> (R, P), summed over the first two."""
    return cotangents.reshape(-1, cotangents.shape[-1]).T @ through.reshape(-1, through.shape[-1])
