"""Whether func can be batched is found out by trying: no operation may mix the rows, whatever y0 is."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import METHODS, Grid, Split, odeint, solve
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.batching import Batching, batching_of, evaluate_many
from stiffml.system.function.span import Span
from stiffml.system.state import Layout
from stiffml.system.trials import try_out

D = torch.float64

# Functions of one state that broadcasting, if it is taken, must not make another function of.
ROWS_MATTER = {
    "first": lambda t, y: -y * y[0],
    "last": lambda t, y: -y * y[-1],
    "some": lambda t, y: 1 - 3 * (y + y[0] + 0.3 * y[min(2, len(y) - 1)]),
    "slice": lambda t, y: -y * y[:1],
    "extent": lambda t, y: -(y**2) * y.shape[0] / 5,
    "length": lambda t, y: (
        -(y.mT * torch.linspace(1, 3, len(y), dtype=y.dtype)).mT
        if y.dim() > 1
        else -y * torch.linspace(1, 3, len(y), dtype=y.dtype)
    ),
    "sum": lambda t, y: -y * y.sum(),
    "mean": lambda t, y: -y + y.mean(0),
    "flip": lambda t, y: -y + 0.5 * y.flip(0),
    "roll": lambda t, y: -y + 0.5 * y.roll(1),
    "cumulative": lambda t, y: -y.cumsum(0),
    "softmax": lambda t, y: -y + torch.softmax(y, 0),
    "norm": lambda t, y: -y * y.norm(),
    "largest": lambda t, y: -y + torch.relu(y.max() - 3),
    "branch": lambda t, y: torch.where(y.sum() > 100, y, -y),
    "dimensions": lambda t, y: -y if y.dim() < 2 else -2 * y,
    "first time": lambda t, y: -y * (1 + t.reshape(-1)[0]),
    "largest time": lambda t, y: -y + t.max(),
    "matrix": lambda t, y: torch.ones(len(y), len(y), dtype=y.dtype) @ y - 2 * y,
    "row times matrix": lambda t, y: y @ torch.ones(y.shape[-1], y.shape[-1], dtype=y.dtype) - 2 * y,
    "elements": lambda t, y: torch.stack([-y[i] * (i + 1) for i in range(len(y))]),
}

STARTS = [
    *(torch.ones(n, dtype=D) for n in (1, 2, 3, 5, 7, 11)),
    *(torch.zeros(n, dtype=D) for n in (1, 3, 8)),
    torch.tensor([1.0, 0.0, 0.0], dtype=D),
    torch.linspace(0.5, 1.5, 5, dtype=D),
    torch.full((2, 3), 0.5, dtype=D),
    torch.ones(7, 7, dtype=D),
    torch.ones(4, dtype=torch.float32),
]


def _require_right(func, layout: Layout, mode: Batching) -> None:
    """At random states, and for numbers of rows that are extents of a state as well."""
    generator = torch.Generator().manual_seed(1)
    counts = {2, 10, layout.size, layout.width, 2 * layout.size, *itertools.chain(*layout.shapes)}
    for count in sorted(counts):
        u = torch.randn(count, layout.size, generator=generator, dtype=D).to(layout.dtype)
        t = torch.rand(count, generator=generator, dtype=D).to(layout.dtype)
        found = evaluate_many(func, layout, mode, t, u)
        right = evaluate_many(func, layout, Batching.LOOP, t, u)
        torch.testing.assert_close(found, right, msg=lambda m: f"{mode}, {count} rows of {layout}: {m}")  # noqa: B023


@pytest.mark.parametrize("name", ROWS_MATTER)
def test_no_rows_are_mixed(name: str) -> None:
    func = ROWS_MATTER[name]
    for y0 in STARTS:
        for dims in range(y0.dim() + 1):
            layout = Layout.of(y0, dims)
            t = torch.tensor(0.0, dtype=y0.dtype)
            mode = batching_of(func, layout, t, layout.flatten(y0), (0.37, 0.73))
            _require_right(func, layout, mode)


@pytest.mark.parametrize("dims", [0, 1])
def test_no_rows_of_a_tuple_are_mixed(dims: int) -> None:
    def first(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return -y[0] * y[1][0], -y[1] + y[0].sum(0)

    def broadcast(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return -y[0] * y[1], -y[1] + y[0]

    y0 = (torch.ones(3, 2, dtype=D), torch.ones(3, 2, dtype=D))
    layout = Layout.of(y0, dims)
    for func in (first, broadcast):
        mode = batching_of(func, layout, torch.tensor(0.0, dtype=D), layout.flatten(y0), (0.37, 0.73))
        _require_right(func, layout, mode)
    assert mode is Batching.NATIVE


def test_networks_still_broadcast() -> None:
    """What one state more in front does no harm to takes the fast way, from any start."""
    net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()
    for y0 in (torch.ones(3, dtype=D), torch.zeros(3, dtype=D), torch.zeros(4, 3, dtype=D)):
        mode = batching_of(
            lambda t, y: net(y) * t, Layout.of(y0, 0), torch.tensor(0.0, dtype=D), y0.reshape(-1)
        )
        assert mode is Batching.NATIVE


@pytest.mark.parametrize("name", METHODS)
def test_gradient_with_components_by_index(name: str) -> None:
    """Against the same function made so that it takes one state at a time."""
    method = METHODS[name]

    def whole(t: Tensor, y: Tensor) -> Tensor:
        return -y * y[0]

    def one_by_one(t: Tensor, y: Tensor) -> Tensor:
        assert y.shape == (3,)
        return whole(t, y) if float(y.detach().sum()) < 1e9 else y

    found = []
    for part in (whole, one_by_one):
        y0 = torch.ones(3, dtype=D, requires_grad=True)
        func = part if method.whole else Split(lambda t, y: -y, part, linear=method.exponential)
        y = odeint(func, y0, times(0, 0.4, 1), method=name, steps=Grid(3))
        (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
        found += [torch.cat([y.detach().reshape(-1), gradient])]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("name", ["bdf", "cn", "rosw-rodas3", "dirk-es324sal", "dopri5"])
def test_closed_form(name: str) -> None:
    """y' = -y y[0] from ones: y[0] = 1/(1 + t), y[i] = y0[i]/(1 + t y0[0])."""
    y0 = torch.ones(3, dtype=D, requires_grad=True)
    y = odeint(ROWS_MATTER["first"], y0, times(0, 1), method=name, rtol=1e-6, atol=1e-9)
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    torch.testing.assert_close(y[-1], torch.full((3,), 0.5, dtype=D), rtol=1e-3, atol=0)
    torch.testing.assert_close(gradient, torch.tensor([-0.25, 0.5, 0.5], dtype=D), rtol=1e-3, atol=0)


