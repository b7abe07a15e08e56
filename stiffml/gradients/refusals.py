"""Gradients that raise an error when differentiated again, instead of being treated as constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiable_no_further(
    gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], what: str
) -> list[Tensor | None]:
    """The gradients, such that differentiating them by one of ``inputs`` raises a RuntimeError.

    ``what`` names the gradients in the message. Derivatives by anything else stay possible. Call this at the
    end of a ``backward``; without ``create_graph`` the gradients are returned unchanged.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    # Adds zeros that depend on the inputs. Torch runs their backward only if an input is asked for.
    return [None if g is None else g + _Zeros.apply(g.detach(), what, *inputs) for g in gradients]


def require_single(cotangent: Tensor, what: str) -> None:
    """Raise RuntimeError if the backward pass of ``what`` gets many cotangents at once."""
    functorch = torch._C._functorch
    if functorch.is_legacy_batchedtensor(cotangent) or functorch.is_functorch_wrapped_tensor(cotangent):
        raise RuntimeError(
            f"stiffml: {what} takes one cotangent in a backward pass, not many at once (is_grads_batched, "
            "vectorize=True). Try: torch.func.jacrev of the solve, or vectorize=False"
        )


class _Zeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx, like: Tensor, what: str, *inputs: Tensor) -> Tensor:
        ctx.what = what
        return torch.zeros_like(like)

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        raise RuntimeError(f"stiffml: {ctx.what} cannot be differentiated again")
