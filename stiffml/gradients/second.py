"""Second derivatives: Hessian-vector products of a solve, by the tangent of its adjoint.

ẋ are the tangents of the states in the direction of the vector, θ̇ those of the parameters. f̄ are the
cotangents of f from the reverse sweep. The tangent of the reverse sweep is the same sweep, started from zero,
with the derivative of Jᵀf̄ along (ẋ, θ̇) added to the cotangent of every vector at which f was evaluated.

Source: Özyurt & Barton, SIAM J. Sci. Comput. 26 (2005), for the continuous equations; here applied to the
discrete ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Equations, Nodes
from stiffml.discretization.numbering import STAGE
from stiffml.gradients.adjoint import Total, last_state, longest_segment, mass_gradient
from stiffml.gradients.sweep import Pending, sweep
from stiffml.gradients.tangent import Direction, Tangents, TangentSweep, linearize_both
from stiffml.gradients.tape import Tape
from stiffml.system.derivatives.dynamics import Dynamics


@dataclass(frozen=True)
class SecondGradients:
    """The gradients of ⟨dL/du0, u̇0⟩ + ⟨dL/dθ, θ̇⟩.

    ``cotangents`` (n_outputs, size) is the gradient with respect to dL/dy, ``u0`` (size,) that with respect
    to u0, ``parameters`` those with respect to θ; None where there is no dependence.
    """

    cotangents: Tensor
    u0: Tensor
    parameters: list[Tensor | None]


def differentiate_again(
    tape: Tape, cotangents: Tensor, u0_direction: np.ndarray, direction: Direction
) -> SecondGradients:
    """Differentiate the gradient for the cotangents dL/dy (n_outputs, size) along a direction.

    The direction is u̇0 = ``u0_direction`` (size,) and θ̇ = ``direction``.
    """
    replay, checkpoints, readings = tape.replay, tape.checkpoints, tape.readings
    system, last = replay.system, last_state(readings)
    tangents = TangentSweep(replay, u0_direction[None], [direction])
    tangents.run(checkpoints, last)
    first, second = Pending(), Pending()
    for reading, row in zip(readings, cotangents.numpy(), strict=True):
        first.read(reading, row)
    total = Total(system, None)
    longest = longest_segment(replay)
    for segment in checkpoints.segments(replay, last, longest):
        segment = replay.with_stages(segment)
        equations = Equations(segment, replay.blocks(segment))
        f, g = linearize_both(equations, replay)
        along = tangents.segment(equations, f, g)
        flat: list[None] = [None] * len(equations.blocks)
        wanted = system.mass_has_gradient
        once = sweep(equations, system, f, g, flat, first, with_multipliers=wanted)
        sources = {
            "f": _second_order_terms(
                system.f, equations.f_nodes, once.f, along.f[0], direction, second, total
            )
        }
        if system.g is not None and once.g is not None and along.g is not None:
            sources["g"] = _second_order_terms(
                system.g, equations.g_nodes, once.g, along.g[0], direction, second, total
            )
        twice = sweep(equations, system, f, g, flat, second, sources, with_multipliers=wanted)
        for part, nodes, values in (
            (system.f, equations.f_nodes, twice.f),
            (system.g, equations.g_nodes, twice.g),
        ):
            if part is not None and values is not None:
                total.add(part.vjp(nodes.s, nodes.u, torch.from_numpy(values), False)[1])
        for number, block in enumerate(equations.blocks if wanted else ()):
            moved = partial(_column_tangent, equations, number, along, tangents.states)
            for multipliers, column in (
                (twice.multipliers[number], partial(equations.column, block)),
                (once.multipliers[number], moved),
            ):
                wrt_mass = mass_gradient(block, multipliers, column, system)
                total.add([*[None] * len(system.f.parameters), wrt_mass])
    outputs = np.stack([tangents.output(reading)[0] for reading in readings])
    zero = np.zeros(system.layout.size)
    u0 = np.concatenate([second.pop(start, zero) for start in replay.trajectory.starts.tolist()])
    return SecondGradients(torch.from_numpy(outputs), torch.from_numpy(u0), total.over_all_parts())


def _column_tangent(
    equations: Equations, number: int, along: Tangents, states: dict[int, np.ndarray], column: int
) -> np.ndarray:
    """ẋ (steps, size) of one column of a block.

    Every stage must be a node of f. With a mass matrix this is so.
    """
    held = equations.blocks[number].state_of(column)
    if held is not None:
        return np.stack([states[state][0] for state in held.tolist()])
    return along.f[0, equations.f_nodes.index[number][column]]


def _second_order_terms(
    dynamics: Dynamics,
    nodes: Nodes,
    cotangents: np.ndarray,
    tangents: np.ndarray,
    direction: Direction,
    pending: Pending,
    total: Total,
) -> np.ndarray:
    """The derivatives of Jᵀf̄ and f_θᵀf̄ along (ẋ, θ̇) at the nodes, with f̄ constant.

    ``cotangents`` (M, size) is f̄, ``tangents`` (M, size) is ẋ. The parts of states are added to
    ``pending``, those of parameters to ``total``. Returns the derivative of Jᵀf̄ at all nodes (M, size); the
    sweep then uses its rows of stages.
    """
    wrt_u, parameters = dynamics.second_vjp(
        nodes.s,
        nodes.u,
        torch.from_numpy(cotangents),
        torch.from_numpy(np.ascontiguousarray(tangents)),
        direction[: len(dynamics.parameters)],
    )
    total.add(parameters)
    values = wrt_u.numpy()
    for m in np.flatnonzero(nodes.states != STAGE):
        pending.add(int(nodes.states[m]), values[m])
    return values
