"""A small network, exponential decay, and times in double precision."""

from __future__ import annotations

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
