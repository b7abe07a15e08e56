"""Values and derivatives of func that are infinite or NaN: steps are cut, and what cannot be had is named."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from small_problems import times
from torch import Tensor, nn

import stiffml
from stiffml import (
    GMRES,
    METHODS,
    Discrete,
    Fixed,
    Grid,
    Newton,
    NonFiniteDerivativeError,
    SolveError,
    Split,
    Status,
    sensitivities,
    solve,
)

ADAPTIVE = [name for name, method in METHODS.items() if method.adaptive]
SPLIT = [name for name in ADAPTIVE if METHODS[name].split]
WHOLE = [name for name in ADAPTIVE if METHODS[name].whole]
ONE_OF_EACH = ("beuler", "cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-s212", "dopri5", "rk4")


TRIALS = 20
"""Calls at the start of a solve that try func out, and a few more."""


class Mishap(nn.Module):
    """A function that returns something else in one call, counted from the last time it was armed."""

    def __init__(self, instead: float = math.nan) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.instead, self.calls, self.at, self.struck = instead, 0, 0, 0

    def arm(self, at: int) -> None:
        self.calls, self.at, self.struck = 0, at, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        x, v = y[..., :1], y[..., 1:]
        value = torch.cat([v, torch.cos(t) - self.rate * v - 4 * x - x**3], dim=-1)
        if self.calls == self.at:
            self.struck += 1
            value = value * self.instead
        return value


Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
T = times(0, 0.5, 1)


def drag(t: Tensor, y: Tensor) -> Tensor:
    return -0.1 * y


def oscillator(extra: float) -> np.ndarray:
    def func(t: float, y: np.ndarray) -> np.ndarray:
        x, v = y
        return np.array([v, math.cos(t) - 2 * v - 4 * x - x**3]) - extra * y

    return solve_ivp(func, (0, 1), Y0.numpy(), "DOP853", t_eval=T.numpy(), rtol=1e-11, atol=1e-13).y.T


RIGHT, RIGHT_WITH_DRAG = oscillator(0.0), oscillator(0.1)


def assert_gradient(func: Callable, module: Mishap, arguments: dict, y: Tensor, steps) -> None:
    """By y0 and the parameter, against differences of the same steps."""
    y0 = arguments["y0"]
    found = torch.autograd.grad(y[1:].sum(), [y0, module.rate])
    size = 1e-5

    def value(shift: Tensor, rate: float) -> float:
        with torch.no_grad():
            module.rate += rate
            again = {**arguments, "y0": (y0 + shift).detach(), "steps": steps}
            for name in ("rtol", "atol"):
                again.pop(name, None)
            result = solve(func, **again).y[1:].sum().item()
            module.rate -= rate
        return result

    shift = torch.tensor([size, -size], dtype=torch.float64)
    up, down = value(shift, size), value(-shift, -size)
    expected = (up - down) / 2
    total = float(found[0] @ shift) + float(found[1]) * size
    assert total == pytest.approx(expected, rel=1e-5, abs=1e-6 * size), "the steps kept are not those taken"


@pytest.mark.parametrize(
    ("method", "split", "instead"),
    [
        *((name, "whole", math.nan) for name in WHOLE),
        *((name, part, math.nan) for name in SPLIT for part in ("implicit", "explicit")),
        *((name, "whole", math.inf) for name in ONE_OF_EACH if METHODS[name].adaptive),
        ("arkimex-a2", "explicit", math.inf),
    ],
)
def test_a_value_that_is_not_finite_cuts_the_step(method: str, split: str, instead: float) -> None:
    """At any call on the way, in either part of a split function: value and gradient are right."""
    module = Mishap(instead)
    func: Callable = module
    if split != "whole":
        func = Split(drag, module) if split == "explicit" else Split(module, drag)
    arguments = {"y0": Y0.clone().requires_grad_(), "t": T, "method": method, "rtol": 1e-3, "atol": 1e-4}
    if METHODS[method].newton:
        arguments["newton"] = Newton(rtol=1e-11, atol=1e-13)
    right = RIGHT if split == "whole" else RIGHT_WITH_DRAG
    solve(func, **arguments)  # finds out what is remembered
    module.arm(0)
    clean = solve(func, **arguments)
    calls = module.calls
    generator = np.random.default_rng(len(method))
    # Behind the trials at the start, and before the last, which is kept to compare with later.
    for at in generator.integers(max(calls // 3, TRIALS), calls - 1, 2).tolist():
        module.arm(at)
        solution = solve(func, **arguments)
        assert module.struck == 1, "the mishap did not happen; look at the count of calls"
        stats = solution.stats
        assert stats.mended_jacobians or stats.rhs_evals > clean.stats.rhs_evals, f"not cut at call {at}"
        y, before = solution.y.detach().numpy(), clean.y.detach().numpy()
        assert np.abs(y - right).max() <= np.abs(before - right).max() + 1e-2
    module.arm(0)
    assert_gradient(func, module, arguments, solution.y, solution.steps)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_a_value_that_is_not_finite_halves_a_step_asked_for(method: str) -> None:
    module = Mishap()
    arguments = {"y0": Y0.clone().requires_grad_(), "t": T, "method": method, "steps": Grid(20)}
    solve(module, **arguments)  # finds out what is remembered
    module.arm(0)
    clean = solve(module, **arguments)
    asked, calls = clean.stats.accepted, module.calls
    for at in (max(calls // 3, TRIALS), calls // 2, calls - 3):
        module.arm(at)
        solution = solve(module, **arguments)
        assert module.struck == 1
        stats = solution.stats
        mended = stats.mended_jacobians or method.startswith("rosw")  # ∂f/∂t is not counted
        assert stats.accepted > asked or mended, f"not halved at call {at}"
        torch.testing.assert_close(solution.y, clean.y, rtol=2e-2, atol=2e-2)
    module.arm(0)
    assert_gradient(module, module, arguments, solution.y, solution.steps)


K, N, D, X0 = 9.087101071878903, 2.5163255503214117, 4.638316464318106, 0.2


@pytest.mark.parametrize("method", WHOLE)
def test_a_power_of_a_quantity_that_decays(method: str) -> None:
    """x' = xⁿ/(Kⁿ + xⁿ) − d x: below zero the power is NaN, and long steps lead there."""
    t = times(0, 0.25, 1, 8)
    reference = solve_ivp(
        lambda t, z: np.exp((N - 1) * z) / (K**N + np.exp(N * z)) - D,
        (0, 8),
        [math.log(X0)],
        "LSODA",
        t_eval=t.numpy(),
        rtol=1e-11,
        atol=1e-11,
    )
    k = torch.tensor(K, dtype=torch.float64, requires_grad=True)
    solution = solve(
        lambda t, x: x**N / (k**N + x**N) - D * x,
        torch.tensor([X0], dtype=torch.float64),
        t,
        method=method,
        params=[k],
        rtol=1e-3,
        atol=1e-5,
    )
    np.testing.assert_allclose(solution.y[:, 0].detach().numpy(), np.exp(reference.y[0]), atol=5e-3)
    (gradient,) = torch.autograd.grad(solution.y[2, 0], k)
    assert math.isfinite(float(gradient))


