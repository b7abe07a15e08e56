"""The one torch.autograd.Function: forward integrates, backward reverses the very steps taken."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from stiffml.adjoint import reverse
from stiffml.forward import Run
from stiffml.methods import Method
from stiffml.replay import Replay
from stiffml.solution import AdjointStats, Stats
from stiffml.system import System


class Integrate(torch.autograd.Function):
    """(t, u0, *parameters) -> states at the outputs reached, (n, size) in u0's dtype."""

    @staticmethod
    def forward(
        ctx,
        run: Callable[[], Run],
        method: Method,
        system: System,
        stats: Stats,
        t: Tensor,
        u0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.run, ctx.method, ctx.system, ctx.stats = run(), method, system, stats
        # Saved so that torch notices parameters changed in place before the backward pass.
        ctx.save_for_backward(t, u0, *parameters)
        outputs = torch.from_numpy(ctx.run.outputs.rows).to(u0.dtype, copy=True)
        outputs[0] = u0  # exactly
        return outputs

    @staticmethod
    def backward(ctx, cotangents: Tensor):
        saved = ctx.saved_tensors
        with torch.no_grad():
            gradients = _reverse(ctx, saved[0], cotangents)
        if torch.is_grad_enabled():  # create_graph=True: the gradient is to be differentiated again
            gradients = [None if g is None else _Once.apply(g, cotangents, *saved) for g in gradients]
        return None, None, None, None, *gradients


def _reverse(ctx, t: Tensor, cotangents: Tensor) -> list[Tensor | None]:
    """Gradients with respect to t, u0 and the parameters; counts its cost in the solve's statistics."""
    began = time.perf_counter()
    system, run = ctx.system, ctx.run
    before = system.rhs_evals, system.f.jacobians
    replay = Replay(run.trajectory, ctx.method, system)
    gradients = reverse(replay, run.checkpoints, cotangents.double(), ctx.needs_input_grad[4])
    adjoint = ctx.stats.adjoint = ctx.stats.adjoint or AdjointStats()
    adjoint.rhs_evals += system.rhs_evals - before[0]
    adjoint.jacobians += system.f.jacobians - before[1]
    adjoint.wall_s += time.perf_counter() - began
    wrt_t = None
    if gradients.times is not None:
        wrt_t = torch.from_numpy(system.direction * gradients.times).to(t.dtype)
    return [wrt_t, gradients.u0.to(cotangents.dtype), *gradients.parameters]


class _Once(torch.autograd.Function):
    """A gradient that says so when it is differentiated, instead of passing for a constant."""

    @staticmethod
    def forward(ctx, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        raise RuntimeError("stiffml: the gradient of a solve cannot be differentiated again")
