"""Runs of samples that have times of their own, and the same samples one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import stiffml
from stiffml import METHODS, Split

D = torch.float64

ROWS = (
    [0.0, 0.1, 0.2, 0.3],
    [0.0, 0.5, 0.5, 0.5],
    [0.1, 0.15, 0.7, 1.3],
    [0.2, 0.2, 0.25, 0.9],
)
"""Times of four samples: one begins later, two repeat times."""


class Kinetics(nn.Module):
    """Two stiff equations that depend on time, with parameters; batches of any shape."""

    def __init__(self, stiffness: float = 50.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.8, stiffness], dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        slow = -self.k[0] * a * b + torch.sin(3 * t.expand(a.shape))
        return torch.stack([slow, self.k[1] * (a - b - b**3 / 3)], -1)


def starts(count: int = len(ROWS)) -> Tensor:
    numbers = torch.arange(count, dtype=D)
    return torch.stack([0.4 + 0.3 * numbers, 1.1 - 0.2 * numbers], -1)


def times(rows=ROWS) -> Tensor:
    return torch.tensor(rows, dtype=D)


def taken(name: str, func: nn.Module):
    """A function as a method takes it."""
    if METHODS[name].exponential:
        return Split(lambda t, y: -y, func, linear=True)
    return func if METHODS[name].whole else Split(func, lambda t, y: 0 * y)


def one_by_one(func, y0: Tensor, t: Tensor, **arguments) -> Tensor:
    """(n, batch, width): each sample in a solve of its own, as a batch of one."""
    found = [
        stiffml.odeint(func, y0[i : i + 1], t[i : i + 1], batch_dims=1, **arguments) for i in range(len(y0))
    ]
    return torch.cat(found, dim=1)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs, retain_graph=True))
