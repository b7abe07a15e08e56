"""Many adjoints of a run: each segment reversed for all of them by one transposed solve.

As :mod:`stiffml.gradients.transposed`, with a right-hand side for each cotangent. The
multipliers are then contracted with ∂f/∂θ at all nodes. Where that is not to be had, f is differentiated for
each adjoint or for each parameter, whichever are fewer.
"""

from __future__ import annotations

import numpy as np
import torch

from stiffml.discretization.equations import Equations, Nodes
from stiffml.gradients.directions import Units
from stiffml.gradients.linearized import (
    SEGMENT_NUMBERS,
    as_blocks,
    curvatures_of,
    last_state,
    longest_segment,
)
from stiffml.gradients.sweep import Pending
from stiffml.gradients.tangent import linearize_both
from stiffml.gradients.tape import Tape
from stiffml.gradients.transposed import factored_anew, sweep_at_once
from stiffml.native.replay import Replay
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics


def adjoints_at_once(
    tape: Tape, units: Units, cotangents: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The gradients for R cotangents (n_outputs, size, R), by u0 (R, size) and along ``units`` (R, P).

    None if the Jacobians are not small dense blocks.
    """
    replay, system, readings = tape.replay, tape.replay.system, tape.readings
    size, count = cotangents.shape[1:]
    pending = Pending()
    for reading, values in zip(readings, cotangents, strict=True):
        pending.read(reading, values)
    found = np.zeros((count, units.count))
    longest = max(1, min(longest_segment(replay), SEGMENT_NUMBERS // (8 * count * system.f.largest)))
    for segment in tape.checkpoints.segments(replay, last_state(readings), longest):
        if not reverse_for_many(replay.equations(segment), replay, pending, units, found):
            return None
    start = pending.pop(0, np.zeros((size, count)))
    return start.T, found


def reverse_for_many(
    equations: Equations, replay: Replay, pending: Pending, units: Units, found: np.ndarray
) -> bool:
    """Reverse a segment, with (size, R) for each state in ``pending``, and add to ``found`` (R, P).

    False, without having done so, if the Jacobians are not small dense blocks.
    """
    count, system = len(found), replay.system
    curvatures = curvatures_of(equations, system.f)
    blocks = as_blocks(*linearize_both(equations, replay), curvatures)
    if blocks is None:
        return False
    factored = factored_anew(equations, system, *blocks, curvatures, columns=count)
    swept = sweep_at_once(equations, system, factored, pending, columns=(count,))
    _add_to_parameters(system.f, equations.f_nodes, swept.f, units, found)
    if system.g is not None and swept.g is not None:
        _add_to_parameters(system.g, equations.g_nodes, swept.g, units, found)
    for block, multipliers, curvature in zip(equations.blocks, swept.multipliers, curvatures, strict=True):
        if curvature is not None:
            of_rows = {row.index: multipliers[row.index] for row in block.pattern.step_rows if row.rosenbrock}
            _add_through_brackets(curvature, of_rows, len(block.pattern.rows), units, found)
    return True


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
