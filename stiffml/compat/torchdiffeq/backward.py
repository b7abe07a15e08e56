"""What torchdiffeq's adjoint does besides gradients: zeros for unused parameters, and callbacks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from stiffml.compat.torchdiffeq.call import Call, Taken


class AtBackward(Function):
    """(leaves of the outputs, parameters) -> leaves; backwards it calls back, with zeros for parameters."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call_back: Callable[[], None], count: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf.view_as(leaf) for leaf in inputs[:count])

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.call_back, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors[ctx.count :])

    @staticmethod
    def backward(ctx, *cotangents: Tensor):
        ctx.call_back()
        return None, None, *cotangents, *(torch.zeros_like(p) for p in ctx.saved_tensors)


def adjoint_callbacks(call: Call, taken: Taken) -> Callable[[], None]:
    """Calls func's callbacks of the adjoint for each step, from the last to the first."""
    names = ("callback_step_adjoint", "callback_accept_step_adjoint")
    found = [getattr(call.func, name) for name in names if callable(getattr(call.func, name, None))]

    def call_back() -> None:
        if not found:
            return
        with torch.no_grad():
            for begin, _, end, state in reversed(list(taken.steps())):
                for callback in found:
                    callback(end, state, (end - begin).abs())

    return call_back
