"""Where torch cannot see how func depends on time, by tables or numpy, ∂f/∂t comes from differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from methods import CARRY_TIME
from small_problems import times
from torch import Tensor

from stiffml import METHODS, Fixed, Grid, Split, check_gradients, odeint, solve
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.span import Span
from stiffml.system.function.time_differences import TimeDifferences, time_differences
from stiffml.system.space import Space
from stiffml.system.state import Layout

D = torch.float64
k = torch.tensor(0.6, dtype=D, requires_grad=True)


def by_torch(t: Tensor, y: Tensor) -> Tensor:
    return -k * (y - torch.sin(3 * t)) * (1 + 0.1 * y) + torch.cos(t)


def by_numpy(t: Tensor, y: Tensor) -> Tensor:
    s = t.detach().numpy()
    return -k * (y - torch.as_tensor(np.sin(3 * s))) * (1 + 0.1 * y) + torch.as_tensor(np.cos(s))


def by_number(t: Tensor, y: Tensor) -> Tensor:
    s = float(t.detach())
    return -k * (y - np.sin(3 * s)) * (1 + 0.1 * y) + np.cos(s)


def in_part(t: Tensor, y: Tensor) -> Tensor:
    s = t.detach()
    return -k * (y - torch.sin(3 * s)) * (1 + 0.1 * y) + torch.cos(t)


HIDDEN = {"numpy": by_numpy, "number": by_number, "in part": in_part}


def _found(func, name: str, ends: tuple[float, ...], **arguments) -> list[Tensor]:
    """Outputs and their gradients with respect to the times, y0 and k."""
    y0 = torch.tensor([0.5, 0.3], dtype=D, requires_grad=True)
    t = times(*ends).requires_grad_()
    if not METHODS[name].whole:
        func = Split(lambda t, y: -y, func, linear=METHODS[name].exponential)
    y = odeint(func, y0, t, method=name, params=[k], **{"steps": Grid(6), **arguments})
    weights = torch.linspace(1, 2, y.numel(), dtype=D).view(y.shape)
    return [y.detach(), *torch.autograd.grad((weights * y).sum(), [t, y0, k])]


@pytest.mark.parametrize("name", METHODS)
def test_as_accurate_as_torch(name: str) -> None:
    """Values and gradients with respect to times, y0 and parameters, of all methods, backwards in time too.

    Quotients of fourth order with a chosen step leave 1e-11 of f, or less, and 1e-8 in the second derivative
    with respect to time, which gradients of times have in Rosenbrock methods.
    """
    for ends in ((0.0, 0.7, 2.0), (2.0, 0.9, 0.0))[: 2 if METHODS[name].time_is_state else 1]:
        right, found = (_found(func, name, ends, steps=Grid(3)) for func in (by_torch, by_numpy))
        for what, a, b in zip(("y", "dt", "dy0", "dk"), found, right, strict=True):
            second = what == "dt" and METHODS[name].time_is_state
            rtol, atol = (1e-6, 1e-6) if second else (1e-8, 1e-9)
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m: f"{name} {what}: {m}")  # noqa: B023


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("name", ["rosw-rodaspr2", "rosw-rodas3", "bdf3", "dopri5"])
def test_every_way_to_hide_the_time(kind: str, name: str) -> None:
    right, found = (_found(func, name, (0.0, 0.7, 2.0)) for func in (by_torch, HIDDEN[kind]))
    for what, a, b in zip(("y", "dt", "dy0", "dk"), found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m: f"{kind} {what}: {m}")  # noqa: B023


@pytest.mark.parametrize("name", CARRY_TIME)
def test_order_of_rosenbrock_methods(name: str) -> None:
    """y' = −50 (y − sin t) + cos t with the forcing by numpy: as far from the closed form as with torch."""

    def hidden(t: Tensor, y: Tensor) -> Tensor:
        s = t.detach().numpy()
        return -50 * (y - torch.as_tensor(np.sin(s))) + torch.as_tensor(np.cos(s))

    def visible(t: Tensor, y: Tensor) -> Tensor:
        return -50 * (y - torch.sin(t)) + torch.cos(t)

    exact = np.sin(2) + 0.5 * np.exp(-100)
    y0 = torch.tensor([0.5], dtype=D)
    off = [
        abs(float(odeint(func, y0, times(0, 2), method=name, steps=Fixed(0.05))[-1, 0]) - exact)
        for func in (visible, hidden)
    ]
    assert abs(off[1] - off[0]) < 1e-10 + 1e-4 * off[0], (
        f"{name}: off by {off[1]:.1e}, with torch {off[0]:.1e}"
    )


