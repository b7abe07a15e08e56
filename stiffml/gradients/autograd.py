"""A solve as a torch.autograd.Function, with its gradient and its second derivatives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.gradients.adjoint import is_swept_by_stages, reverse
from stiffml.gradients.many import gradients_in_one_sweep, outside_of_batches, put_together, taken_apart
from stiffml.gradients.non_finite import all_finite, explained, require_finite
from stiffml.gradients.refusals import differentiable_no_further
from stiffml.gradients.same_values import SameFunc
from stiffml.gradients.second import differentiate_again
from stiffml.gradients.tape import Tape
from stiffml.native.replay import Replay
from stiffml.stats import AdjointStats, spend
from stiffml.system.derivatives.products import added


def _costs(replay: Replay) -> tuple[int, int, int]:
    """Evaluations of f, Jacobians and Krylov iterations so far."""
    return replay.system.rhs_evals, replay.system.f.jacobians, replay.krylov_iterations


def _plain(values: Tensor) -> Tensor:
    """The values as float64 on the CPU, with a lazy negation (``is_neg``) resolved."""
    return values.double().cpu().resolve_neg()


class Integrate(torch.autograd.Function):
    """(step end times, other output times, u0, *parameters) -> outputs (n, size).

    ``t`` (n_ends,) are the times on which steps end, ``between`` (Q,) the output times between them, ``u0``
    is (size,). ``compute`` runs the solve, or interpolates in a finished one, and returns its tape and the
    outputs (n, size). The outputs get the dtype and device of u0.
    """

    @staticmethod
    def forward(
        ctx,
        compute: Callable[[], tuple[Tape, np.ndarray]],
        t: Tensor,
        between: Tensor,
        u0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.tape, values = compute()
        # Saving them makes torch detect changes in place before the backward pass.
        ctx.save_for_backward(t, between, u0, *parameters)
        return torch.from_numpy(values).to(u0)

    @staticmethod
    def backward(ctx, cotangents: Tensor):
        wrt_time = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        inputs = ctx.saved_tensors
        many = taken_apart(cotangents)
        if many is not None:
            with outside_of_batches():
                found = _of_many(ctx.tape, wrt_time, many[0], *inputs)
            return None, *(put_together(values, many[1]) for values in found)
        is_transformed = torch._C._functorch.is_functorch_wrapped_tensor(cotangents)
        if not torch.is_grad_enabled() and not is_transformed:  # no derivative of the gradient will be wanted
            return None, *_gradients(ctx.tape, wrt_time, cotangents, *inputs)
        return None, *_Reverse.apply(ctx.tape, wrt_time, cotangents, *inputs)


def _of_many(tape: Tape, wrt_time: bool, cotangents: Tensor, *inputs: Tensor) -> list[Tensor | None]:
    """The gradients for each of the cotangents (R, n, size), stacked."""
    if not (wrt_time or torch.is_grad_enabled()) and type(cotangents) is Tensor:
        at_once = gradients_in_one_sweep(tape, _plain(cotangents))
        if at_once is not None:
            return [None, None, at_once[0].to(inputs[2]), *at_once[1]]
    apply = _Reverse.apply if torch.is_grad_enabled() else _gradients
    rows = [apply(tape, wrt_time, one, *inputs) for one in cotangents]
    return [_stacked(parts) for parts in zip(*rows, strict=True)]


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return torch.stack([torch.zeros_like(there[0]) if part is None else part for part in parts])


def _gradients(tape: Tape, wrt_time: bool, cotangents: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by t, between, u0 and the parameters, which are the ``inputs``."""
    t, between, u0, *_ = inputs
    system = tape.replay.system
    began, before = time.perf_counter(), _costs(tape.replay)
    with tape.at_work():
        with SameFunc(tape, is_swept_by_stages(tape.replay)) as same, explained(tape):
            gradients = reverse(tape, _plain(cotangents), wrt_time, same)
        if not gradients.is_finite and all_finite(cotangents):
            wanted = [gradients.u0 if u0.requires_grad else None, gradients.times, gradients.between]
            require_finite([*wanted, *gradients.parameters], tape)
    adjoint = tape.stats.adjoint = tape.stats.adjoint or AdjointStats()
    after = _costs(tape.replay)
    adjoint.rhs_evals += after[0] - before[0]
    adjoint.jacobians += after[1] - before[1]
    spend(rhs_evals=after[0] - before[0], jacobians=after[1] - before[1])
    adjoint.krylov_iterations += after[2] - before[2]
    adjoint.wall_s += time.perf_counter() - began
    wrt_t = wrt_between = None
    if gradients.times is not None and gradients.between is not None:
        wrt_t = torch.from_numpy(system.direction * gradients.times).to(t)
        wrt_between = torch.zeros_like(between)
        wrt_between[: len(gradients.between)] = torch.from_numpy(system.direction * gradients.between)
    return wrt_t, wrt_between, gradients.u0.to(u0), *gradients.parameters


