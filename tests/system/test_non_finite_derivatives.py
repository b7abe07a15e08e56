"""Derivatives of func that are infinite or NaN: differences take their place, or an error names them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods import ADAPTIVE_WHOLE, EVERY_KIND_AND_ORDER_1
from scipy.integrate import solve_ivp
from small_problems import times
from solvers import JACOBIANS
from torch import Tensor, nn

from stiffml import (
    Discrete,
    Grid,
    NonFiniteDerivativeError,
    Status,
    sensitivities,
    solve,
)

Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
T = times(0, 0.5, 1)


def falling(t: Tensor, y: Tensor) -> Tensor:
    """From rest against a drag −|v| v, whose |v| = √v² has no derivative by autograd where v is zero."""
    x, v = y[..., :1], y[..., 1:]
    return torch.cat([v, 9.81 - v.square().sqrt() * v - 4 * x], dim=-1)


def fallen() -> np.ndarray:
    def func(t: float, y: np.ndarray) -> np.ndarray:
        return np.array([y[1], 9.81 - abs(y[1]) * y[1] - 4 * y[0]])

    return solve_ivp(func, (0, 0.5), [0, 0], "Radau", t_eval=[0, 0.5], rtol=1e-10, atol=1e-12).y[:, -1]


FALLEN = fallen()


@pytest.mark.parametrize(
    ("method", "way"),
    [
        *((name, "dense") for name in ADAPTIVE_WHOLE),
        *(
            (name, way)
            for name in ("bdf", "cn", "rosw-ra34pw2", "arkimex-5")
            for way in ("coloured", "products")
        ),
    ],
)
def test_a_derivative_that_is_not_finite(method: str, way: str) -> None:
    """Forwards a difference serves; backwards the gradient is right, or an error names row and column."""
    y0 = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    arguments = {"method": method, "rtol": 1e-3, "atol": 1e-5, **JACOBIANS[way]}
    solution = solve(falling, y0, times(0, 0.5), **arguments)
    np.testing.assert_allclose(solution.y[-1].detach().numpy(), FALLEN, rtol=2e-2)
    try:
        (gradient,) = torch.autograd.grad(solution.y[-1].sum(), y0)
    except NonFiniteDerivativeError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "row [1] and column [1]" in message
        assert "t = 0, " in message
        return
    assert torch.isfinite(gradient).all()
    size, differences = 1e-5, []
    again = {**JACOBIANS[way], "method": method, "steps": solution.steps}
    for component in range(2):
        moved = torch.zeros(2, dtype=torch.float64)
        moved[component] = size
        up, down = (solve(falling, sign * moved, times(0, 0.5), **again).y[-1].sum() for sign in (1, -1))
        differences.append((up - down) / (2 * size))
    torch.testing.assert_close(gradient, torch.stack(differences), rtol=1e-2, atol=1e-3)


def test_differences_are_counted() -> None:
    y0 = torch.zeros(2, dtype=torch.float64)
    assert solve(falling, y0, times(0, 0.5), method="rosw-ra34pw2").stats.mended_jacobians > 0
    assert solve(falling, y0 + 1, times(0, 0.5), method="rosw-ra34pw2").stats.mended_jacobians == 0


@pytest.mark.parametrize("method", ["bdf", "cn", "rosw-ra34pw2", "rosw-rodas3", "dirk-s212", "dopri5"])
def test_a_derivative_with_respect_to_time_that_is_not_finite(method: str) -> None:
    solution = solve(lambda t, y: torch.sqrt(t) - y, Y0, times(0, 2), method=method)
    reference = solve_ivp(lambda t, y: math.sqrt(t) - y, (0, 2), Y0.numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution.y[-1].numpy(), reference.y[:, -1], rtol=1e-3)


@pytest.mark.parametrize("checkpoints", ["stages", "solutions", 6])
@pytest.mark.parametrize("method", [*EVERY_KIND_AND_ORDER_1, "rosw-rodas3"])
def test_a_gradient_that_is_not_finite_names_the_derivative(method: str, checkpoints) -> None:
    """A mass at rest stays there; every derivative is asked for where there is none."""
    y0 = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)

    def rest(t: Tensor, y: Tensor) -> Tensor:
        x, v = y[..., :1], y[..., 1:]
        return torch.cat([v, -v.square().sqrt() * v - 4 * x], dim=-1)

    solution = solve(
        rest, y0, times(0, 1, 2), method=method, steps=Grid(4), adjoint=Discrete(checkpoints=checkpoints)
    )
    assert torch.equal(solution.y, torch.zeros_like(solution.y))
    with pytest.raises(NonFiniteDerivativeError, match=r"∂f/∂y .*row \[1\] and column \[1\].*Try: "):
        solution.y.sum().backward()
    assert y0.grad is None


def test_a_gradient_with_respect_to_a_parameter() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y - torch.sqrt(self.k)

    func = Root()
    solution = solve(func, Y0, T, method="cn", steps=Grid(2))
    with pytest.raises(NonFiniteDerivativeError, match="parameter 'k'"):
        solution.y.sum().backward()
    with pytest.raises(NonFiniteDerivativeError, match="parameter 'k'"):
        sensitivities(func, Y0, T, method="cn", steps=Grid(2))


def test_only_what_is_asked_for_is_looked_at() -> None:
    """dopri5 needs no derivative by y at the start unless dL/dy0 is wanted."""
    k = torch.tensor(9.81, dtype=torch.float64, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        x, v = y[..., :1], y[..., 1:]
        return torch.cat([v, k - v.square().sqrt() * v - 4 * x], dim=-1)

    arguments = {"method": "dopri5", "steps": Grid(20), "params": [k]}
    y0 = torch.zeros(2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(solve(func, y0, times(0, 0.5), **arguments).y[-1].sum(), k)
    with torch.no_grad():
        ends = []
        for size in (1e-5, -1e-5):
            k += size
            ends.append(solve(func, y0, times(0, 0.5), **arguments).y[-1].sum())
            k -= size
    assert float(gradient) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6)
    with pytest.raises(NonFiniteDerivativeError):
        solve(func, y0.requires_grad_(), times(0, 0.5), **arguments).y[-1].sum().backward()


def test_a_second_derivative_that_rosenbrock_methods_need() -> None:
    """y^1.5 at zero has a first derivative, but no second one."""
    y0 = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[..., 1], -(y[..., 0].abs() ** 1.5)], dim=-1) * 0.5

    arguments = {"steps": Grid(4)}
    solve(func, y0, times(0, 1), method="cn", **arguments).y.sum().backward()
    assert torch.isfinite(y0.grad).all()
    with pytest.raises(NonFiniteDerivativeError, match=r"second derivative.*component \[0\].*bdf"):
        solve(func, y0, times(0, 1), method="rosw-ra34pw2", **arguments).y.sum().backward()


def test_a_derivative_that_nothing_replaces() -> None:
    """f is finite at one point only: no step can be solved for, and the error says why."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.sqrt(y - 1) + torch.sqrt(1 - y)

    y0 = torch.ones(1, dtype=torch.float64)
    solution = solve(func, y0, times(0, 1), method="rosw-ra34pw2", throw=False)
    assert solution.status is Status.INFINITE_DERIVATIVE
    assert "row [0] and column [0]" in solution.message
    assert torch.equal(solve(func, y0, times(0, 1), method="dopri5").y[-1], y0), "it needs no derivative"
