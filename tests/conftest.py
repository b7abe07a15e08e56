"""Small functions that every test file may ask for, and one thread: the problems are tiny."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)


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


@pytest.fixture
def network() -> SmallNetwork:
    return SmallNetwork()


@pytest.fixture
def start() -> Tensor:
    return torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def python_handles_ctrl_c() -> Iterator[None]:
    """Also in a process that was started in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
