"""A small network and a loss, for parameters that nobody names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import Grid, odeint

T = times(0, 0.2, 0.5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inner, self.outer = nn.Linear(2, 4).double(), nn.Linear(4, 2).double()
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.5, generator=generator)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(y))) - torch.sin(t) * y

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return self(t, y)


def start() -> Tensor:
    return torch.tensor([0.8, -0.3], dtype=torch.float64, requires_grad=True)


def loss(func: Callable, y0: Tensor, method: str, **arguments) -> Tensor:
    y = odeint(func, y0, T, method=method, steps=Grid(2), **arguments)
    assert isinstance(y, Tensor)
    return (y + y**2).sum()


def gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [g.clone() for g in torch.autograd.grad(value, inputs)]


def agree(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    for a, b in zip(found, expected, strict=True):
        off = float((a - b).abs().max() / b.abs().max())
        assert off <= 1e-9, f"{what}: off by {off:.1e}; look at unnamed_parameters.py"
