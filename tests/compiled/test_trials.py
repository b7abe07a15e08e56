"""Trials of func that are remembered between solves: those of its compiled form are its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from remembering import counted_trials
from small_problems import times
from torch import Tensor, nn

from stiffml import Grid, solve
from stiffml.system.trial_memory import SOLVES

D = torch.float64
T = times(*[0.1 * n for n in range(11)])
pytestmark = pytest.mark.filterwarnings("error:compile")


class Func(nn.Module):
    """A small network, with a switch that takes a part of it out of autograd."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(2, 4, dtype=D), nn.Tanh(), nn.Linear(4, 2, dtype=D))
        self.detaches = False

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.inner(y.detach() if self.detaches else y) - y


@pytest.fixture
def tried() -> Iterator[list[str]]:
    with counted_trials() as found:
        yield found


def iterate(func: Func, compiled: bool, **arguments) -> None:
    """An iteration of a training, all at once, or in C."""
    y0 = torch.tensor([1.0, 0.3], dtype=D)
    solution = solve(func, y0, T, method="cn", steps=Grid(), compile=compiled, **arguments)
    assert solution.stats.at_once + solution.stats.in_c == 10
    (solution.y**2).sum().backward()
    with torch.no_grad():
        for parameter in func.parameters():
            parameter -= 0.01 * parameter.grad
            parameter.grad = None


def test_the_compiled_form_is_tried_by_itself(tried: list[str]) -> None:
    func = Func()
    for compiled in (False, True, False, True, True, False):
        iterate(func, compiled)
    assert tried == ["Dynamics", "CompiledDynamics"]


def test_it_is_tried_again_after_a_while(tried: list[str]) -> None:
    func = Func()
    for _ in range(SOLVES + 4):
        iterate(func, True)
    assert tried == ["CompiledDynamics"] * 2


def test_a_change_is_noticed_in_the_next_solve() -> None:
    func = Func()
    for _ in range(3):
        iterate(func, True)
    func.detaches = True
    with (
        pytest.warns(UserWarning, match="compiled derivative"),
        pytest.raises(ValueError, match="leaves autograd"),
    ):
        iterate(func, True)
