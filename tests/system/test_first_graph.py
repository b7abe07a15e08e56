"""A solve like one before looks at func through the first graph that it keeps, and at no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from remembering import D, counted_checks
from torch import Tensor, nn

import stiffml
from stiffml import Adaptive, Grid

T = torch.tensor([0.0, 1.0], dtype=D)
STAGES = {"euler": 1, "rk4": 4}
STEPS = 4


class Wide(nn.Module):
    """Enough components for graphs of f to be kept."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(40, 40, dtype=D)
        self.other: Tensor | None = None
        self.bent = False

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        slope = torch.tanh(self.inner(y))
        slope = slope * torch.sigmoid(y) if self.bent else slope
        return slope if self.other is None else slope + self.other * y


@pytest.fixture
def checks() -> Iterator[list[int]]:
    with counted_checks() as found:
        yield found


def start(scale: float = 1.0) -> Tensor:
    y0 = scale * torch.randn(30, 40, generator=torch.Generator().manual_seed(1), dtype=D)
    return y0.requires_grad_()


@contextmanager
def counted(func: nn.Module) -> Iterator[list[int]]:
    """A list that grows by one with each call; an attribute that counts them would be one that changes."""
    found: list[int] = []
    handle = func.register_forward_hook(lambda *_: found.append(1))
    yield found
    handle.remove()


def gradients(func: Wide, method: str, y0: Tensor) -> list[Tensor]:
    y = stiffml.odeint(func, y0, T, method=method, steps=Grid(STEPS))
    wanted = [y0, *func.inner.parameters(), *([] if func.other is None else [func.other])]
    return [y.detach(), *torch.autograd.grad((y[-1] ** 2).sum(), wanted)]


@pytest.mark.parametrize("method", STAGES)
def test_func_is_called_as_often_as_there_are_stages(method: str) -> None:
    func, ends = Wide(), []
    with counted(func) as calls:
        for number in range(4):
            y0 = start(1.0 + 0.1 * number)
            found = gradients(func, method, y0)
            ends.append(len(calls))
            for one, other in zip(found, gradients(Wide(), method, y0), strict=True):
                assert torch.equal(one, other)
    counts = np.diff(ends)
    assert (counts[1:] == STEPS * STAGES[method]).all(), counts


def test_adaptive_steps_use_it_too() -> None:
    func, ends = Wide(), []
    with counted(func) as calls:
        for _ in range(4):
            y = stiffml.odeint(func, start(), T, method="dopri5", rtol=1e-4, atol=1e-4, steps=Adaptive())
            y.sum().backward()
            ends.append(len(calls))
    counts = np.diff(ends)
    assert counts[2] == counts[1] == counts[0] - 1, counts


def _other_operations(func: Wide) -> None:
    func.bent = True


def _further_parameter(func: Wide) -> None:
    func.other = nn.Parameter(torch.tensor(0.5, dtype=D))


def _further_leaf(func: Wide) -> None:
    func.other = torch.tensor(0.5, dtype=D, requires_grad=True)


@pytest.mark.parametrize("change", [_other_operations, _further_parameter, _further_leaf])
def test_what_changes_is_noticed(change: Callable[[Wide], None], checks: list[int]) -> None:
    func = Wide()
    for _ in range(4):
        gradients(func, "rk4", start())
    checks.clear()
    change(func)
    found = gradients(func, "rk4", start())
    assert len(checks) == 1
    fresh = Wide()
    change(fresh)
    for one, other in zip(found, gradients(fresh, "rk4", start()), strict=True):
        assert torch.equal(one, other)


def test_a_hidden_branch_is_noticed(checks: list[int]) -> None:
    """One by the state, which nothing but the graph shows."""

    class Branching(Wide):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            slope = super().forward(t, y)
            return slope if y.detach().abs().max() < 100 else -slope.abs()

    func = Branching()
    for _ in range(4):
        gradients(func, "euler", start())
    checks.clear()
    gradients(func, "euler", start(200.0))
    assert len(checks) == 1
