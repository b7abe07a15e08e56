"""Second derivatives: Hessian-vector products of a solve, by the tangent of its adjoint.

ẋ are the tangents of the states in the direction of the vector, θ̇ those of the parameters. f̄ are the
cotangents of f from the reverse sweep. The tangent of the reverse sweep is the same sweep, started from zero,
with the derivative of Jᵀf̄ along (ẋ, θ̇) added to the cotangent of every vector at which f was evaluated. The
bracket D of a Rosenbrock row, with the multiplier w, adds the derivatives of its gradients ∂⟨w, D⟩ likewise.

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
from stiffml.gradients.adjoint import Total
from stiffml.gradients.directions import Along, Direction
from stiffml.gradients.exponential import NO_SECOND, linear_part_has_parameters
from stiffml.gradients.linearized import curvatures_of, last_state, longest_segment
from stiffml.gradients.mass import mass_gradient
from stiffml.gradients.sweep import Pending, sweep
from stiffml.gradients.tangent import TangentSweep, linearize_both
from stiffml.gradients.tangent_steps import Tangents
from stiffml.gradients.tape import Tape
from stiffml.system.derivatives.curvature import Curvature
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
    if replay.method.exponential and linear_part_has_parameters(replay.system):
        raise NotImplementedError(NO_SECOND)
    system, last = replay.system, last_state(readings)
    tangents = TangentSweep(replay, u0_direction[None], Along([direction]))
    tangents.run(checkpoints, last)
    first, second = Pending(), Pending()
    for reading, row in zip(readings, cotangents.numpy(), strict=True):
        first.read(reading, row)
    total = Total(system, None)
    longest = longest_segment(replay)
    for segment in checkpoints.segments(replay, last, longest):
        equations = replay.equations(segment)
        f, g = linearize_both(equations, replay)
        curvatures = curvatures_of(equations, system.f)
        along = tangents.segment(equations, f, g, curvatures)
        wanted = system.mass_has_gradient or any(curvatures)
        once = sweep(equations, system, f, g, curvatures, first, with_multipliers=wanted)
        sources: list[dict[int, np.ndarray]] = [{} for _ in equations.blocks]
        for part, nodes, cotangents_of, moved in (
            (system.f, equations.f_nodes, once.f, along.f),
            (system.g, equations.g_nodes, once.g, along.g),
        ):
            if part is not None and cotangents_of is not None and moved is not None:
                terms = _second_order_terms(part, nodes, cotangents_of, moved[0], direction, second, total)
                for of_block, index, block in zip(sources, nodes.index, equations.blocks, strict=True):
                    for c in set(index).intersection(block.pattern.stages):
                        of_block[c] = of_block.get(c, 0.0) + terms[index[c]]
        for number, curvature in enumerate(curvatures):
            if curvature is not None:
                _add_bracket_terms(
                    equations,
                    number,
                    curvature,
                    once.multipliers[number],
                    along,
                    tangents.states,
                    direction,
                    sources[number],
                    second,
                    total,
                )
        twice = sweep(equations, system, f, g, curvatures, second, sources, with_multipliers=wanted)
        for part, nodes, values in (
            (system.f, equations.f_nodes, twice.f),
            (system.g, equations.g_nodes, twice.g),
        ):
            if part is not None and values is not None:
                total.add(part.vjp(nodes.s, nodes.u, torch.from_numpy(values), False)[1])
        for number, curvature in enumerate(curvatures):
            if curvature is not None:
                total.add(curvature.gradients(twice.multipliers[number])[0])
        for number, block in enumerate(equations.blocks if system.mass_has_gradient else ()):
            column_moved = partial(_column_tangent, equations, number, along, tangents.states)
            for multipliers, column in (
                (twice.multipliers[number], partial(equations.column, block)),
                (once.multipliers[number], column_moved),
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

    Every stage must be a node of f, or the unknown of a Rosenbrock row. With a mass matrix this is so.
    """
    block = equations.blocks[number]
    held = block.state_of(column)
    if held is not None:
        return np.stack([states[state][0] for state in held.tolist()])
    row = column - block.pattern.history
    if row in along.brackets[number]:
        return along.brackets[number][row][0]
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


def _add_bracket_terms(
    equations: Equations,
    number: int,
    curvature: Curvature,
    multipliers: np.ndarray,
    along: Tangents,
    states: dict[int, np.ndarray],
    direction: Direction,
    sources: dict[int, np.ndarray],
    pending: Pending,
    total: Total,
) -> None:
    """Add the derivatives of ∂⟨w, D⟩ along (ẋ, θ̇) for the Rosenbrock brackets of a block, with w constant.

    ``multipliers`` (rows, steps, size) are the w. The parts of the old states are added to ``pending``, those
    of the unknowns to ``sources``, and those of parameters to ``total``.
    """
    block = equations.blocks[number]
    pattern = block.pattern
    old = _column_tangent(equations, number, along, states, pattern.base)
    moved = {row: values[0] for row, values in along.brackets[number].items()}
    wrt_u, wrt_y, parameters = curvature.second_gradients(
        multipliers, old, moved, direction[: len(curvature.dynamics.parameters)]
    )
    total.add(parameters)
    for state, values in zip(block.known[:, pattern.base].tolist(), wrt_u, strict=True):
        pending.add(state, values)
    for row, values in wrt_y.items():
        column = pattern.history + row
        sources[column] = sources.get(column, 0.0) + values
