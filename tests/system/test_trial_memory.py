"""Trials of func are remembered between solves of a training; what they guard against is noticed still."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import Grid, solve
from stiffml.system.trial_memory import SOLVES, UNSEEN

D = torch.float64
T = times(*[0.1 * n for n in range(11)])


class Func(nn.Module):
    """A small network, with switches that spoil it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(2, 4, dtype=D), nn.Tanh(), nn.Linear(4, 2, dtype=D))
        self.drop = nn.Dropout(0.5)
        self.drop.eval()
        self.gate = nn.Parameter(torch.zeros((), dtype=D))
        self.detaches = False
        self.secret = np.zeros(1)  # a change in here is no fact that can be compared

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        Func.evaluations += 1
        away = y.detach() if self.detaches else y
        if self.secret[0] == 1:
            away = y.detach()
        if self.secret[0] == 2:
            away = y - 0.3 * y.mean(0)
        hidden = torch.sin(3 * y).detach() if self.secret[0] == 3 else torch.zeros_like(y)
        return self.inner(self.drop(away)) - y + self.gate * hidden

    evaluations = 0


def iterate(func: Func, start: Tensor | None = None, method: str = "cn", **arguments) -> int:
    """An iteration of a training; returns the calls of func before its backward pass."""
    y0 = torch.tensor([1.0, 0.3], dtype=D) if start is None else start
    begun = Func.evaluations
    solution = solve(func, y0, T, method=method, steps=Grid(), **arguments)
    assert solution.stats.at_once == solution.stats.accepted >= 10
    found = Func.evaluations - begun
    (solution.y**2).sum().backward()
    with torch.no_grad():
        for parameter in func.inner.parameters():
            parameter -= 0.01 * parameter.grad
            parameter.grad = None
    return found


def test_they_are_made_once_and_again_after_a_while() -> None:
    func = Func()
    calls = [iterate(func) for _ in range(SOLVES + 4)]
    usual = int(np.median(calls))
    dear = [number for number, count in enumerate(calls) if count > usual + 4]
    assert dear == [0, SOLVES + 1], f"{calls}: look at rely_on in trial_memory.py"


class Counting(Func):
    """The same, with a count of its own calls, and one number that changes otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.nfe, self.level = 0, 1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        return self.level * super().forward(t, y)


def test_counters_of_calls_are_no_change() -> None:
    func = Counting()
    first, *others = (iterate(func) for _ in range(4))
    assert max(others) < first, f"{first}, {others}: look at System.counted"
    func.level = 2
    assert iterate(func) > max(others), "another number that changes is a change"


def test_solves_that_show_nothing_are_few_in_a_row() -> None:
    """With the solution as a guess there is one evaluation, so that no change of f can be compared."""
    func, y0 = Func(), torch.tensor([1.0, 0.3], dtype=D)
    guess = solve(func, y0, T, method="cn", steps=Grid())
    calls = []
    for _ in range(2 * UNSEEN + 3):
        begun = Func.evaluations
        guess = solve(func, y0, T, method="cn", steps=Grid(), guess=guess)
        calls.append(Func.evaluations - begun)
    dear = [number for number, count in enumerate(calls) if count > min(calls) + 4]
    assert dear, f"{calls}: no trial in {len(calls)} solves"
    assert max(np.diff([-1, *dear, len(calls)])) <= UNSEEN + 1, f"{calls}: look at PassedTrials.count"


def _detach(func: Func) -> None:
    func.detaches = True


def _drop(func: Func) -> None:
    func.train()


def _replace(func: Func) -> None:
    func.inner[1] = Detaching()


def _hook(func: Func) -> None:
    func.inner[0].register_forward_hook(lambda module, inputs, value: value.detach() + 0 * value)


def _secretly(kind: int) -> Callable[[Func], None]:
    def change(func: Func) -> None:
        func.secret[0] = kind

    return change


class Detaching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.detach()) + 0 * x


CHANGES = {
    "an attribute": (_detach, "leaves autograd"),
    "dropout": (_drop, "returned two values"),
    "a module": (_replace, "leaves autograd"),
    "a hook": (_hook, "leaves autograd"),
    "an array": (_secretly(1), "leaves autograd"),
}


@pytest.mark.parametrize("method", ["cn", "bdf3", "dirk-es325sal", "arkimex-3"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_noticed_in_the_next_solve(change: str, method: str) -> None:
    make, message = CHANGES[change]
    func = Func()
    for _ in range(3):
        iterate(func, method=method)
    make(func)
    with pytest.raises(ValueError, match=message):
        iterate(func, method=method)


@pytest.mark.parametrize("method", ["cn", "bdf3"])
def test_samples_that_get_coupled_are_noticed(method: str) -> None:
    func, start = Func(), torch.rand(3, 2, dtype=D, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        iterate(func, start, method, batch_dims=1)
    func.secret[0] = 2
    with pytest.raises(ValueError, match="samples are independent"):
        iterate(func, start, method, batch_dims=1)


def test_samples_with_times_of_their_own_are_tried_in_every_solve() -> None:
    func, start = Func(), torch.rand(3, 2, dtype=D, generator=torch.Generator().manual_seed(1))

    def own_times() -> None:
        solve(func, start, T.repeat(3, 1), method="cn", steps=Grid(), batch_dims=1)

    for _ in range(3):
        iterate(func, start, batch_dims=1)
    own_times()
    func.secret[0] = 1
    with pytest.raises(ValueError, match="leaves autograd"):
        own_times()


def test_a_batch_that_gets_wrong_is_given_up() -> None:
    """A mean over the first dimension is one over states in a batch of them: another number."""
    func = Func()
    for _ in range(3):
        iterate(func)
    func.secret[0] = 2
    y0 = torch.tensor([1.0, 0.3], dtype=D)
    one, other = (
        solve(func, y0, T, method="cn", steps=Grid(), stepping=stepping)
        for stepping in ("all-at-once", "sequential")
    )
    torch.testing.assert_close(one.y, other.y, rtol=1e-9, atol=1e-9)


def test_what_a_zero_has_hidden_is_noticed() -> None:
    """A gate that is zero at first and then opens, on a part that has left autograd."""
    func = Func()
    func.secret[0] = 3
    for _ in range(3):
        iterate(func)
    with torch.no_grad():
        func.gate.fill_(0.7)
    with pytest.raises(ValueError, match="leaves autograd"):
        iterate(func)
