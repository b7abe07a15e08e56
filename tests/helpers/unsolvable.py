"""What tests of linear solves that fail share."""

from __future__ import annotations

import torch
from fields import Brusselator, weighted
from small_problems import times
from torch import Tensor, nn

T = times(0.1, 0.2, 0.3)


def problem(method: str) -> nn.Module:
    model = Brusselator()
    return model.split() if method == "arkimex-3" else model


def gradients(model: nn.Module, y: Tensor, y0: Tensor, retain_graph: bool = False) -> list[Tensor]:
    return list(torch.autograd.grad(weighted(y), [y0, *model.parameters()], retain_graph=retain_graph))


def require_same(found: list[Tensor], expected: list[Tensor], bound: float = 1e-7) -> None:
    for a, b in zip(found, expected, strict=True):
        off = float((a - b).abs().max() / b.abs().max())
        assert off <= bound, f"a gradient has changed by {off:.1e}"