class _Reverse(torch.autograd.Function):
    """(cotangents (n, size), t, between, u0, *parameters) -> gradients by all but the cotangents."""

    @staticmethod
    def forward(tape: Tape, wrt_time: bool, cotangents: Tensor, *inputs: Tensor):
        return _gradients(tape, wrt_time, cotangents, *inputs)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.tape, _, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info, in_dims, tape: Tape, wrt_time: bool, *tensors: Tensor):
        rows = []
        for number in range(info.batch_size):
            pairs = zip(tensors, in_dims[2:], strict=True)
            one = [x if at is None else x.select(at, number) for x, at in pairs]
            rows.append(_Reverse.apply(tape, wrt_time, *one))
        found = tuple(_stacked(parts) for parts in zip(*rows, strict=True))
        return found, tuple(None if values is None else 0 for values in found)

    @staticmethod
    def backward(ctx, _along_t, _along_between, along_u0: Tensor | None, *along: Tensor | None):
        cotangents, _, _, u0, *parameters = ctx.saved_tensors
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            raise RuntimeError(
                "stiffml: second derivatives with respect to the output times are not available; "
                "pass t.detach()"
            )
        inputs = [cotangents, u0, *parameters]
        found = _Hessian.apply(ctx.tape, cotangents, (cotangents, u0), None, along_u0, *along)
        found = differentiable_no_further(found, inputs, "the second derivative of a solve")
        return None, None, found[0], None, None, *found[1:]


class _Hessian(torch.autograd.Function):
    """(x_c, x_u0, *x_θ) -> H x, with H the Hessian of ⟨c, Y(u0, θ)⟩ with respect to c, u0 and θ.

    Y (n, size) are the outputs of a solve and c (n, size) the cotangents of its gradient. H itself is held
    constant. It is symmetric, so the derivative of H x with respect to x is a product with H again, at any
    order; ``torch.autograd.functional.hvp`` needs one such derivative. None stands for zeros.
    """

    @staticmethod
    def forward(
        ctx,
        tape: Tape,
        cotangents: Tensor,
        like: tuple[Tensor, Tensor],
        x_c: Tensor | None,
        x_u0: Tensor | None,
        *x: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        ctx.tape, ctx.like = tape, like
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(cotangents)
        held = _plain(cotangents.detach())
        given = [v for v in (cotangents, x_c, x_u0, *x) if v is not None]
        parts: list[list[Tensor | None]] = []
        with torch.no_grad(), tape.at_work(), explained(tape, True):
            tape.require_same_func()
            if x_u0 is not None or any(v is not None for v in x):
                direction = np.zeros(like[1].numel()) if x_u0 is None else _plain(x_u0).numpy()
                again = differentiate_again(tape, held, direction, x)
                parts.append([again.cotangents, again.u0, *again.parameters])
            if x_c is not None:
                once = reverse(tape, _plain(x_c))
                parts.append([None, once.u0, *once.parameters])
            if all(all_finite(v) for v in given):
                require_finite((v for part in parts for v in part), tape, True)
        found = [added(values) for values in zip(*parts, strict=True)] if parts else [None] * (2 + len(x))
        typed = [None if v is None else v.to(t) for v, t in zip(found[:2], like, strict=True)]
        return *typed, *found[2:]

    @staticmethod
    def backward(ctx, y_c: Tensor | None, y_u0: Tensor | None, *y: Tensor | None):
        (cotangents,) = ctx.saved_tensors
        found = _Hessian.apply(ctx.tape, cotangents, ctx.like, y_c, y_u0, *y)
        wanted = zip(found, ctx.needs_input_grad[3:], strict=True)
        return None, None, None, *(v if is_wanted else None for v, is_wanted in wanted)
