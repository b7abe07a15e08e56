"""Whole solves and their gradients with compiled functions, against those that torch evaluates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from methods import BEYOND_THE_STEP, EVERY_KIND
from stiff_parts import SPLIT, WHOLE
from torch import Tensor, nn

import stiffml
from stiffml import METHODS, Fixed, Grid, Split

D = torch.float64


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """A function that is not compiled would pass all comparisons."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def solved(func: nn.Module, batch: tuple[int, ...] = (), backwards: bool = False, **arguments):
    """The solution, and its gradient with respect to all it depends on."""
    y0 = torch.linspace(-0.6, 1.0, 3 * int(np.prod(batch)), dtype=D).view(*batch, 3).requires_grad_()
    t = torch.tensor([0.0, 0.1, 0.4, 0.7], dtype=D)
    t = (0.7 - t if backwards else t).requires_grad_()
    inputs = [y0, t, *func.parameters()]
    y = stiffml.odeint(func, y0, t, batch_dims=len(batch), **arguments)
    weight = torch.linspace(0.3, 1.0, y.numel(), dtype=D).view(y.shape)
    return y.detach(), torch.autograd.grad((y * weight).sum(), inputs, allow_unused=True)


def compare(func: nn.Module, within: float = 1e-10, **arguments) -> None:
    (y, gradients), (wanted, others) = solved(func, compile=True, **arguments), solved(func, **arguments)
    assert (y - wanted).abs().max() <= within * wanted.abs().max()
    for found, expected in zip(gradients, others, strict=True):
        assert (found - expected).norm() <= 1e-8 * expected.norm()


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str) -> None:
    method = METHODS[name]
    split = Split(SPLIT.implicit, SPLIT.explicit, linear=method.exponential)
    for func in [WHOLE] * method.whole + [split] * method.split:
        compare(func, method=name, steps=Grid(6))
        compare(func, method=name, steps=Grid(6), stepping="sequential")


@pytest.mark.parametrize("name", EVERY_KIND)
def test_adaptive_steps(name: str) -> None:
    compare(WHOLE, method=name, rtol=1e-6, within=1e-9)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_samples(name: str) -> None:
    compare(WHOLE, method=name, steps=Grid(4), batch=(2, 3))


@pytest.mark.parametrize("name", [*EVERY_KIND, BEYOND_THE_STEP[0]])
def test_decreasing_times(name: str) -> None:
    compare(WHOLE, method=name, steps=Grid(8), backwards=True)


@pytest.mark.parametrize("name", BEYOND_THE_STEP[:3])
def test_stages_beyond_the_span(name: str) -> None:
    compare(WHOLE, method=name, steps=Grid(1))


@pytest.mark.parametrize(
    "adjoint", [stiffml.Discrete(checkpoints=3), stiffml.Discrete(checkpoints="solutions")]
)
def test_checkpoints(adjoint: stiffml.Discrete) -> None:
    compare(WHOLE, method="bdf3", steps=Fixed(0.02), adjoint=adjoint)


@pytest.mark.parametrize(
    ("linear", "jacobian"),
    [
        (stiffml.LU(), "dense"),
        (stiffml.LU(), "coloured"),
        (stiffml.GMRES(stiffml.PointBlock()), "auto"),
        (stiffml.GMRES(), "matrix-free"),
    ],
)
def test_solvers(linear, jacobian: str) -> None:
    compare(WHOLE, method="cn", steps=Grid(4), linear=linear, jacobian=jacobian, within=1e-9)


def test_breakpoints_events_and_interpolation() -> None:
    compare(WHOLE, method="bdf3", steps=Grid(4), breakpoints=[0.2], through=[0.05])
    compare(WHOLE, method="cn", rtol=1e-6, outputs="interpolate", within=1e-9)


def test_a_tuple_of_states_and_a_mass_matrix() -> None:
    k = torch.tensor([0.4, 2.0], dtype=D, requires_grad=True)

    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = y
        return -k[0] * a + b.sum(), torch.stack([a * k[1], -b[1], b[0] * t])

    y0 = (torch.tensor(1.0, dtype=D), torch.tensor([0.1, 0.2, 0.3], dtype=D))
    t, found = torch.tensor([0.0, 1.0], dtype=D), []
    for choice in ({}, {"compile": True}):
        a, b = stiffml.odeint(
            func, y0, t, method="cn", steps=Grid(9), mass=torch.tensor([1.0, 2, 3, 4]), **choice
        )
        found.append((a, b, torch.autograd.grad(a[-1] + b[-1].sum(), k)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_second_derivatives_and_sensitivities() -> None:
    y0, t = torch.tensor([1.0, 0.4, -0.2], dtype=D), torch.tensor([0.0, 0.5], dtype=D)
    found = []
    for choice in ({}, {"compile": True}):
        s = stiffml.sensitivities(WHOLE, y0, t, method="cn", steps=Grid(8), **choice)
        rates = WHOLE.rates
        y = stiffml.odeint(WHOLE, y0, t, method="cn", steps=Grid(8), **choice)
        (g,) = torch.autograd.grad(y[-1].square().sum(), rates, create_graph=True)
        (h,) = torch.autograd.grad(g.sum(), rates)
        found.append((s.wrt["rates"], h))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_the_compiled_module_stands_for_the_function() -> None:
    y0 = torch.tensor([1.0, 0.4, -0.2], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 0.5], dtype=D)
    module = stiffml.compile(WHOLE, y0)
    torch.testing.assert_close(module(t[1], y0), WHOLE(t[1], y0))
    assert [id(p) for p in module.parameters()] == [id(p) for p in WHOLE.parameters()]
    block = stiffml.ODEBlock(module, t, method="cn", steps=Grid(5))
    other = stiffml.ODEBlock(WHOLE, t, method="cn", steps=Grid(5), compile=True)
    wanted = stiffml.odeint(WHOLE, y0, t, method="cn", steps=Grid(5))
    gradient = torch.autograd.grad(wanted[-1].sum(), WHOLE.rates)[0]
    for found in (block(y0), other(y0), stiffml.odeint(module, y0, t, method="cn", steps=Grid(5))):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(torch.autograd.grad(found[-1].sum(), WHOLE.rates)[0], gradient)


def test_solves_call_torch_a_few_times_only() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            Counting.calls += 1
            return -50 * (y - torch.cos(t))

    func, y0, t = Counting(), torch.ones(2, dtype=D), torch.tensor([0.0, 1.0], dtype=D)
    stiffml.solve(func, y0, t, method="cn", steps=Grid(200), compile=True)
    before = Counting.calls
    stiffml.solve(func, y0, t, method="cn", steps=Grid(200), stepping="sequential", compile=True)
    assert Counting.calls - before <= 12
