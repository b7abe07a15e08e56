"""The one torch.autograd.Function: forward integrates, backward reverses the very steps taken."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stiffml.adjoint import reverse
from stiffml.dynamics import Dynamics
from stiffml.forward import Run
from stiffml.methods import Method
from stiffml.solution import AdjointStats, Stats


class Integrate(torch.autograd.Function):
    """(t, u0, *parameters) -> states at the outputs reached, (n, size) in u0's dtype."""

    @staticmethod
    def forward(
        ctx,
        run: Callable[[], Run],
        method: Method,
        dynamics: Dynamics,
        stats: Stats,
        t: Tensor,
        u0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        trajectory = run().trajectory
        ctx.trajectory, ctx.method, ctx.dynamics, ctx.stats = trajectory, method, dynamics, stats
        # Saved so that torch notices parameters changed in place before the backward pass.
        ctx.save_for_backward(t, *parameters)
        outputs = trajectory.states[trajectory.output_steps].to(u0.dtype)
        outputs[0] = u0  # exactly
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangents: Tensor):
        began = time.perf_counter()
        dynamics, (t, *_) = ctx.dynamics, ctx.saved_tensors
        before = dynamics.rhs_evals, dynamics.jacobians
        wrt_time = ctx.needs_input_grad[4]
        gradients = reverse(ctx.trajectory, ctx.method, dynamics, cotangents.double(), wrt_time)
        adjoint = ctx.stats.adjoint = ctx.stats.adjoint or AdjointStats()
        adjoint.rhs_evals += dynamics.rhs_evals - before[0]
        adjoint.jacobians += dynamics.jacobians - before[1]
        adjoint.wall_s += time.perf_counter() - began
        wrt_t = None
        if gradients.times is not None:
            wrt_t = torch.from_numpy(dynamics.direction * gradients.times).to(t.dtype)
        wrt_u0 = gradients.u0.to(cotangents.dtype)
        return None, None, None, None, wrt_t, wrt_u0, *gradients.parameters
