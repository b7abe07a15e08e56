"""Values of func that are infinite or NaN: steps are cut."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from methods import ADAPTIVE_SPLIT, ADAPTIVE_WHOLE, EVERY_KIND_AND_ORDER_1, EXPONENTIAL, WHOLE
from scipy.integrate import solve_ivp
from small_problems import times
from torch import Tensor, nn

from stiffml import (
    GMRES,
    METHODS,
    Fixed,
    Grid,
    Newton,
    SolveError,
    Split,
    Status,
    solve,
)

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
        *((name, "whole", math.nan) for name in ADAPTIVE_WHOLE),
        *((name, "explicit", math.nan) for name in ADAPTIVE_SPLIT),
        *((name, "implicit", math.nan) for name in ADAPTIVE_SPLIT if name not in EXPONENTIAL),
        *((name, "whole", math.inf) for name in EVERY_KIND_AND_ORDER_1 if METHODS[name].adaptive),
        ("arkimex-a2", "explicit", math.inf),
    ],
)
def test_a_value_that_is_not_finite_cuts_the_step(method: str, split: str, instead: float) -> None:
    """At any call on the way, in either part of a split function: value and gradient are right."""
    module = Mishap(instead)
    func: Callable = module
    if split != "whole":
        linear = METHODS[method].exponential
        func = Split(drag, module, linear=linear) if split == "explicit" else Split(module, drag)
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
        # Other steps after a cut one may need fewer evaluations each.
        more = stats.rhs_evals > clean.stats.rhs_evals or stats.accepted > clean.stats.accepted
        assert stats.mended_jacobians or more, f"not cut at call {at}"
        y, before = solution.y.detach().numpy(), clean.y.detach().numpy()
        assert np.abs(y - right).max() <= np.abs(before - right).max() + 1e-2
    module.arm(0)
    assert_gradient(func, module, arguments, solution.y, solution.steps)


@pytest.mark.parametrize("method", EVERY_KIND_AND_ORDER_1)
def test_a_value_that_is_not_finite_halves_a_step_asked_for(method: str) -> None:
    module = Mishap()
    arguments = {"y0": Y0.clone().requires_grad_(), "t": T, "method": method, "steps": Grid(20)}
    arguments["stepping"] = "sequential"
    solve(module, **arguments)  # finds out what is remembered
    module.arm(0)
    clean = solve(module, **arguments)
    asked, calls = clean.stats.accepted, module.calls
    for at in (max(calls // 3, TRIALS), calls // 2, calls - 3):
        module.arm(at)
        solution = solve(module, **arguments)
        assert module.struck == 1
        stats = solution.stats
        # ∂f/∂t is not counted; and a run that C gives up is taken again without the mishap.
        mended = stats.mended_jacobians or method.startswith("rosw") or stats.given_up
        assert stats.accepted > asked or mended, f"not halved at call {at}"
        torch.testing.assert_close(solution.y, clean.y, rtol=2e-2, atol=2e-2)
    module.arm(0)
    assert_gradient(module, module, arguments, solution.y, solution.steps)


K, N, D, X0 = 9.087101071878903, 2.5163255503214117, 4.638316464318106, 0.2


@pytest.mark.parametrize("method", ADAPTIVE_WHOLE)
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


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("method", ["bdf", "bdf1", "sdirk3", "dirk-es213sal", "rosw-ra34pw2"])
def test_the_same_of_samples_with_steps_of_their_own(method: str, compiled: bool) -> None:
    """Newton's last iterate may lie where f is not finite, and so would the gradient be."""
    t, k = times(0, 0.25, 1, 8), torch.tensor(K, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[X0], [0.5 * X0]], dtype=torch.float64)
    arguments = {"method": method, "params": [k], "rtol": 1e-3, "atol": 1e-5, "compile": compiled}

    def func(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x**N / (k**N + x**N) - D * x

    own = solve(func, y0, t.expand(2, 4), batch_dims=1, **arguments)
    alone = solve(func, y0[0], t, **arguments)
    for y in (own.y[:, 0], alone.y):
        (gradient,) = torch.autograd.grad(y[2, 0] + y[3, 0], k)
        assert math.isfinite(float(gradient)), "look at what follows Newton's iteration"


@pytest.mark.parametrize("method", ADAPTIVE_WHOLE)
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


@pytest.mark.parametrize("rtol", [1e-1, 1e-2])
@pytest.mark.parametrize("method", ADAPTIVE_WHOLE)
def test_no_step_is_kept_whose_stages_are_not_finite(method: str, rtol: float) -> None:
    """Wherever the first stage lies that meets NaN: some error estimates hardly see some stages."""
    for limit in (0.5, 0.2, 0.123):

        def func(t: Tensor, y: Tensor, limit: float = limit) -> Tensor:
            return torch.where(y < limit, math.nan, -y)

        with pytest.raises(SolveError) as caught:
            solve(
                func,
                torch.tensor([2.0, 1.0], dtype=torch.float64),
                times(0, 0.1, 3),
                method=method,
                rtol=rtol,
                atol=1e-3 * rtol,
            )
        assert caught.value.status is Status.NON_FINITE, f"y < {limit}"
        assert caught.value.component == (1,)


@pytest.mark.parametrize("method", WHOLE)
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


def test_nan_of_the_callers_own_passes() -> None:
    y0 = Y0.clone().requires_grad_()
    (solve(drag, y0, T, method="cn", steps=Grid(2)).y.sum() * math.nan).backward()
    assert torch.isnan(y0.grad).all(), "a loss that is NaN has a gradient of NaN, as everywhere in torch"
