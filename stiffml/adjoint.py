"""The reverse sweep: from dL/dy at the outputs to dL/dy0, dL/dθ and dL/dt.

The sweep is batched over time. A segment of consecutive steps has the points at which it evaluated f
differentiated in one call, is swept backwards with small linear algebra only, and has its parameter
gradient taken in one more call. A segment of one step gives the same numbers with the least memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.dynamics import Dynamics
from stiffml.linearization import DenseBlocks, Linearization, Products
from stiffml.methods import Method
from stiffml.methods.base import AtNodes, Nodes, Pending
from stiffml.trajectory import Segment, Trajectory

SEGMENT_NUMBERS = 4_000_000
"""How many float64 numbers the replicated states of a segment may take (32 MB)."""

WIDEST_EXPLICIT_BLOCK = 16
"""Explicit methods need only products with Jᵀ; up to this width whole Jacobians are faster."""


@dataclass
class Gradients:
    """dL/du0 (size,), dL/dθ (None where f does not depend on it), dL/d(output times) in solver time."""

    u0: Tensor
    parameters: list[Tensor | None]
    times: np.ndarray | None


def reverse(
    trajectory: Trajectory,
    method: Method,
    dynamics: Dynamics,
    cotangents: Tensor,
    wrt_time: bool = False,
    segment_steps: int | None = None,
) -> Gradients:
    """Reverse all steps of ``trajectory``.

    Parameters
    ----------
    cotangents : Tensor
        dL/dy at the outputs reached, (n_outputs, size) float64.
    wrt_time : bool
        Whether dL/dt is wanted.
    segment_steps : int, optional
        Steps a segment; by default as many as fit into ``SEGMENT_NUMBERS``.
    """
    pending = Pending()
    for step, row in zip(trajectory.output_steps, cotangents.numpy(), strict=True):
        pending.add(step, row)
    length = segment_steps or _segment_steps(method, dynamics)
    boundaries = np.zeros(trajectory.n_steps + 1)
    parameters: list[Tensor | None] = [None] * len(dynamics.parameters)
    # Steps after the last output (of a run that failed) have no influence on what was returned.
    last = trajectory.output_steps[-1]
    while last > 0:
        first = max(0, last - length)
        segment = Segment(trajectory, first, last)
        nodes = method.nodes(segment, dynamics)
        sweep = method.sweep(segment, _linearize(method, dynamics, nodes), pending)
        slopes, grads, wrt_node_time = dynamics.vjp(
            nodes.s, nodes.u, torch.from_numpy(sweep.cotangents), wrt_time
        )
        parameters = [_plus(total, part) for total, part in zip(parameters, grads, strict=True)]
        if wrt_time:
            at_nodes = AtNodes(slopes.numpy(), wrt_node_time.numpy())
            method.time_gradient(segment, sweep, at_nodes, boundaries)
        last = first
    times = trajectory.output_gradient(boundaries) if wrt_time else None
    return Gradients(torch.from_numpy(np.array(pending.pop(0))), parameters, times)


def _segment_steps(method: Method, dynamics: Dynamics) -> int:
    layout = dynamics.layout
    copies = layout.width if _needs_blocks(method, dynamics) else 1
    return max(1, SEGMENT_NUMBERS // (layout.size * copies * 8))


def _needs_blocks(method: Method, dynamics: Dynamics) -> bool:
    return method.implicit or dynamics.layout.width <= WIDEST_EXPLICIT_BLOCK


def _linearize(method: Method, dynamics: Dynamics, nodes: Nodes) -> Linearization:
    kind = DenseBlocks if _needs_blocks(method, dynamics) else Products
    return kind(dynamics, nodes.s, nodes.u)


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part
