"""What a solve relies on in func is held against what func does: else an error, before any wrong number."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from methods import as_taken
from small_problems import SmallNetwork, times
from torch import Tensor, nn

import problems
from stiffml import (
    GMRES,
    METHODS,
    Adaptive,
    Grid,
    Split,
    odeint,
    solve,
)

D = torch.float64
T = times(0, 0.5, 1)


# Samples of a batch that depend on each other.

COUPLED = {
    "flip": lambda y: y - 0.9 * y.flip(0),
    "mean": lambda y: y - y.mean(0),
    "one on another": lambda y: torch.cat([y[:1], y[1:] * (1 + y[:1])]),
    "attention": lambda y: torch.softmax(y @ y.mT, -1) @ y,
}


@pytest.mark.parametrize("name", METHODS)
def test_samples_that_depend_on_each_other(name: str) -> None:
    """The adjoint of every method relies on blocks, those of explicit ones too."""
    k = torch.tensor(1.0, dtype=D, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.5], [0.2, 0.8]], dtype=D)
    func = as_taken(name, lambda t, y: -k * COUPLED["flip"](y))
    with pytest.raises(ValueError, match=r"batch_dims=1 says that samples are independent.*y\[[01]\]"):
        solve(func, y0, T, method=name, steps=Grid(2), batch_dims=1, params=[k])


@pytest.mark.parametrize("kind", COUPLED)
@pytest.mark.parametrize("shape", [(2, 2), (5, 1), (3, 20), (4, 300)])
def test_every_coupling_is_seen(kind: str, shape: tuple[int, int]) -> None:
    """By blocks of the Jacobian where these are evaluated, else by products only."""
    y0 = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=D)
    for arguments in ({"method": "bdf"}, {"method": "cn", "linear": GMRES()}, {"method": "dopri5"}):
        with pytest.raises(ValueError, match="batch_dims=1 says"):
            solve(lambda t, y: -COUPLED[kind](y), y0.requires_grad_(), T, batch_dims=1, **arguments)


def test_coupling_over_two_dimensions_and_in_tuples() -> None:
    y0 = torch.rand(2, 3, 2, dtype=D)
    with pytest.raises(ValueError, match=r"batch_dims=2 says.*y\[[01], [012]\]"):
        solve(lambda t, y: -y + y.sum(1, keepdim=True), y0, T, batch_dims=2)
    y = solve(lambda t, y: -y + y.sum(1, keepdim=True), y0, T, batch_dims=1).y
    torch.testing.assert_close(y[-1].sum(1), y0.sum(1) * math.exp(2), rtol=1e-4, atol=0)  # s' = -s + 3 s
    pair = (torch.rand(3, dtype=D), torch.rand(3, 2, dtype=D))
    with pytest.raises(ValueError, match="batch_dims=1 says"):
        solve(lambda t, y: (-y[0], -y[1] * y[0].sum()), pair, T, batch_dims=1)
    first, second = solve(lambda t, y: (-y[0], -y[1] * y[0][..., None]), pair, T, batch_dims=1).y
    torch.testing.assert_close(first[-1], pair[0] * math.exp(-1), rtol=1e-4, atol=0)
    decayed = torch.exp(-pair[0] * (1 - math.exp(-1)))[:, None]
    torch.testing.assert_close(second[-1], pair[1] * decayed, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", ["cn", "bdf2", "rosw-rodas3", "dirk-es324sal", "dopri5"])
def test_coupling_that_shows_late(method: str) -> None:
    """At the end of the run, where the backward pass begins."""
    y0 = torch.tensor([[0.1, 0.1], [0.2, 0.1]], dtype=D, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return 1 - torch.relu(y - 0.8).sum(0, keepdim=True) + 0 * y

    y = odeint(func, y0, T, method=method, steps=Grid(10), batch_dims=1)
    with pytest.raises(ValueError, match=r"batch_dims=1 says.*at t = "):
        y[-1].sum().backward()


def test_a_problem_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"batch_dims: robertson has one initial state of shape \(3,\)"):
        problems.load("robertson").solve(batch_dims=1)


# Functions that are no functions.


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = nn.Linear(2, 2, dtype=D), nn.Dropout(0.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.inner(self.dropout(y + 1))


@pytest.mark.parametrize("method", ["dopri5", "bdf", "rosw-ra34pw2", "cn"])
def test_dropout_is_seen_before_the_run(method: str) -> None:
    func = Noisy()
    for seed in range(10):
        torch.manual_seed(seed)
        y0 = torch.ones(2, dtype=D, requires_grad=True)
        with pytest.raises(ValueError, match=r"func: called twice with the same t = 0.*module\.eval\(\)"):
            solve(func, y0, T, method=method, steps=Grid(2))
    func.eval()
    solve(func, y0, T, method=method, steps=Grid(2)).y.sum().backward()
    assert torch.isfinite(y0.grad).all()


class InAList(nn.Module):
    """A layer that is no submodule."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.nets = [net]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.nets[0](y)