def test_a_table() -> None:
    """Piecewise linear, flat where it begins, with an event, a jump, and outputs between steps."""
    knots, values = np.array([0.0, 0.5, 1.1, 1.6, 2.0]), np.array([1.0, 1.0, 3.0, 2.0, 2.5])

    def hidden(t: Tensor, y: Tensor) -> Tensor:
        return torch.as_tensor(np.interp(t.detach().numpy(), knots, values)) - k * y

    def visible(t: Tensor, y: Tensor) -> Tensor:
        x, v = torch.as_tensor(knots), torch.as_tensor(values)
        i = torch.searchsorted(x, t.detach().clamp(0, 2 - 1e-9), right=True) - 1
        return v[i] + (v[i + 1] - v[i]) * (t - x[i]) / (x[i + 1] - x[i]) - k * y

    def event(t: Tensor, y: Tensor) -> Tensor:
        return y[0] - 0.41

    for name in ("rosw-rodas3", "bdf2"):
        for arguments in ({"event": event}, {"breakpoints": [1.1, 1.6]}, {"outputs": "interpolate"}):
            found = []
            for func in (visible, hidden):
                y0, t = torch.tensor([0.2, 0.1], dtype=D, requires_grad=True), times(0.0, 0.3, 1.3, 1.9)
                t.requires_grad_()
                sol = solve(func, y0, t, method=name, steps=Grid(7), params=[k], **arguments)
                loss = sol.y.square().sum() + (
                    0 if sol.event is None else sol.event.t * 3 + sol.event.y.sum()
                )
                found.append(torch.cat([sol.y.detach()[-1], *torch.autograd.grad(loss, [t, y0])]))
            assert found[0].abs().max() > 0.1
            torch.testing.assert_close(
                *found,
                rtol=1e-5,
                atol=1e-6,
                msg=lambda m: f"{name} {list(arguments)}: {m}",  # noqa: B023
            )


