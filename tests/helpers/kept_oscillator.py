"""A training's solves on kept steps: a problem whose parameters move, and the state of the steps."""

from __future__ import annotations

import io

import torch
from small_problems import times
from torch import Tensor, nn

import stiffml
from stiffml import KeptSteps, Solution

D = torch.float64
T = times(0, 0.3, 2.0)
START = torch.tensor([1.5, 0.3], dtype=D)
TOLERANCES = {"rtol": 1e-4, "atol": 1e-5}


class Oscillator(nn.Module):
    """Van der Pol's with a force."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([5.0, 1.0, 3.0], dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (x, v), (mu, a, w) = y.unbind(-1), self.p
        return torch.stack([v, mu * ((1 - x**2) * v - x) + a * torch.sin(w * t)], dim=-1)


def moved(func: Oscillator, k: int) -> None:
    """The parameters after k iterations of a training, say."""
    with torch.no_grad():
        func.p[:] = torch.tensor([5.0, 1.0, 3.0]) * (1 + 0.004 * k * torch.tensor([1.0, -1, 0.5]))


def solve(func, steps, method: str = "bdf3", **arguments) -> Solution:
    return stiffml.solve(func, START, T, method=method, steps=steps, **{**TOLERANCES, **arguments})


def gradient(solution: Solution, func: Oscillator) -> Tensor:
    assert isinstance(solution.y, Tensor)
    return torch.autograd.grad(solution.y.pow(2).sum(), [func.p])[0]


def saved(kept: KeptSteps) -> dict:
    """Its state after a way through a file."""
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(one, other) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
