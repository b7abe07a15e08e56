"""Gradients for ``scipy_solver``: by the adjoint equation, as those of torchdiffeq.

scipy takes its steps by itself, so that there is no step whose derivative could be had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from stiffml.compat.torchdiffeq.call import FORWARD, Call
from stiffml.compat.torchdiffeq.scipy_solver import by_scipy

SolveBack = Callable[[Callable[[Tensor, Any], Any], Any, Tensor], Any]
"""(func, state, times) -> the states there: the solve of the adjoint equation."""


class ByAdjointEquation(Function):
    """(call, solve_back, number of leaves, t, leaves of y0, parameters) -> the leaves of the outputs.

    Backwards, from one output to the one before, y' = f(t, y), λ' = −(∂f/∂y)ᵀ λ and μ' = −(∂f/∂θ)ᵀ λ are
    solved together. λ takes up the cotangent of each output. Then dL/dy₀ = λ, dL/dθ = μ, dL/dtᵢ is the
    cotangent of output i times f there, and dL/dt₀ is −λ f.

    Source: Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations (2018), appendix B.
    """

    @staticmethod
    def forward(ctx, call: Call, solve_back: SolveBack, count: int, t: Tensor, *tensors: Tensor):
        outputs = tree_leaves(by_scipy(call).y)
        ctx.call, ctx.solve_back, ctx.count = call, solve_back, count
        ctx.save_for_backward(t, *outputs, *tensors[count:])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents: Tensor):
        call, count = ctx.call, ctx.count
        t, *saved = ctx.saved_tensors
        outputs, params = saved[:count], saved[count:]
        adjoint = [torch.zeros_like(part[0]) for part in outputs]
        of_params = [torch.zeros_like(parameter) for parameter in params]
        of_t = torch.zeros_like(t)
        nothing = torch.zeros((), dtype=outputs[0].real.dtype, device=outputs[0].device)
        augmented = _augmented(call, count, params)
        for last in range(len(t) - 1, 0, -1):
            state, cotangent = ([part[last] for part in parts] for parts in (outputs, cotangents))
            of_t[last] = _times_slope(call, t[last], state, cotangent)
            adjoint = [one + other for one, other in zip(adjoint, cotangent, strict=True)]
            start = (nothing, *state, *adjoint, *of_params)
            found = ctx.solve_back(augmented, start, torch.stack([t[last], t[last - 1]]))
            ends = [part[-1] for part in found[1 + count :]]
            adjoint, of_params = ends[:count], ends[count:]
        of_t[0] = -_times_slope(call, t[0], [part[0] for part in outputs], adjoint)
        adjoint = [one + part[0] for one, part in zip(adjoint, cotangents, strict=True)]
        return None, None, None, of_t, *adjoint, *of_params


def by_adjoint_equation(call: Call, solve_back: SolveBack) -> Any:
    """The outputs of a call of ``scipy_solver``, with gradients for y0, t and the parameters of the call."""
    leaves, spec = tree_flatten(call.y0)
    found = ByAdjointEquation.apply(call, solve_back, len(leaves), call.t, *leaves, *call.params)
    return tree_unflatten(list(found), spec)


def seminorm(count: int) -> Callable[[Sequence[Tensor]], Tensor]:
    """The norm of torchdiffeq's adjoint state without its parameters; ``count`` leaves make up y."""

    def norm(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([part.abs().square().mean().sqrt() for part in parts[: 1 + 2 * count]]).max()

    return norm


def _augmented(call: Call, count: int, params: Sequence[Tensor]) -> Callable[[Tensor, Any], Any]:
    """The right-hand side for (0, y, λ, μ); the first place is torchdiffeq's for the gradient by time."""
    spec = tree_flatten(call.y0)[1]

    def augmented(t: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            y = [part.detach().requires_grad_() for part in parts[1 : 1 + count]]
            slopes = spec.flatten_up_to(call.func(t, tree_unflatten(y, spec)))
            pairs = zip(slopes, parts[1 + count : 1 + 2 * count], strict=True)
            used = [(slope, -adjoint) for slope, adjoint in pairs if slope.requires_grad]
            inputs = (*y, *params)
            found: Sequence[Tensor | None] = [None] * len(inputs)
            if used:
                wanted, weights = zip(*used, strict=True)
                found = torch.autograd.grad(wanted, inputs, weights, allow_unused=True)
        gradients = [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]
        return (torch.zeros_like(parts[0]), *(slope.detach() for slope in slopes), *gradients)

    for name in FORWARD:  # called with steps of the augmented system, by methods that call any
        callback = getattr(call.func, f"{name}_adjoint", None)
        if callable(callback):
            setattr(augmented, name, callback)
    return augmented


def _times_slope(call: Call, t: Tensor, state: list[Tensor], cotangent: list[Tensor]) -> Tensor:
    """The product of a cotangent and func, a real number."""
    spec = tree_flatten(call.y0)[1]
    slopes = spec.flatten_up_to(call.func(call.time(t), tree_unflatten(state, spec)))
    products = [(c.conj() * s).sum().real for c, s in zip(cotangent, slopes, strict=True)]
    return torch.stack(products).sum().to(t)
