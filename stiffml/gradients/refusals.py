"""Gradients that say so when they are differentiated, instead of passing for constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiable_no_further(
    gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], what: str
) -> list[Tensor | None]:
    """The gradients as functions of ``inputs`` too, with an error for a derivative by these.

    What they are known to depend on otherwise stays as it is: an error comes only if somebody asks for a
    derivative by one of the inputs. ``what`` names the gradients in it. For use at the end of a
    ``backward``: without ``create_graph`` they are returned as they are.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    # Zeros that are connected to the inputs: torch passes their node by where no input is asked for.
    return [None if g is None else g + _Zeros.apply(g.detach(), what, *inputs) for g in gradients]


class _Zeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx, like: Tensor, what: str, *inputs: Tensor) -> Tensor:
        ctx.what = what
        return torch.zeros_like(like)

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        raise RuntimeError(f"stiffml: {ctx.what} cannot be differentiated again")
