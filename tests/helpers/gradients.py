"""Gradients against differences of the solve itself, in as few solves as that takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[], Tensor]


def compare(
    loss: Loss, inputs: Sequence[Tensor], gradients: Sequence[Tensor], size: float, floor: float = 0.0
) -> tuple[float, float]:
    """Relative error and Taylor rate of a gradient, along one direction through all of ``inputs``.

    Central differences of fourth order with steps of relative size ``size`` leave an error of about size⁴,
    and rounding of about 1e-14/size. The rate is that of the remainder of first order. The error is relative
    to no less than ``floor`` of the loss, since rounding is.
    """
    generator = torch.Generator().manual_seed(0)
    originals = [p.detach().clone() for p in inputs]
    directions = []
    for p, gradient in zip(originals, gradients, strict=True):
        scale = p.abs().mean().clamp(min=0.1)
        # Along the signs of the gradient its components add up instead of cancelling.
        signs = torch.where(gradient < 0, -1.0, 1.0)
        directions.append(signs * scale * (torch.rand(p.shape, generator=generator, dtype=p.dtype) + 0.2))
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def at(epsilon: float) -> float:
        with torch.no_grad():
            for p, original, d in zip(inputs, originals, directions, strict=True):
                p.copy_(original + epsilon * d)
            try:
                return float(loss())
            finally:
                for p, original in zip(inputs, originals, strict=True):
                    p.copy_(original)

    base, ahead, behind, far_ahead, far_behind = (at(k * size) for k in (0, 1, -1, 2, -2))
    difference = (8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * size)
    near = abs(ahead - base - size * slope)
    far = abs(far_ahead - base - 2 * size * slope)
    # A function that is linear along the direction leaves no remainder.
    rate = math.inf if near < 1e-11 * abs(base) else math.log2(far / near)
    return abs(difference - slope) / max(abs(difference), abs(slope), floor * abs(base)), rate
