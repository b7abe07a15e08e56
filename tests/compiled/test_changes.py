"""What is compiled must be what func is now: changes are noticed, what cannot be compiled is torch's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stiffml
from stiffml import Grid
from stiffml.compiled.function import CompiledFunction
from stiffml.errors import ReplayError

D = torch.float64
Y0, T = torch.tensor([1.0, 0.4, -0.2], dtype=D), torch.tensor([0.0, 0.3, 0.5], dtype=D)


def solve(func: Callable, **arguments) -> Tensor:
    return stiffml.odeint(func, Y0, T, method="cn", steps=Grid(5), **arguments)


def require_same(func: Callable, **arguments) -> None:
    """The compiled solve is that of torch, and nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = solve(func, compile=True, **arguments)
    torch.testing.assert_close(found, solve(func, **arguments), rtol=1e-11, atol=1e-13)


pytestmark = pytest.mark.filterwarnings("error:compile")


@pytest.fixture
def compilations() -> Iterator[list]:
    """Each compilation adds an entry."""
    made: list = []
    init = CompiledFunction.__init__

    def counted(self, *args, **kwargs) -> None:
        made.append(args)
        init(self, *args, **kwargs)

    with patch.object(CompiledFunction, "__init__", counted):
        yield made


class Rates(nn.Module):
    """A function with all kinds of things that may change."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3, dtype=D)
        self.register_buffer("buffer", torch.tensor([1.0, 2.0, 3.0], dtype=D))
        self.number, self.table, self.places = 0.5, np.array([0.1, 0.2, 0.3]), torch.tensor([2, 0, 1])
        self.settings = {"scale": [1.0, 2.0]}

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        factor = 2.0 if self.training else 1.0
        value = self.net(y) * self.number + torch.from_numpy(self.table) - self.buffer * y[self.places]
        return value * factor * self.settings["scale"][1]


def test_training_does_not_compile_again(compilations: list) -> None:
    func = Rates()
    optimiser = torch.optim.SGD(func.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        solve(func, compile=True).square().sum().backward()
        optimiser.step()
        require_same(func)
    assert len(compilations) == 1


CHANGES: dict[str, Callable[[Rates], object]] = {
    "number": lambda f: setattr(f, "number", 0.7),
    "training": lambda f: f.eval(),
    "buffer in place": lambda f: f.buffer.mul_(1.1),
    "another buffer": lambda f: setattr(f, "buffer", torch.tensor([3.0, 2.0, 1.0], dtype=D)),
    "table": lambda f: f.table.__setitem__(1, 0.9),
    "places": lambda f: f.places.copy_(torch.tensor([1, 2, 0])),
    "in a list": lambda f: f.settings["scale"].__setitem__(1, 3.0),
    "another layer": lambda f: setattr(f, "net", nn.Linear(3, 3, bias=False, dtype=D)),
    "buffer that needs a gradient": lambda f: setattr(
        f, "buffer", nn.Parameter(f.__dict__.pop("x", f.buffer * 2))
    ),
    "method": lambda f: setattr(f, "forward", lambda t, y: -y * f.buffer),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change: str, compilations: list) -> None:
    func = Rates()
    require_same(func)
    before = solve(func)
    CHANGES[change](func)
    assert not torch.allclose(before, solve(func))
    require_same(func)
    assert len(compilations) == 2
    require_same(func)
    assert len(compilations) == 2


def test_a_buffer_that_changes_again_is_an_input(compilations: list) -> None:
    func = Rates()
    for _ in range(4):
        func.buffer.mul_(1.2)
        require_same(func)
    assert len(compilations) == 2


def test_a_tensor_that_needs_a_gradient_later(compilations: list) -> None:
    k = torch.tensor([1.0, 2.0, 3.0], dtype=D)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -k * y

    require_same(func)
    k.requires_grad_()
    (found,) = torch.autograd.grad(solve(func, compile=True).sum(), k)
    (wanted,) = torch.autograd.grad(solve(func).sum(), k)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    assert len(compilations) == 2


def test_other_tensors_stand_in_for_parameters(compilations: list) -> None:
    """As in meta-learning; the inputs are bound anew, and nothing is compiled."""
    func = Rates()
    require_same(func)
    names = dict(func.named_parameters())
    for scale in (0.5, 1.5):
        others = {name: (p * scale).detach().requires_grad_() for name, p in names.items()}
        found = []
        for choice in ({}, {"compile": True}):
            with torch.nn.utils.stateless._reparametrize_module(func, others):
                y = solve(func, **choice)
            found.append((y, *torch.autograd.grad(y.sum(), list(others.values()))))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    assert len(compilations) == 1


def test_a_global_number_and_a_closure() -> None:
    rate = 1.0

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -rate * y.clamp(min=-SHIFT)

    require_same(func)
    rate = 2.5
    require_same(func)
    with patch.dict(globals(), SHIFT=0.1):
        require_same(func)


SHIFT = 3.0


def test_another_shape_and_samples(compilations: list) -> None:
    func = nn.Sequential(nn.Linear(3, 4, dtype=D), nn.Tanh(), nn.Linear(4, 3, dtype=D))
    rate = lambda t, y: func(y)  # noqa: E731
    for shape, batch in (((3,), 0), ((2, 3), 0), ((2, 3), 1), ((5, 3), 1)):
        y0 = torch.linspace(-1, 1, int(np.prod(shape)), dtype=D).view(shape)
        found = [
            stiffml.odeint(rate, y0, T, method="cn", steps=Grid(3), batch_dims=batch, compile=c)
            for c in (True, False)
        ]
        torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)
    assert [len(args[2]) for args in compilations] == [3, 6, 3, 3]


def test_samples_with_numbers_of_their_own_are_compiled_together() -> None:
    rates = torch.tensor([[1.0], [2.0]], dtype=D)
    y0 = torch.rand(2, 3, dtype=D)
    found = [
        stiffml.odeint(lambda t, y: -rates * y, y0, T, method="cn", steps=Grid(3), batch_dims=1, compile=c)
        for c in (True, False)
    ]
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


def branch(t: Tensor, y: Tensor) -> Tensor:
    return -y if y[0] > 0 else y


REFUSED: dict[str, tuple[Callable, str]] = {
    "branch": (branch, "branches on the value"),
    "time": (lambda t, y: -y * float(t), "reads it as a number"),
    "operation": (lambda t, y: -y.sort().values, r"aten.sort.default.*test_changes.py"),
    "numpy": (lambda t, y: -y + torch.from_numpy(np.sin(y.detach().numpy())) * 1e-9, "differs from torch's"),
    "single precision": (lambda t, y: -(y.float() * 1.5).double(), "float32"),
    "too large": (
        lambda t, y: -(y.repeat(400, 1) @ y.view(3, 1).repeat(1, 400)).mean(0)[:3],
        "100000 scalar",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_warning_and_then_torch(name: str) -> None:
    func, reason = REFUSED[name]
    message = f"(?s)compile: func is evaluated by torch.*{reason}"
    with torch.no_grad(), pytest.warns(UserWarning, match=message) as caught:
        found, again = solve(func, compile=True), solve(func, compile=True)
    assert len([w for w in caught if "compile:" in str(w.message)]) == 1
    with torch.no_grad():
        for y in (found, again):
            torch.testing.assert_close(y, solve(func), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match=f"(?s)compile: func cannot be compiled.*{reason}"):
        stiffml.compile(func, Y0)


def test_a_derivative_of_its_own_is_torchs() -> None:
    with pytest.warns(UserWarning, match="derivative with respect to y differs"), torch.no_grad():
        solve(lambda t, y: -y * y.detach(), compile=True)


def test_single_precision_and_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="float32, not float64"):
        stiffml.odeint(lambda t, y: -y, Y0.float(), T, method="cn", steps=Grid(2), compile=True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.warns(UserWarning, match="no C compiler was found"):
        found = solve(lambda t, y: -3.25 * y, compile=True)
    torch.testing.assert_close(found, solve(lambda t, y: -3.25 * y))
    monkeypatch.setenv("CC", "/bin/false")
    with pytest.warns(UserWarning, match="/bin/false"):
        solve(lambda t, y: -4.25 * y, compile=True)


def test_without_casadi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs casadi.*pip install '\.\[compile\]'"):
        solve(lambda t, y: -y, compile=True)


def test_wrong_arguments() -> None:
    with pytest.raises((TypeError, ValueError), match="compile"):
        solve(lambda t, y: -y, compile="yes")
    with pytest.raises(TypeError, match="callable"):
        stiffml.compile(3, Y0)


UNSEEN = {"calls": 0, "after": 0}
"""What no look at a module sees: a global that its method reads."""


class Counting(nn.Module):
    """Changes with its call number ``after``, which nothing sees."""

    def __init__(self) -> None:
        super().__init__()
        UNSEEN.update(calls=0, after=10**9)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        UNSEEN["calls"] += 1
        return -y * (1.0 if UNSEEN["calls"] < UNSEEN["after"] else 1.1)


def test_a_change_after_the_start_is_an_error_at_the_end() -> None:
    """What the trials at the start could not see: a number that changes while the solve runs."""
    with torch.no_grad():
        solve(Counting(), compile=True)
        calls, func = UNSEEN["calls"], Counting()
        UNSEEN["after"] = calls  # the last call of the solve
        with pytest.raises(ReplayError, match="differs from its compiled form"):
            solve(func, compile=True)


def test_a_repeated_solve_of_a_function_that_has_changed_is_made_anew() -> None:
    """It is seen where that solve ends; another one then compiles the function as it is."""
    with torch.no_grad():
        func = Counting()
        for _ in range(3):
            before = solve(func, compile=True)
        UNSEEN["after"] = 0
        now = solve(func, compile=True)
        wanted = solve(func)
    torch.testing.assert_close(now, wanted, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(now, before, rtol=1e-3)


def test_a_change_between_forward_and_backward_is_an_error() -> None:
    func = Rates()
    y = solve(func, compile=True)
    func.number = 2.0
    with pytest.raises(ReplayError, match="func changed"):
        y.sum().backward()
