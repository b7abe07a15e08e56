"""Solves without gradients are remembered too, from the second on; a function that changes is noticed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from remembering import Y0, D, Func, T, counted_checks, counted_trials, fresh, gradients
from torch import Tensor, nn

from stiffml import Grid, solve
from stiffml.interface.remembered import SOLVES

WAYS: dict[str, dict] = {
    "at once": {"method": "cn", "steps": Grid()},
    "one by one": {"method": "bdf", "rtol": 1e-5},
    "linear systems": {"method": "rosw-rodaspr2", "rtol": 1e-5},
}


@pytest.fixture
def checks() -> Iterator[list[int]]:
    with counted_checks() as found:
        yield found


@torch.no_grad()
def states(func, y0: Tensor = Y0, **arguments) -> Tensor:
    return solve(func, y0, T, **arguments).y


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_checked_once_and_again_after_a_while(way: str, compiled: bool, checks: list[int]) -> None:
    if compiled:
        pytest.importorskip("casadi")
    func, full, given = Func(), [], {**WAYS[way], "compile": compiled}
    for number in range(SOLVES + 4):
        checks.clear()
        y0 = Y0 + 0.01 * number
        found = states(func, y0, **given)
        full.append(len(checks))
        if number in (1, 20):
            torch.testing.assert_close(found, states(fresh(func), y0, **given), rtol=0, atol=0)
    assert full == [1, 1, *[0] * SOLVES, 1, 0], f"{full}: look at recall in interface/remembered.py"


@pytest.mark.parametrize("way", WAYS)
def test_a_validation_between_iterations_costs_no_trials(way: str) -> None:
    func, given = Func(), WAYS[way]
    with counted_checks() as checks, counted_trials() as tried:
        for _ in range(4):
            gradients(func, solve(func, Y0, T, **given))
            states(func, **given)
    assert (len(checks), len(tried)) == (3, 3), "once with gradients, and twice without"


def _factor(func: Func) -> None:
    func.factor = 2.0


def _leaf(func: Func) -> None:
    func.other = torch.tensor(0.5, dtype=D, requires_grad=True)


def _module(func: Func) -> None:
    func.inner[1] = nn.Softplus()


@pytest.mark.parametrize("change", [_factor, _leaf, _module], ids=lambda change: change.__name__[1:])
def test_a_function_that_changes_is_checked_in_full(change, checks: list[int]) -> None:
    func, given = Func(), WAYS["at once"]
    before = [states(func, **given) for _ in range(4)]
    assert len(checks) == 2
    change(func)
    found = states(func, **given)
    assert len(checks) == 3
    assert not torch.equal(found, before[0])
    torch.testing.assert_close(found, states(copy.deepcopy(func), **given), rtol=0, atol=0)


def test_other_operations_are_noticed(checks: list[int]) -> None:
    """Where nothing that func reads has changed, but what it does."""
    held = {"far": False}

    class Reads:
        __slots__ = ()

        def __bool__(self) -> bool:
            return held["far"]

    far, weight = Reads(), torch.ones((), dtype=D, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -(torch.exp(weight) if far else weight) * y

    given = WAYS["at once"]
    for _ in range(4):
        states(func, **given)
    assert len(checks) == 2
    held["far"] = True
    found = states(func, **given)
    assert len(checks) == 3
    half = 0.05 * math.e
    torch.testing.assert_close(found[-1], Y0 * ((1 - half) / (1 + half)) ** 10, rtol=1e-9, atol=0)


def test_a_jacobian_that_goes_wrong_is_noticed() -> None:
    """Trials are those of earlier solves; the iteration shows that they no longer hold."""

    class Hides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.zeros((), dtype=D))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -(y**3) - self.gate * torch.tensor(y.detach().numpy() * 3)

    func = Hides()
    for _ in range(4):
        states(func, method="rosw-rodaspr2")
    with torch.no_grad():
        func.gate.fill_(0.7)
    with pytest.raises(ValueError, match="leaves autograd"):
        states(func, method="rosw-rodaspr2")
