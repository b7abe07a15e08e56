"""Implicit methods of torchdiffeq's later versions, and what takes the place of those stiffml lacks."""

from __future__ import annotations

import math

import pytest
import torch
from small_problems import times
from torch import Tensor

from stiffml import Grid, solve
from stiffml.compat.torchdiffeq import odeint
from stiffml.compat.torchdiffeq.names import ADAMS, INSTEAD, method_of
from stiffml.methods import METHODS

ORDERS = {
    "implicit_euler": 1,
    "implicit_midpoint": 2,
    "trapezoid": 2,
    "sdirk2": 2,
    "trbdf2": 2,
    "radauIIA3": 3,
    "gl4": 4,
    "radauIIA5": 5,
    "gl6": 6,
}


def falling(t: Tensor, y: Tensor) -> Tensor:
    """y = 1 / (1 + sin t)."""
    return -(y**2) * torch.cos(t)


def error(method: str, steps: int) -> float:
    y = odeint(falling, times(1.0), times(0, 1), method=method, options={"step_size": 1 / steps})
    return abs(y[-1].item() - 1 / (1 + math.sin(1)))


@pytest.mark.filterwarnings("ignore:.*takes the same steps")
@pytest.mark.parametrize("method", ORDERS)
def test_orders_are_those_of_the_names(method: str) -> None:
    coarse, fine = error(method, 8), error(method, 16)
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[method], abs=0.25)


@pytest.mark.filterwarnings("ignore:.*takes the same steps")
@pytest.mark.parametrize("method", ORDERS)
def test_gradients(method: str) -> None:
    y0, t = times(1.0, 0.5).requires_grad_(), times(0, 0.4, 1.0).requires_grad_()

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y * torch.cos(t) * y.flip(0)

    assert torch.autograd.gradcheck(lambda y0, t: odeint(func, y0, t, method=method), (y0, t))


def test_the_implicit_midpoint_rule() -> None:
    """One step of a linear problem is (1 + z/2) / (1 − z/2), with z = hλ; time is that of the middle."""
    y0 = times(1.0)
    y = odeint(lambda t, y: -4 * y, y0, times(0, 0.5), method="implicit_midpoint")
    assert y[-1].item() == pytest.approx((1 - 1) / (1 + 1), abs=1e-12)
    y = odeint(lambda t, y: t**2 + 0 * y, y0, times(0, 2.0), method="implicit_midpoint")
    assert y[-1].item() == pytest.approx(1 + 2 * 1.0**2)
    method = method_of("implicit_midpoint")
    assert (method.order, method.dae, method.adaptive) == (2, False, False)


@pytest.mark.parametrize("name", INSTEAD)
def test_what_takes_the_steps_instead_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stiffml.compat.torchdiffeq.warning._GIVEN", set())
    nearest, reason, shares = INSTEAD[name]
    with pytest.warns(
        UserWarning, match=f"{name}: stiffml has {reason}; {nearest}, {shares}, takes the same"
    ):
        y = odeint(falling, times(1.0), times(0, 0.5, 1), method=name)
    wanted = solve(falling, times(1.0), times(0, 0.5, 1), method=nearest, steps=Grid()).y
    torch.testing.assert_close(y, wanted, rtol=1e-14, atol=0)
    assert f"of order {METHODS[nearest].order}" in shares


@pytest.mark.parametrize("name", ADAMS)
def test_options_of_adams_methods_have_no_effect_and_say_so(name: str) -> None:
    with pytest.warns(UserWarning, match=f"options: max_iters, max_order have no effect with {name}"):
        odeint(falling, times(1.0), times(0, 1), method=name, options={"max_order": 4, "max_iters": 3})
