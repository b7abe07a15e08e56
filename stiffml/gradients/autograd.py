"""The torch.autograd.Functions: forward integrates, backward reverses the very steps, twice if asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.interpolation import Reading
from stiffml.gradients.adjoint import reverse
from stiffml.gradients.causes import all_finite, explained, require_finite
from stiffml.gradients.hooks import without_hooks
from stiffml.gradients.once import differentiable_no_further
from stiffml.gradients.second import differentiate_again
from stiffml.run.forward import Run
from stiffml.run.replay import Replay
from stiffml.solution import AdjointStats, Stats
from stiffml.system.system import System


@dataclass(frozen=True)
class Record:
    """A run, what is needed to take its steps again, and where the cost of that is counted."""

    run: Run
    replay: Replay
    stats: Stats

    def require_same_func(self) -> None:
        """Raise ReplayError if ``func`` has changed since the run."""
        if self.run.start_slopes:
            self.replay.require_same_func(self.run.checkpoints.start, self.run.start_slopes)


class Outputs(NamedTuple):
    """Outputs of a run, how they were read, and the replay in which those between steps are equations."""

    record: Record
    replay: Replay
    readings: Sequence[Reading]


def _costs(system: System) -> tuple[int, int, int]:
    """Evaluations of f and its Jacobian, and Krylov iterations at recorded states, so far."""
    return system.rhs_evals, system.f.jacobians, system.krylov_iterations


class Integrate(torch.autograd.Function):
    """(times that steps end on, times of outputs between them, u0, *parameters) -> outputs (n, size).

    ``compute`` yields the outputs and their values (n, size), by a forward run or from one. The values
    returned are in u0's dtype.
    """

    @staticmethod
    def forward(
        ctx,
        compute: Callable[[], tuple[Outputs, np.ndarray]],
        t: Tensor,
        between: Tensor,
        u0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.outputs, values = compute()
        # Saved so that torch notices parameters changed in place before the backward pass.
        ctx.save_for_backward(t, between, u0, *parameters)
        return torch.from_numpy(values).to(u0)

    @staticmethod
    def backward(ctx, cotangents: Tensor):
        wrt_time = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        return None, *_Reverse.apply(ctx.outputs, wrt_time, cotangents, *ctx.saved_tensors)


class _Reverse(torch.autograd.Function):
    """(cotangents, t, between, u0, *parameters) -> gradients with respect to all but the first."""

    @staticmethod
    def forward(ctx, outputs: Outputs, wrt_time: bool, cotangents: Tensor, *inputs: Tensor):
        ctx.outputs = outputs
        ctx.save_for_backward(cotangents, *inputs)
        ctx.set_materialize_grads(False)
        t, between, u0, *_ = inputs
        record = outputs.record
        system = record.replay.system
        began, before = time.perf_counter(), _costs(system)
        record.require_same_func()
        run = (outputs.replay, record.run.checkpoints, outputs.readings)
        with without_hooks(system.parameters):
            with explained(*run):
                gradients = reverse(*run, cotangents.double().cpu(), wrt_time)
            if all_finite(cotangents):
                wanted = [gradients.u0 if u0.requires_grad else None, gradients.times, gradients.between]
                require_finite([*wanted, *gradients.parameters], *run)
        adjoint = record.stats.adjoint = record.stats.adjoint or AdjointStats()
        after = _costs(system)
        adjoint.rhs_evals += after[0] - before[0]
        adjoint.jacobians += after[1] - before[1]
        adjoint.krylov_iterations += after[2] - before[2]
        adjoint.wall_s += time.perf_counter() - began
        wrt_t = wrt_between = None
        if gradients.times is not None and gradients.between is not None:
            wrt_t = torch.from_numpy(system.direction * gradients.times).to(t)
            wrt_between = torch.zeros_like(between)
            wrt_between[: len(gradients.between)] = torch.from_numpy(system.direction * gradients.between)
        return wrt_t, wrt_between, gradients.u0.to(u0), *gradients.parameters

    @staticmethod
    def backward(ctx, _along_t, _along_between, along_u0: Tensor | None, *along: Tensor | None):
        cotangents, _, _, u0, *parameters = ctx.saved_tensors
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            raise RuntimeError(
                "stiffml: second derivatives with respect to the output times are not available; "
                "pass t.detach()"
            )
        outputs = ctx.outputs
        run = (outputs.replay, outputs.record.run.checkpoints, outputs.readings)
        known = [v for v in (cotangents, along_u0, *along) if v is not None]
        with torch.no_grad(), without_hooks(outputs.record.replay.system.parameters), explained(*run, True):
            direction = np.zeros(u0.numel()) if along_u0 is None else along_u0.double().cpu().numpy()
            again = differentiate_again(*run, cotangents.double().cpu(), direction, along)
            if all(all_finite(v) for v in known):
                require_finite([again.cotangents, again.u0, *again.parameters], *run, True)
        found = [again.cotangents.to(cotangents), again.u0.to(u0), *again.parameters]
        inputs = [cotangents, u0, *parameters, *(v for v in (along_u0, *along) if v is not None)]
        found = differentiable_no_further(found, inputs, "the second derivative of a solve")
        return None, None, found[0], None, None, *found[1:]
