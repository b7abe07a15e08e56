"""Three other ways to an accurate gradient in little memory, after the papers that propose them.

Each returns the state at t = 1 of y' = func(t, y), y(0) = y0.
"""

from __future__ import annotations

from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Nodes, rows and weights.
TABLEAUX: dict[str, tuple[list[float], list[list[float]], list[float]]] = {
    "euler": ([0.0], [[]], [1.0]),
    "rk4": ([0.0, 1 / 2, 1 / 2, 1.0], [[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    "dopri5": (
        [0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0],
        [
            [],
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
        ],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    ),
}


def step(func: nn.Module, method: str, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """One step of an explicit Runge-Kutta method."""
    nodes, rows, weights = TABLEAUX[method]
    slopes: list[Tensor] = []
    for c, row in zip(nodes, rows, strict=True):
        stage = y
        for a, slope in zip(row, slopes, strict=True):
            stage = stage + h * a * slope if a else stage
        slopes.append(func(t + c * h, stage))
    for b, slope in zip(weights, slopes, strict=True):
        if b:
            y = y + h * b * slope
    return y


def checkpointed(func: nn.Module, y0: Tensor, method: str, steps: int) -> Tensor:
    """torch's tape, which keeps the state before each step and records the step anew in the backward pass."""
    h, y = torch.tensor(1 / steps), y0
    for number in range(steps):
        y = checkpoint(step, func, method, number * h, h, y, use_reentrant=False)
    return y


def aca(func: nn.Module, y0: Tensor, method: str, steps: int | None, rtol: float = 1e-3) -> Tensor:
    """Adaptive checkpoint adjoint (Zhuang et al., arXiv 2006.02493): it keeps accepted steps, repeats them.

    Steps are chosen by torchdiffeq; for a number of steps that is given they are equal.
    """
    return _ACA.apply(func, method, steps, rtol, y0, *func.parameters())


class _Watched(nn.Module):
    """A function whose accepted steps torchdiffeq notes in a list: times, states, sizes."""

    def __init__(self, func: nn.Module, taken: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        super().__init__()
        self.func, self.taken = func, taken

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.func(t, y)

    def callback_accept_step(self, t: Tensor, y: Tensor, h: Tensor) -> None:
        self.taken.append((t.float(), y, h.float()))


class _ACA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        func: nn.Module,
        method: str,
        steps: int | None,
        rtol: float,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        taken: list[tuple[Tensor, Tensor, Tensor]] = []
        if steps is None:
            t = torch.tensor([0.0, 1.0])
            watched, options = _Watched(func, taken), {"step_t": t[1:]}
            y = torchdiffeq.odeint(watched, y0, t, method=method, rtol=rtol, atol=rtol, options=options)[-1]
        else:
            h, y = torch.tensor(1 / steps), y0
            for number in range(steps):
                taken.append((number * h, y, h))
                y = step(func, method, number * h, h, y)
        ctx.func, ctx.method, ctx.taken = func, method, taken
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (cotangent,), params = cotangents, tuple(ctx.func.parameters())
        by_params = [torch.zeros_like(parameter) for parameter in params]
        for t, y, h in reversed(ctx.taken):
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                end = step(ctx.func, ctx.method, t, h, y)
            cotangent, *more = torch.autograd.grad(end, [y, *params], cotangent)
            for held, part in zip(by_params, more, strict=True):
                held += part
        return None, None, None, None, cotangent, *by_params


def alf(func: nn.Module, y0: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """State and velocity at the end of steps of the asynchronous leapfrog method."""
    h = torch.tensor(1 / steps)
    y, v = y0, func(0 * h, y0)
    for number in range(steps):
        middle = y + h / 2 * v
        v = 2 * func((number + 0.5) * h, middle) - v
        y = middle + h / 2 * v
    return y, v


def mali(func: nn.Module, y0: Tensor, steps: int) -> Tensor:
    """Memory-efficient ALF integrator (Zhuang et al., arXiv 2102.04668): of order 2, and exactly reversible.

    The state and a velocity are all that is kept, whatever the number of steps.
    """
    return _MALI.apply(func, steps, y0, *func.parameters())


class _MALI(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, func: nn.Module, steps: int, y0: Tensor, *params: Tensor) -> Tensor:
        y, v = alf(func, y0, steps)
        ctx.func, ctx.steps = func, steps
        ctx.save_for_backward(y, v)
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        func, params = ctx.func, tuple(ctx.func.parameters())
        (by_y,), (y, v) = cotangents, ctx.saved_tensors
        by_v, h = torch.zeros_like(by_y), torch.tensor(1 / ctx.steps)
        by_params = [torch.zeros_like(parameter) for parameter in params]

        def add(slope: Tensor, at: Tensor, cotangent: Tensor) -> Tensor:
            by_state, *more = torch.autograd.grad(slope, [at, *params], cotangent)
            for held, part in zip(by_params, more, strict=True):
                held += part
            return by_state

        for number in reversed(range(ctx.steps)):
            middle = (y - h / 2 * v).requires_grad_()
            with torch.enable_grad():
                slope = func((number + 0.5) * h, middle)
            v = 2 * slope.detach() - v
            y = middle.detach() - h / 2 * v
            by_v = by_v + h / 2 * by_y  # of the velocity after the step
            by_y = by_y + add(slope, middle, 2 * by_v)
            by_v = h / 2 * by_y - by_v
        with torch.enable_grad():
            start = y.requires_grad_()
            slope = func(0 * h, start)
        return None, None, by_y + add(slope, start, by_v), *by_params
