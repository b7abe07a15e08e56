"""The torch.autograd.Functions: forward integrates, backward reverses the very steps, twice if asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stiffml.adjoint import reverse
from stiffml.forward import Run
from stiffml.replay import Replay
from stiffml.second import differentiate_again
from stiffml.solution import AdjointStats, Stats


@dataclass(frozen=True)
class Record:
    """A run, what is needed to take its steps again, and where the cost of that is counted."""

    run: Run
    replay: Replay
    stats: Stats


class Integrate(torch.autograd.Function):
    """(t, u0, *parameters) -> states at the outputs reached, (n, size) in u0's dtype."""

    @staticmethod
    def forward(ctx, run: Callable[[], Record], t: Tensor, u0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.record = run()
        # Saved so that torch notices parameters changed in place before the backward pass.
        ctx.save_for_backward(t, u0, *parameters)
        outputs = torch.from_numpy(ctx.record.run.outputs.rows).to(u0.dtype, copy=True)
        outputs[0] = u0  # exactly
        return outputs

    @staticmethod
    def backward(ctx, cotangents: Tensor):
        wrt_time = ctx.needs_input_grad[1]
        return None, *_Reverse.apply(ctx.record, wrt_time, cotangents, *ctx.saved_tensors)


class _Reverse(torch.autograd.Function):
    """(cotangents, t, u0, *parameters) -> gradients with respect to t, u0 and the parameters."""

    @staticmethod
    def forward(ctx, record: Record, wrt_time: bool, cotangents: Tensor, t: Tensor, u0: Tensor, *parameters):
        ctx.record = record
        ctx.save_for_backward(cotangents, t, u0, *parameters)
        ctx.set_materialize_grads(False)
        system = record.replay.system
        began, before = time.perf_counter(), (system.rhs_evals, system.f.jacobians)
        gradients = reverse(record.replay, record.run.checkpoints, cotangents.double(), wrt_time)
        adjoint = record.stats.adjoint = record.stats.adjoint or AdjointStats()
        adjoint.rhs_evals += system.rhs_evals - before[0]
        adjoint.jacobians += system.f.jacobians - before[1]
        adjoint.wall_s += time.perf_counter() - began
        wrt_t = None
        if gradients.times is not None:
            wrt_t = torch.from_numpy(system.direction * gradients.times).to(t.dtype)
        return wrt_t, gradients.u0.to(cotangents.dtype), *gradients.parameters

    @staticmethod
    @once_differentiable
    def backward(ctx, along_t: Tensor | None, along_u0: Tensor | None, *along: Tensor | None):
        cotangents, _, u0, *_ = ctx.saved_tensors
        if ctx.needs_input_grad[3]:
            raise RuntimeError(
                "stiffml: second derivatives with respect to the output times are not available; "
                "pass t.detach()"
            )
        direction = np.zeros(u0.numel()) if along_u0 is None else along_u0.double().numpy()
        again = differentiate_again(
            ctx.record.replay, ctx.record.run.checkpoints, cotangents.double(), direction, along
        )
        dtype = cotangents.dtype
        return None, None, again.cotangents.to(dtype), None, again.u0.to(dtype), *again.parameters
