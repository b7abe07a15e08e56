"""Vector-Jacobian and Jacobian-vector products of what torch has computed, and sums of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def added(parts: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of gradients; None stands for zero."""
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0]) if there else None


def gradient(outputs: Tensor, leaf: Tensor, cotangent: Tensor, retain: bool = False) -> Tensor:
    """Gradient of the outputs with respect to leaf; zeros where they do not depend on it."""
    if not outputs.requires_grad:
        return torch.zeros_like(leaf)
    (grad,) = torch.autograd.grad(outputs, leaf, cotangent, retain_graph=retain, allow_unused=True)
    return torch.zeros_like(leaf) if grad is None else grad


def derivative(slopes: Tensor, inputs: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """The derivative of the slopes along directions of the inputs, itself differentiable.

    By differentiating a vector-Jacobian product with respect to its vector, in which it is linear:
    much cheaper than torch's forward mode.
    """
    probe = torch.zeros_like(slopes, requires_grad=True)
    if not slopes.requires_grad or not inputs:
        return torch.zeros_like(slopes)
    products = torch.autograd.grad(slopes, list(inputs), probe, create_graph=True, allow_unused=True)
    pairs = zip(products, directions, strict=True)
    # Of complex inputs the products are gradients in torch's sense, and a change is Re(conj(p) v).
    along = [(p.conj() * v).real.sum() for p, v in pairs if p is not None]
    total = sum(along, torch.zeros(()))
    if not total.requires_grad:
        return torch.zeros_like(slopes)
    (change,) = torch.autograd.grad(total, probe, create_graph=True, allow_unused=True)
    return torch.zeros_like(slopes) if change is None else change


class Derivative:
    """The derivative of slopes along many directions of the inputs, as :func:`derivative` gives it for one.

    The vector-Jacobian product is taken once, and differentiated for each direction. Results are constants.
    """

    def __init__(self, slopes: Tensor, inputs: Sequence[Tensor]) -> None:
        self._like = slopes.detach()
        self._products: list[Tensor | None] = [None] * len(inputs)
        if slopes.requires_grad and inputs:
            self._probe = torch.zeros_like(slopes, requires_grad=True)
            self._products = list(
                torch.autograd.grad(slopes, list(inputs), self._probe, create_graph=True, allow_unused=True)
            )

    def __call__(self, directions: Sequence[Tensor | None]) -> Tensor:
        """Along one direction, given by input; None for no change."""
        pairs = [
            (p, v)
            for p, v in zip(self._products, directions, strict=True)
            if p is not None and p.requires_grad and v is not None
        ]
        if not pairs:
            return torch.zeros_like(self._like)
        products, along = zip(*pairs, strict=True)
        (change,) = torch.autograd.grad(
            products, self._probe, grad_outputs=along, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(self._like) if change is None else change
