"""Remembered solves of compiled functions: what changes is noticed in the solve, or in its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from remembering import Y0, D, Func, T, counted_checks, gradients, run
from torch import Tensor, nn

from stiffml import ReplayError, solve

pytestmark = pytest.mark.filterwarnings("error:compile")


@pytest.fixture
def checks() -> Iterator[list[int]]:
    with counted_checks() as found:
        yield found


class Global(nn.Module):
    """Reads a number that nothing sees: of its module's globals."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.weight * UNSEEN[0] * y


UNSEEN = [1.0]


CHANGES: dict[str, Callable[[Func], object]] = {
    "number": lambda f: setattr(f, "factor", 2.0),
    "table": lambda f: f.table.__setitem__(0, 3.0),
    "buffer": lambda f: setattr(f, "rates", torch.tensor([3.0, 1.0], dtype=D)),
    "buffer in place": lambda f: f.rates.mul_(1.5),
    "buffer unseen by torch": lambda f: f.rates.numpy().__setitem__(0, 3.0),
    "parameter": lambda f: setattr(f.inner[0], "weight", nn.Parameter(0.5 * f.inner[0].weight.detach())),
    "new parameter": lambda f: setattr(f, "other", nn.Parameter(torch.tensor(0.5, dtype=D))),
    "frozen": lambda f: f.inner[0].weight.requires_grad_(False),
    "module": lambda f: f.inner.__setitem__(1, nn.Softplus()),
    "hook": lambda f: f.inner[0].register_forward_hook(lambda module, inputs, value: torch.sin(value)),
    "forward": lambda f: setattr(f, "forward", lambda t, y: -y * f.rates),
}
PUT_BACK = "buffer", "parameter"


@pytest.mark.parametrize("change", CHANGES)
def test_a_function_that_changes_between_solves(change: str, checks: list[int]) -> None:
    """Values and gradients are those of the function as it is now, evaluated by torch."""
    func = Func()
    for _ in range(3):
        gradients(func, run(func, compile=True))
    assert len(checks) == 1
    CHANGES[change](func)
    solution = run(func, compile=True)
    assert len(checks) == 2
    found = gradients(func, solution)
    other = run(func, stepping="all-at-once")
    torch.testing.assert_close(solution.y, other.y, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found, gradients(func, other), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("change", CHANGES)
def test_a_function_that_changes_before_the_backward_pass(change: str) -> None:
    """Tensors that were replaced are put back for it; other changes are errors, and one that no look sees."""
    func = Func()
    for _ in range(3):
        solution = run(func, compile=True)
    inputs = list(func.parameters())
    (wanted,) = torch.autograd.grad((run(func, compile=True).y ** 2).sum(), inputs[-1])
    CHANGES[change](func)
    if change in PUT_BACK:
        (found,) = torch.autograd.grad((solution.y**2).sum(), inputs[-1])
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        return
    with pytest.raises((ReplayError, RuntimeError), match=r"func (changed|no longer depends)"):
        torch.autograd.grad((solution.y**2).sum(), inputs[-1])


def test_a_gradient_is_that_of_the_run_whatever_is_unseen() -> None:
    """A change that no look sees does not enter, since code and numbers are those of the run."""
    func = Global()
    try:
        for _ in range(2):
            solution = run(func, compile=True)
        (wanted,) = gradients(func, run(func, compile=True))
        UNSEEN[0] = 2.0
        (found,) = gradients(func, solution)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        now = run(func, compile=True)
        torch.testing.assert_close(now.y, run(Global()).y, rtol=1e-9, atol=1e-11)
    finally:
        UNSEEN[0] = 1.0


def test_calls_of_func(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in a solve, where it ends, and none in its backward pass."""
    func, called = Func(), []
    forward = Func.forward
    monkeypatch.setattr(Func, "forward", lambda self, t, y: called.append(1) or forward(self, t, y))
    for number in range(4):
        called.clear()
        solution = run(func, compile=True)
        forwards = len(called)
        gradients(func, solution)
        if number > 1:
            assert (forwards, len(called) - forwards) == (1, 0)


def test_rosenbrock_methods_call_func() -> None:
    """Their rows have second derivatives, which are of torch."""
    func = Func()
    for _ in range(2):
        solution = solve(func, Y0, T, method="rosw-ra34pw2", rtol=1e-5, compile=True)
    func.factor = 1.5
    with pytest.raises(ReplayError, match="func changed"):
        gradients(func, solution)