@pytest.mark.parametrize("method", WHOLE)
def test_no_step_is_kept_whose_equations_are_not_finite(method: str) -> None:
    """y' = −y, NaN below 1/2: nothing goes on beyond t = ln 2, and the error names time and component."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y < 0.5, math.nan, -y)

    y0 = torch.tensor([2.0, 1.0], dtype=torch.float64)
    with pytest.raises(SolveError, match="infinite or NaN") as caught:
        solve(func, y0, times(0, 0.1, 3), method=method, rtol=1e-3, atol=1e-6)
    assert caught.value.status is Status.NON_FINITE
    assert caught.value.component == (1,)
    assert caught.value.t == pytest.approx(math.log(2), abs=0.1)
    assert caught.value.solution is not None
    assert len(caught.value.solution.t) == 2


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].whole])
def test_no_step_asked_for_is_kept_whose_equations_are_not_finite(method: str) -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y < 0.5, math.nan, -y)

    y0 = torch.tensor([2.0, 1.0], dtype=torch.float64)
    with pytest.raises(SolveError) as caught:
        solve(func, y0, times(0, 0.1, 3), method=method, steps=Fixed(0.1))
    assert caught.value.status is Status.NON_FINITE
    assert caught.value.component == (1,)
    assert caught.value.t == pytest.approx(math.log(2), abs=0.11)


@pytest.mark.parametrize("method", ["cn", "bdf2", "rosw-ra34pw2", "arkimex-3"])
def test_a_krylov_method_is_not_blamed(method: str) -> None:
    """Its right-hand side is NaN in many steps, none of which it could have solved for."""
    with pytest.raises(SolveError) as caught:
        solve(
            lambda t, y: torch.where(y < 0.5, math.nan, -y),
            torch.tensor([1.0, 2.0], dtype=torch.float64),
            times(0, 3),
            method=method,
            linear=GMRES(),
            rtol=1e-3,
            atol=1e-6,
        )
    assert caught.value.status is Status.NON_FINITE


# Derivatives.


def falling(t: Tensor, y: Tensor) -> Tensor:
    """From rest against a drag −|v| v, whose |v| = √v² has no derivative by autograd where v is zero."""
    x, v = y[..., :1], y[..., 1:]
    return torch.cat([v, 9.81 - v.square().sqrt() * v - 4 * x], dim=-1)


def fallen() -> np.ndarray:
    def func(t: float, y: np.ndarray) -> np.ndarray:
        return np.array([y[1], 9.81 - abs(y[1]) * y[1] - 4 * y[0]])

    return solve_ivp(func, (0, 0.5), [0, 0], "Radau", t_eval=[0, 0.5], rtol=1e-10, atol=1e-12).y[:, -1]


FALLEN = fallen()
WAYS = {"dense": {}, "coloured": {"jacobian": "coloured"}, "products": {"linear": GMRES()}}


@pytest.mark.parametrize(
    ("method", "way"),
    [
        *((name, "dense") for name in WHOLE),
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
    arguments = {"method": method, "rtol": 1e-3, "atol": 1e-5, **WAYS[way]}
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
    again = {**WAYS[way], "method": method, "steps": solution.steps}
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
@pytest.mark.parametrize("method", [*ONE_OF_EACH, "rosw-rodas3"])
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


def test_nan_of_the_callers_own_passes() -> None:
    y0 = Y0.clone().requires_grad_()
    (solve(drag, y0, T, method="cn", steps=Grid(2)).y.sum() * math.nan).backward()
    assert torch.isnan(y0.grad).all(), "a loss that is NaN has a gradient of NaN, as everywhere in torch"


def test_a_derivative_that_nothing_replaces() -> None:
    """f is finite at one point only: no step can be solved for, and the error says why."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.sqrt(y - 1) + torch.sqrt(1 - y)

    y0 = torch.ones(1, dtype=torch.float64)
    solution = solve(func, y0, times(0, 1), method="rosw-ra34pw2", throw=False)
    assert solution.status is Status.INFINITE_DERIVATIVE
    assert "row [0] and column [0]" in solution.message
    assert stiffml.solve(func, y0, times(0, 1), method="dopri5").success
