"""A small network, exponential decay, and times in double precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """A smooth network on three states that depends on time."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.hidden = nn.Linear(4, 6, dtype=torch.float64)
        self.out = nn.Linear(6, 3, dtype=torch.float64)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.6, generator=generator)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        time = torch.sin(3 * t).expand(*y.shape[:-1], 1)
        return self.out(torch.tanh(self.hidden(torch.cat([y, time], dim=-1))))


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def times(*values: float) -> Tensor:
    """A vector of times."""
    return torch.tensor(values, dtype=torch.float64)


def logistic(t: Tensor, y: Tensor) -> Tensor:
    """It leaves the unstable state 0; infinite or NaN, and without a solution, a long way from there."""
    return 5 * y * (1 - y) * torch.sqrt(y.clamp(max=4.0))


def known(t: Tensor) -> Tensor:
    """(sin t, cos t) exp(sin t)"""
    phase = torch.tensor([0.0, math.pi / 2], dtype=torch.float64)
    return torch.sin(t + phase) * torch.exp(torch.sin(t))


def forced(t: Tensor, y: Tensor) -> Tensor:
    """``known`` is a solution. The equations of long steps have other solutions too."""
    phase = torch.tensor([0.0, math.pi / 2], dtype=torch.float64)
    rates = torch.tensor([3.0, 1.0], dtype=torch.float64)
    away = known(t) - y
    slope = torch.cos(t + phase) * torch.exp(torch.sin(t)) + torch.cos(t) * known(t)
    return slope + torch.sin(away) * rates + 0.3 * away**2