def test_a_function_that_is_defined_within_the_span_only() -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        s = t.detach().numpy()
        assert s.min() >= 1.0
        assert s.max() <= 3.0
        return y / torch.as_tensor(s)

    for name in ("rosw-rodas3", "cn", "dopri5"):
        for ends in ((1.0, 3.0), (3.0, 1.0)):
            y0, t = torch.tensor([ends[0]], dtype=D, requires_grad=True), times(*ends).requires_grad_()
            y = odeint(func, y0, t, method=name, steps=Grid(200))
            torch.testing.assert_close(y[-1], t.detach()[-1:], rtol=1e-4, atol=0)
            found = torch.autograd.grad(y[-1].sum(), [t, y0])
            exact = [
                torch.tensor([-ends[1] / ends[0], 1.0], dtype=D),
                torch.tensor([ends[1] / ends[0]], dtype=D),
            ]
            for a, b in zip(found, exact, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_split_and_a_batch() -> None:
    for name in ("arkimex-3", "rosw-rodas3", "bdf"):
        found = []
        for func in (by_torch, by_numpy):
            y0 = torch.tensor([[0.5], [0.3], [0.1]], dtype=D, requires_grad=True)
            t = times(0.0, 0.7, 1.0).requires_grad_()
            both = Split(lambda t, y: -k * y, func) if name == "arkimex-3" else func
            y = odeint(both, y0, t, method=name, steps=Grid(5), params=[k], batch_dims=1)
            found.append(torch.autograd.grad(y.square().sum(), [t, y0, k]))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_single_precision() -> None:
    """As far as it reaches: quotients in time are off by 1e-4 or so there."""

    def visible(t: Tensor, y: Tensor) -> Tensor:
        return -5 * (y - torch.sin(3 * t))

    def hidden(t: Tensor, y: Tensor) -> Tensor:
        return -5 * (y - torch.as_tensor(np.sin(3 * t.detach().numpy())))

    found = []
    for func in (visible, hidden):
        y0 = torch.tensor([0.5, 0.3], requires_grad=True)
        t = torch.tensor([0.0, 0.7, 1.0], requires_grad=True)
        y = odeint(func, y0, t, method="rosw-rodas3", steps=Grid(10))
        found.append(torch.cat([y.detach()[-1], *torch.autograd.grad(y[-1].sum(), [t, y0])]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_taylor() -> None:
    """Against differences of the whole solve."""
    for name in ("rosw-rodas3", "bdf2", "dirk-es324sal"):
        report = check_gradients(
            by_numpy,
            torch.tensor([0.5, 0.3], dtype=D),
            times(0, 0.4, 1),
            method=name,
            steps=Grid(4),
            params=[k],
        )
        assert report.ok, report


@pytest.mark.parametrize(
    "func",
    [
        by_torch,
        lambda t, y: -y,
        lambda t, y: -y * (2 if float(t.detach()) < 0.5 else 1),
        lambda t, y: -y + torch.sin(1e9 * t),
        lambda t, y: -y + torch.relu(t - 0.37),
        lambda t, y: -y * torch.floor(10 * t),
        lambda t, y: y * float("nan"),
    ],
)
def test_what_torch_sees_is_taken_from_torch(func) -> None:
    f = Dynamics(func, Layout.of(torch.ones(2, dtype=D), 0), span=Span(0.0, 1.0))
    s = torch.tensor([0.2], dtype=D, requires_grad=True)
    f.evaluate_many(s.detach(), torch.ones(1, 2, dtype=D))
    assert f._differences_in_time(torch.ones(1, 2, dtype=D)) is None, "look at time_differences"


@pytest.mark.parametrize("at", [0.0, 1e-12, 0.0015, 0.003, 0.9, 1.995, 1.9999, 2.0])
def test_stencils(at: float) -> None:
    """Weights are those of the times as rounded, at the ends of the span too."""
    quotients = TimeDifferences(2e-3, 0.0, 2.0, D)

    def many(s: Tensor, u: Tensor) -> Tensor:
        assert s.min() >= 0.0
        assert s.max() <= 2.0
        return (s**4 - 3 * s**2 + s)[:, None] * u

    s = times(at).requires_grad_()
    value = quotients.evaluate(many, s, torch.ones(1, 1, dtype=D))
    (first,) = torch.autograd.grad(value.sum(), s, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), s)
    assert value.item() == pytest.approx(at**4 - 3 * at**2 + at, abs=1e-15)
    assert first.item() == pytest.approx(4 * at**3 - 6 * at + 1, abs=1e-10)
    assert second.item() == pytest.approx(12 * at**2 - 6, abs=1e-7)


def test_copies_keep_their_derivatives() -> None:
    """What is remembered of a function belongs to it alone."""

    class Forced(torch.nn.Module):
        frequency = 1.0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y + torch.as_tensor(np.sin(self.frequency * t.detach().numpy()))

    func = Forced()
    other = copy.deepcopy(func)
    other.frequency = 40.0
    for each in (func, other, func):
        omega = each.frequency
        y = odeint(each, torch.zeros(1, dtype=D), times(0, 1), method="rosw-rodaspr2", steps=Fixed(2e-3))
        exact = (omega * np.exp(-1) + np.sin(omega) - omega * np.cos(omega)) / (1 + omega**2)
        assert float(y[-1, 0]) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_components_do_not_hide_the_time_by_cancelling(dtype: torch.dtype) -> None:
    """The same forcing everywhere, in any number of components, some of which do not change."""
    for count in range(1, 130):

        def many(t: Tensor, y: Tensor, count: int = count) -> Tensor:
            forcing = torch.from_numpy(np.sin(3 * t.detach().double().numpy()))[:, None]
            steady = torch.arange(count) % 2 > 0
            return -y + torch.where(steady, 0.0, 0.4 * forcing).to(dtype).double()

        u = torch.zeros(count, dtype=torch.float64)
        found = time_differences(many, Span(0.0, 0.8), dtype, u, Space(), {})
        assert found is not None, f"{count} components"
