"""Wrong arguments: a message that names the culprit, and the next solve works."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import decay, times
from torch import Tensor, nn

from stiffml import (
    Adaptive,
    Fixed,
    Grid,
    Newton,
    ODEBlock,
    check_gradients,
    sensitivities,
    solve,
)

Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
T = times(0, 1)


pytestmark = pytest.mark.usefixtures("next_solve_works")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "bdff5"}, "unknown name 'bdff5'.*Did you mean 'bdf5'.*dopri5"),
        ({"method": 3}, "method must be a name or a method object"),
        ({"y0": torch.ones(2, dtype=torch.int64)}, "y0 must be float64 or float32"),
        ({"y0": [1.0]}, "y0 must be a tensor or a tuple of tensors"),
        ({"y0": torch.tensor([1.0, math.nan], dtype=torch.float64)}, r"y0 is not finite at component \[1\]"),
        ({"y0": torch.empty(0, dtype=torch.float64)}, "y0 is empty"),
        ({"t": times(0, 1, 0.5)}, r"t must be strictly.*t\[1\] = 1 and t\[2\] = 0.5"),
        ({"t": times(0, 2, 1)}, r"t\[1\] = 2 and t\[2\] = 1"),
        ({"t": times(0, math.inf)}, "t is not finite at position 1"),
        ({"t": torch.zeros(2, 2)}, "t must be one-dimensional"),
        ({"rtol": 1e-20}, "rtol = 1e-20 is below what torch.float64 resolves"),
        ({"atol": -1.0}, "atol must be positive"),
        ({"atol": torch.ones(3)}, r"atol must be a number or of y0's shape \(2,\)"),
        ({"batch_dims": 2}, "batch_dims must lie between 0 and y0's 1 dimensions"),
        ({"steps": 0.1}, "steps must be Adaptive"),
        (
            {"steps": Fixed(0.1), "rtol": 1e-6},
            "rtol and atol choose adaptive steps and have no effect with Fixed",
        ),
        ({"method": "rk4", "steps": Adaptive()}, "no error estimate to adapt steps with; pass steps=Fixed"),
        ({"method": "rk4", "rtol": 1e-3}, "rtol and atol choose adaptive steps and have no effect with Grid"),
        ({"method": "dopri5", "newton": Newton()}, "newton has no effect with the explicit method"),
        ({"method": "dopri5", "jacobian": "dense"}, "jacobian has no effect with the explicit method"),
        ({"jacobian": "sparse"}, "jacobian must be one of 'auto', 'dense'"),
        ({"params": torch.ones(2)}, "params must be a sequence of tensors"),
        ({"params": [1.0]}, r"params\[0\] must be a tensor"),
        ({"options": {"ts_nonsense": 1}}, "ts_nonsense is none that stiffml understands"),
        ({"options": {"-ts_type": "cn"}}, "ts_type is set by the arguments of the solve"),
        ({"options": {"ts_rtol": 0.1}}, "ts_rtol is set by the arguments of the solve"),
        ({"options": {"ts_max_steps": 3}}, "ts_max_steps is set by the arguments of the solve"),
    ],
)
def test_the_argument_is_named(arguments: dict, named: str) -> None:
    arguments = {"y0": Y0, "t": T, **arguments}
    with pytest.raises((ValueError, TypeError), match=named):
        solve(decay, arguments.pop("y0"), arguments.pop("t"), **arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda k: solve(decay, Y0, T, params=k, breakpoints=[0.5]),
        lambda k: ODEBlock(decay, T, params=k),
        lambda k: sensitivities(decay, Y0, T, params=k, method="cn", steps=Grid(2)),
        lambda k: check_gradients(decay, Y0, T, params=k, method="cn", steps=Grid(2)),
    ],
)
def test_params_is_no_single_tensor(call) -> None:
    """Its rows would be parameters that func makes no use of."""
    with pytest.raises(TypeError, match="params must be a sequence of tensors, not one tensor"):
        call(torch.ones(2, dtype=torch.float64, requires_grad=True))


class Doubled(nn.Module):
    """func with a tensor that is computed from its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        self.twice = (self.k * 2)[:1].exp()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.twice * y


def test_params_computed_from_one_another() -> None:
    """The gradient would go both ways, from func to k and through what is computed from k."""

    def gradient(params: list[Tensor]) -> Tensor:
        y = solve(func, Y0, T, method="cn", steps=Grid(2), params=params).y
        return torch.autograd.grad(y.sum(), func.k, retain_graph=True)[0]

    func = Doubled()
    with pytest.raises(ValueError, match=r"params: a tensor of shape \(1,\) is computed .* \(2,\)"):
        gradient([func.twice])
    made = 2 * func.twice
    func.k.requires_grad_(False)
    with pytest.raises(ValueError, match=r"params: a tensor .* is computed from another"):
        solve(func, Y0, T, params=[made, func.twice])
    func.k.requires_grad_()
    base = func.k.detach().clone().requires_grad_()
    # Of several that are computed from what is no parameter the gradients add up.
    one, other = base.exp(), base.sin()
    y = solve(lambda t, y: -(one + other) * y, Y0, T, method="cn", steps=Grid(2), params=[one, other]).y
    (found,) = torch.autograd.grad(y.sum(), base)
    y = solve(lambda t, y: -(base.exp() + base.sin()) * y, Y0, T, method="cn", steps=Grid(2), params=[base]).y
    torch.testing.assert_close(found, torch.autograd.grad(y.sum(), base)[0], rtol=1e-12, atol=0)
    with torch.no_grad():
        y = solve(func, Y0, T, params=[func.twice]).y
        torch.testing.assert_close(y, solve(func, Y0, T).y, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(0), "h must be positive"),
        (lambda: Grid(0), "substeps must be at least 1"),
        (lambda: Adaptive(minimum=2, maximum=1), "minimum 2 is above maximum 1"),
        (lambda: Adaptive(max_steps=0), "max_steps must be at least 1"),
        (lambda: Newton(rtol=0), "rtol must be positive"),
    ],
)
def test_settings_check_themselves(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@given(
    shape=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    returned=st.lists(st.integers(1, 3), max_size=3).map(tuple),
)
@settings(max_examples=25, deadline=None)
def test_shapes(shape: tuple[int, ...], returned: tuple[int, ...]) -> None:
    """Any shape of y0 is integrated; a func that returns another is refused by both shapes."""
    y0 = torch.full(shape, 0.5, dtype=torch.float64)
    assert solve(decay, y0, T, method="cn", steps=Grid(2)).y.shape == (2, *shape)
    if returned != shape:
        with pytest.raises(ValueError, match=r"func returned shape .* but y0 has shape"):
            solve(lambda t, y: torch.zeros(returned, dtype=torch.float64), y0, T, method="cn", steps=Grid(2))


def test_func_that_returns_no_tensor() -> None:
    with pytest.raises(TypeError, match="func must return a tensor like y0, not float"):
        solve(lambda t, y: 1.0, Y0, T)
