"""Gradients that say so when they are differentiated, instead of passing for constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiable_no_further(
    gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], what: str
) -> list[Tensor | None]:
    """The gradients, computed without a graph, as functions of ``inputs`` with an error for a derivative.

    ``what`` names them in that error. For use at the end of a ``backward``: without ``create_graph`` they
    are returned as they are.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    return [None if g is None else _Final.apply(g, what, *inputs) for g in gradients]


class _Final(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient: Tensor, what: str, *inputs: Tensor) -> Tensor:
        ctx.what = what
        return gradient.clone()

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        raise RuntimeError(f"stiffml: {ctx.what} cannot be differentiated again")