class AnObject:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)

    def rhs(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


class AModule(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def _called(net: nn.Module, t: Tensor, y: Tensor) -> Tensor:
    return net(y)


AROUND = {
    "module": AModule,
    "lambda": lambda net: lambda t, y: net(y),
    "partial": lambda net: functools.partial(_called, net),
    "object": AnObject,
    "method": lambda net: AnObject(net).rhs,
    "list": InAList,
    "lambda around a module": lambda net: (lambda module: lambda t, y: module(t, y))(AModule(net)),
    "nested": lambda net: (lambda inner: lambda t, y: inner(t, y))(lambda t, y: net(y)),
    "part of a split": lambda net: Split(lambda t, y: -y, AModule(net)),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("method", ["dopri5", "bdf", "arkimex-3"])
def test_statistics_are_left_alone(around: str, method: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Tanh()).double()
    before = {name: value.clone() for name, value in net.named_buffers()}
    func, y0 = AROUND[around](net), torch.rand(4, 2, dtype=D)
    with pytest.raises(ValueError, match=r"func: BatchNorm1d .*is in training mode.*module\.eval\(\)"):
        solve(func, y0, T, method=method)
    net.eval()
    direct = AROUND["part of a split" if isinstance(func, Split) else "lambda"](net)
    expected = solve(direct, y0, T, method=method).y
    torch.testing.assert_close(solve(func, y0, T, method=method).y, expected, rtol=1e-12, atol=0)
    for name, value in net.named_buffers():
        assert torch.equal(value, before[name]), f"{name} has changed: look at require_fixed_statistics"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(2), (4, 2)),
        (nn.BatchNorm2d(2), (1, 2, 3, 3)),
        (nn.SyncBatchNorm(2), (4, 2)),
        (nn.InstanceNorm1d(2, track_running_stats=True), (1, 2, 5)),
        (torch.jit.script(nn.Sequential(nn.BatchNorm1d(2))), (4, 2)),
    ],
)
def test_layers_with_statistics(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is in training mode"):
        solve(AModule(layer.double()), torch.rand(shape, dtype=D), T)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(2),
        nn.GroupNorm(1, 2),
        nn.BatchNorm1d(2, track_running_stats=False),
        nn.BatchNorm1d(2).eval(),
        nn.Dropout(0.5).eval(),
    ],
)
def test_layers_without_statistics(layer: nn.Module) -> None:
    y0 = torch.rand(4, 2, dtype=D, requires_grad=True)
    y = solve(AModule(nn.Sequential(nn.Linear(2, 2), layer).double()), y0, T, steps=Adaptive()).y
    y.sum().backward()


def test_one_sample_a_row_of_batch_statistics() -> None:
    """Without running statistics a batch normalisation is a function, but one that couples the samples."""
    func = AModule(nn.BatchNorm1d(2, track_running_stats=False).double())
    with pytest.raises(ValueError, match="batch_dims=1 says"):
        solve(func, torch.rand(4, 2, dtype=D), T, batch_dims=1)


# Values that are no slopes.


@pytest.mark.parametrize("name", METHODS)
def test_complex_and_boolean_values(name: str) -> None:
    y0 = torch.ones(2, dtype=D)
    for func, message in (
        (lambda t, y: -y * (1 + 2j), r"func must return real values, not torch.complex128.*view_as_real"),
        (lambda t, y: y > 0, r"func must return numbers, not torch.bool.*torch.where"),
    ):
        with pytest.raises(TypeError, match=message):
            solve(as_taken(name, func), y0, T, method=name, steps=Grid(2))
        with pytest.raises(TypeError, match=message):
            solve(as_taken(name, func), y0.clone().requires_grad_(), T, method=name, steps=Grid(2))


@pytest.mark.parametrize("method", ["bdf", "cn", "rosw-ra34pw2", "arkimex-3", "dopri5"])
def test_integers_are_numbers(method: str) -> None:
    y0 = torch.ones(2, dtype=D, requires_grad=True)
    y = odeint(lambda t, y: torch.tensor([1, -2]), y0, T, method=method)
    torch.testing.assert_close(y[-1], torch.tensor([2.0, -1.0], dtype=D), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    torch.testing.assert_close(gradient, torch.ones(2, dtype=D), rtol=1e-12, atol=0)


def test_a_start_where_func_is_not_finite_is_still_said_so(network: SmallNetwork) -> None:
    solution = solve(lambda t, y: y * float("nan"), torch.ones(2, dtype=D), T, throw=False)
    assert "not finite" in solution.message
