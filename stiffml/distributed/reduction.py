"""The sum of a number over all processes, for losses that every process then holds; differentiable.

Each process computes with numbers that are the same everywhere, such as this sum and the loss made from it,
and with its own parts of a state. The derivative with respect to a part is complete on its own process,
because the loss there is the whole loss. So the cotangent of the sum is the cotangent of each term,
unchanged. In second derivatives that cotangent is itself a number that is the same everywhere and acts on all
processes, so its own cotangents are summed over the processes: each operation is the transpose of the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stiffml.system.space import Space


def sum_over_processes(value: Tensor, space: Space) -> Tensor:
    """The sum of a 0-d tensor over all processes, on each of them; collective if differentiated twice."""
    return _Sum.apply(value, space) if space.is_distributed else value


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, space: Space) -> Tensor:  # type: ignore[override]
        ctx.space = space
        return space.sum_tensor(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Share.apply(cotangent, ctx.space), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return _Sum.apply(tangent, ctx.space)


class _Share(torch.autograd.Function):
    """A number that is the same on all processes -> its copy on each process."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, space: Space) -> Tensor:  # type: ignore[override]
        ctx.space = space
        return value.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Sum.apply(cotangent, ctx.space), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return _Share.apply(tangent, ctx.space)