def test_a_wrong_jacobian_is_not_trusted() -> None:
    """A backward pass that mixes the rows, while the values do not: only products of the Jacobian show it."""

    class Mixing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y: Tensor) -> Tensor:
            return y.clone()

        @staticmethod
        def backward(ctx, cotangent: Tensor) -> Tensor:
            return cotangent if cotangent.dim() == 1 else cotangent.flip(0)

    for method in ("bdf", "rosw-rodas3", "dopri5"):
        found = []
        for func in (
            lambda t, y: -Mixing.apply(y) * torch.tensor([1.0, 2.0], dtype=D),
            lambda t, y: -y * torch.tensor([1.0, 2.0], dtype=D),
        ):
            y0 = torch.tensor([1.0, 1.0], dtype=D, requires_grad=True)
            y = odeint(func, y0, times(0, 1), method=method, steps=Grid(10))
            found.append(torch.autograd.grad(y[-1].sum(), y0)[0])
        torch.testing.assert_close(*found, rtol=1e-9, atol=0, msg=lambda m: f"{method}: {m}")  # noqa: B023


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.calls = 0
        self.seen: list[tuple[float, float]] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append((float(t.detach().min()), float(t.detach().max()))) if t.dim() else None
        return self.net(y) + torch.sin(t)


def test_trials_take_a_handful_of_calls() -> None:
    """And fewer where the same function is solved again, as in a training."""
    func, u = Counting(), torch.ones(3, dtype=D).numpy()
    calls = []
    for _ in range(3):
        f = Dynamics(func, Layout.of(torch.ones(3, dtype=D), 0), parameters=func.parameters())
        f.span = Span(0.0, 1.0)
        func.calls = 0
        try_out(f, 0.0, u, exact=True, blocks=True)
        calls.append(func.calls)
        assert f.rhs_evals == f.jacobians == 0, "trials are no part of the statistics"
    assert calls[0] <= 16, "at the state, along a direction, rows one by one and batched, one Jacobian"
    assert calls[1] == calls[2] <= 12, "what was found is remembered, and confirmed with one batch"


def test_what_is_remembered_is_confirmed() -> None:
    """A function that mixes rows only later on, by an attribute of it, is noticed in the next solve."""

    class Switched(nn.Module):
        first = False

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y * y[0] if self.first else -y * y

    func = Switched()
    gradients = []
    for first in (False, True):
        func.first = first
        y0 = torch.ones(3, dtype=D, requires_grad=True)
        y = odeint(func, y0, times(0, 1), method="cn", steps=Grid(20))
        gradients.append(torch.autograd.grad(y[-1].sum(), y0)[0])
    torch.testing.assert_close(gradients[0], torch.full((3,), 0.25, dtype=D), rtol=5e-3, atol=0)
    torch.testing.assert_close(gradients[1], torch.tensor([-0.25, 0.5, 0.5], dtype=D), rtol=5e-3, atol=0)


@pytest.mark.parametrize("method", ["bdf", "rosw-rodas3", "dopri5"])
@pytest.mark.parametrize("ends", [(1.0, 3.0), (3.0, 1.0)])
def test_trials_stay_within_the_span(method: str, ends: tuple[float, float]) -> None:
    """func may be defined there only."""
    seen = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        seen.append((float(t.detach().min()), float(t.detach().max())))
        return y / t

    y0 = torch.tensor([ends[0]], dtype=D, requires_grad=True)
    t = torch.tensor(ends, dtype=D, requires_grad=True)
    solve(func, y0, t, method=method, rtol=1e-4).y[-1].sum().backward()
    assert min(low for low, _ in seen) >= 1.0
    assert max(high for _, high in seen) <= 3.0


def test_a_function_that_is_defined_near_the_start_only() -> None:
    """Trials come nearer, and an exception at a state that the solve never sees is none of the caller's."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        if not ((y.detach() > 0.9995) & (y.detach() < 1.0005)).all():
            raise ArithmeticError("outside")
        return -1e-5 * y * y[0]

    for method in ("bdf", "dopri5"):
        y0 = torch.ones(3, dtype=D, requires_grad=True)
        y = odeint(func, y0, times(0, 1), method=method)
        (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
        torch.testing.assert_close(
            gradient, torch.tensor([1 - 4e-5, 1 - 1e-5, 1 - 1e-5], dtype=D), rtol=0, atol=1e-8
        )
