"""Second derivatives: the product of a solve's Hessian with a vector, by the tangent of its adjoint.

With ẋ the tangents in the direction of the vector and f̄ the cotangents of f from the reverse sweep, the
tangent of the sweep is the same sweep, started from zero, with the derivative of Jᵀf̄ along (ẋ, θ̇) added to
the cotangent of every vector at which f was evaluated (Özyurt & Barton, SIAM J. Sci. Comput. 26 (2005), for
the continuous equations; here for the discrete ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import STAGE, Equations, Nodes
from stiffml.discretization.interpolation import Reading
from stiffml.gradients.adjoint import Total, last_state, longest_segment
from stiffml.gradients.sweep import Pending, sweep
from stiffml.gradients.tangent import Direction, TangentSweep, linearize_both
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.replay import Replay
from stiffml.system.dynamics import Dynamics


@dataclass(frozen=True)
class SecondGradients:
    """Of ⟨dL/du0, u̇0⟩ + ⟨dL/dθ, θ̇⟩: with respect to dL/dy (n_outputs, size), u0 (size,) and θ."""

    cotangents: Tensor
    u0: Tensor
    parameters: list[Tensor | None]


def differentiate_again(
    replay: Replay,
    checkpoints: Checkpoints,
    readings: Sequence[Reading],
    cotangents: Tensor,
    u0_direction: np.ndarray,
    direction: Direction,
) -> SecondGradients:
    """Differentiate the gradient that ``cotangents`` (n_outputs, size) lead to, along a direction."""
    system, last = replay.system, last_state(readings)
    tangents = TangentSweep(replay, u0_direction[None], [direction])
    tangents.run(checkpoints, last)
    first, second = Pending(), Pending()
    for reading, row in zip(readings, cotangents.numpy(), strict=True):
        first.read(reading, row)
    total = Total(system, None)
    longest = longest_segment(replay.method, system)
    for segment in checkpoints.segments(replay, last, longest):
        segment = replay.with_stages(segment)
        equations = Equations(segment, replay.blocks(segment))
        f, g = linearize_both(equations, replay)
        along = tangents.segment(equations, f, g)
        flat: list[None] = [None] * len(equations.blocks)
        once = sweep(equations, system, f, g, flat, first)
        sources = {"f": _bend(system.f, equations.f_nodes, once.f, along.f[0], direction, second, total)}
        if system.g is not None and once.g is not None and along.g is not None:
            sources["g"] = _bend(system.g, equations.g_nodes, once.g, along.g[0], direction, second, total)
        twice = sweep(equations, system, f, g, flat, second, sources)
        for part, nodes, values in (
            (system.f, equations.f_nodes, twice.f),
            (system.g, equations.g_nodes, twice.g),
        ):
            if part is not None and values is not None:
                total.add(part.vjp(nodes.s, nodes.u, torch.from_numpy(values), False)[1])
    outputs = np.stack([tangents.output(reading)[0] for reading in readings])
    zero = np.zeros(system.layout.size)
    return SecondGradients(
        torch.from_numpy(outputs), torch.from_numpy(np.array(second.pop(0, zero))), total.over_all_parts()
    )


def _bend(
    dynamics: Dynamics,
    nodes: Nodes,
    cotangents: np.ndarray,
    tangents: np.ndarray,
    direction: Direction,
    pending: Pending,
    total: Total,
) -> np.ndarray:
    """The derivative of Jᵀf̄ and of f_θᵀf̄ along (ẋ, θ̇) at the nodes, with f̄ held.

    What belongs to states goes to ``pending``, what belongs to parameters to ``total``; returned is all
    (M, size), of which the sweep takes that of stages.
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
