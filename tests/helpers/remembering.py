"""A small network, and solves of it whose checked arguments are remembered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import Grid, solve
from stiffml.interface import checking, integrate

D = torch.float64
T = times(*[0.1 * n for n in range(11)])
Y0 = torch.tensor([1.0, 0.3], dtype=D)


class Func(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(2, 4, dtype=D), nn.Tanh(), nn.Linear(4, 2, dtype=D))
        self.drop = nn.Dropout(0.5)
        self.drop.eval()
        self.register_buffer("rates", torch.tensor([1.0, 2.0], dtype=D))
        self.factor, self.table = 1.0, np.ones(2)
        self.other: Tensor | None = None

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        slope = self.inner(self.drop(y)) - self.factor * self.rates * y * torch.from_numpy(self.table)
        return slope if self.other is None else slope + self.other * y


@contextmanager
def counted_trials() -> Iterator[list[str]]:
    """A list to which each trial of func adds the kind of what was tried."""
    found: list[str] = []
    right = checking.try_out

    def counting(f, *others, **arguments) -> bool:
        found.append(type(f).__name__)
        return right(f, *others, **arguments)

    checking.try_out = counting
    try:
        yield found
    finally:
        checking.try_out = right


@contextmanager
def counted_checks() -> Iterator[list[int]]:
    """A list that grows by one with each full check of arguments."""
    found: list[int] = []
    check = integrate.check

    def counting(arguments):
        found.append(1)
        return check(arguments)

    integrate.check = counting
    try:
        yield found
    finally:
        integrate.check = check


def run(func, y0: Tensor = Y0, t: Tensor = T, **arguments):
    given = {"method": "cn", "steps": Grid(), **arguments}
    solution = solve(func, y0, t, **given)
    assert solution.stats.at_once + solution.stats.in_c == solution.stats.accepted >= 10
    return solution


def gradients(func, solution) -> list[Tensor | None]:
    for parameter in func.parameters():
        parameter.grad = None
    (solution.y**2).sum().backward()
    return [parameter.grad for parameter in func.parameters()]


def fresh(func: Func) -> Func:
    """A function with the same numbers of which nothing is remembered."""
    other = Func()
    other.load_state_dict(func.state_dict())
    other.factor, other.table, other.other = func.factor, func.table, func.other
    return other
