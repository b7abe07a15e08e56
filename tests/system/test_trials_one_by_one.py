"""Solves one step at a time remember their arguments and trials too; what these guard against is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from remembering import Y0, D, T, counted_checks, counted_trials
from torch import Tensor, nn

from stiffml import Adaptive, Fixed, Grid, solve
from stiffml.system.trial_memory import SOLVES, UNSEEN

SHORT = T[:4]
"""The same object each time, as a training has it."""


class Func(nn.Module):
    """A small network, with a switch that spoils it in ways that are not seen at the start."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(2, 4, dtype=D), nn.Tanh(), nn.Linear(4, 2, dtype=D))
        self.gate = nn.Parameter(torch.zeros((), dtype=D))
        self.secret = np.zeros(20_000)  # more numbers than are compared
        self.offset = 0.0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        away = y
        if self.secret[0] == 1:
            away = y.detach()
        if self.secret[0] == 2:
            away = y - 0.3 * y.mean(0)
        hidden = torch.sin(3 * y).detach() if self.secret[0] == 3 else torch.zeros_like(y)
        return self.inner(away) - y**3 + self.gate * hidden + self.offset


WAYS: dict[str, dict] = {
    "known": {"method": "cn", "steps": Grid(), "stepping": "sequential"},
    "fixed": {"method": "bdf3", "steps": Fixed(0.05), "stepping": "sequential"},
    "stages": {"method": "dirk-es325sal", "steps": Grid(), "stepping": "sequential"},
    "few": {"method": "beuler", "t": T[:2], "steps": Grid(), "stepping": "sequential"},
    "adaptive": {"method": "bdf", "rtol": 1e-5},
    "native": {"method": "sdirk3", "steps": Adaptive(max_steps=500)},
    "explicit": {"method": "dopri5", "rtol": 1e-5},
    "split": {"method": "arkimex-3", "rtol": 1e-5},
}


@pytest.fixture
def tried() -> Iterator[list[str]]:
    with counted_trials() as found:
        yield found


@pytest.fixture
def checks() -> Iterator[list[int]]:
    with counted_checks() as found:
        yield found


def iterate(func: Func, y0: Tensor = Y0, **arguments) -> tuple[Tensor, list[Tensor]]:
    """An iteration of a training: the states and the gradients."""
    t = arguments.pop("t", SHORT)
    solution = solve(func, y0, t, **arguments)
    assert solution.stats.at_once == 0
    inputs = list(func.inner.parameters())
    found = torch.autograd.grad((solution.y**2).sum(), inputs)
    return solution.y.detach(), list(found)


def move(func: Func, gradients: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, gradient in zip(func.inner.parameters(), gradients, strict=True):
            parameter -= 0.01 * gradient


def fresh(func: Func) -> Func:
    other = Func()
    other.load_state_dict(func.state_dict())
    other.secret, other.offset = func.secret, func.offset
    return other


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_made_once_and_again_after_a_while(
    way: str, compiled: bool, tried: list[str], checks: list[int]
) -> None:
    """With the values and gradients of functions of which nothing is remembered."""
    if compiled:
        pytest.importorskip("casadi")
    func, given = Func(), {**WAYS[way], "compile": compiled}
    full, trials = [], []
    for number in range(SOLVES + 3):
        checks.clear(), tried.clear()
        y, gradients = iterate(func, Y0 + 0.01 * number, **given)
        full.append(len(checks)), trials.append(len(tried))
        if number in (1, 20):
            wanted = iterate(fresh(func), Y0 + 0.01 * number, **given)
            torch.testing.assert_close((y, gradients), wanted, rtol=1e-9, atol=1e-11)
        move(func, gradients)
    assert full == [1, *[0] * SOLVES, 1, 0], f"{full}: look at recall in interface/remembered.py"
    assert trials == full, f"{trials}: look at PassedTrials in system/trial_memory.py"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "message"), [(1, "leaves autograd"), (3, "leaves autograd")])
def test_what_leaves_autograd_unseen_is_noticed(way: str, kind: int, message: str) -> None:
    func = Func()
    func.secret[0] = 3 if kind == 3 else 0  # behind a gate that is zero
    for _ in range(3):
        move(func, iterate(func, **WAYS[way])[1])
    func.secret[0] = kind
    with torch.no_grad():
        func.gate.fill_(0.7)
    with pytest.raises(ValueError, match=message):
        iterate(func, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_samples_that_get_coupled_are_noticed(way: str) -> None:
    func, start = Func(), torch.rand(3, 2, dtype=D, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        move(func, iterate(func, start, batch_dims=1, **WAYS[way])[1])
    func.secret[0] = 2
    with pytest.raises(ValueError, match="samples are independent"):
        iterate(func, start, batch_dims=1, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_that_gets_wrong_is_given_up(way: str) -> None:
    """A mean over the first dimension is one over states in a batch of them: another number."""
    func = Func()
    for _ in range(3):
        move(func, iterate(func, **WAYS[way])[1])
    func.secret[0] = 2
    torch.testing.assert_close(
        iterate(func, **WAYS[way]), iterate(fresh(func), **WAYS[way]), rtol=1e-9, atol=1e-11
    )


def test_solves_that_show_nothing_are_few_in_a_row(tried: list[str]) -> None:
    """f is not defined beside the trajectory."""

    class Edge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.ones((), dtype=D))
            self.is_strict = False

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            if secret[0] and y.dim() > 1:
                raise ArithmeticError
            return -self.rate * y

    secret = np.zeros(20_000)
    func = Edge()
    for number in range(2 * UNSEEN + 4):
        solve(func, Y0, T, method="dopri5", rtol=1e-5)
        secret[0] = number > 0
    assert len(tried) >= 2, "look at PassedTrials"


@pytest.mark.parametrize("change", ["attribute", "tolerance", "initial step", "bound"])
@pytest.mark.parametrize("way", ["known", "adaptive"])
def test_changes_are_checked_in_full(way: str, change: str, checks: list[int]) -> None:
    func, given = Func(), dict(WAYS[way])
    iterate(func, **given), iterate(func, **given)
    assert len(checks) == 1
    changes: dict[str, Callable[[], object]] = {
        "attribute": lambda: setattr(func, "offset", 0.5),
        "tolerance": lambda: given.update({"rtol": 1e-7} if way == "adaptive" else {"steps": Grid(3)}),
        "initial step": lambda: given.update(
            {"steps": Adaptive(initial=1e-3)} if way == "adaptive" else {"steps": Fixed(0.02)}
        ),
        "bound": lambda: given.update({"bounds": (-5.0, 5.0)}),
    }
    changes[change]()
    found = iterate(func, **given)
    assert len(checks) == 2
    torch.testing.assert_close(found, iterate(fresh(func), **given), rtol=0, atol=0)
