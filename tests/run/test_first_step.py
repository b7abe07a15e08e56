"""The first step, and those that are shorter than time resolves: late starts, starts at zero, doses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods import ADAPTIVE, ADAPTIVE_WHOLE
from torch import Tensor

import stiffml
from stiffml import METHODS, Adaptive, SolveError, Split, Status, odeint, solve

D = torch.float64


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D)


@pytest.mark.parametrize("method", ADAPTIVE_WHOLE)
@pytest.mark.parametrize("start", [1e6, -1e6])
def test_late_start_from_nearly_zero(method: str, start: float) -> None:
    """The state asks for a first step of 1e-13, and numbers near the time are 1e-10 apart."""
    y = odeint(
        lambda t, y: torch.ones_like(y),
        torch.tensor([1e-11], dtype=D),
        times(start, start + 1),
        method=method,
    )
    assert y[-1].item() == pytest.approx(1.0, rel=1e-6), "look at shortest_first in run/forward.py"


def test_late_start_backwards_in_time() -> None:
    y = odeint(lambda t, y: torch.ones_like(y), torch.tensor([1e-11], dtype=D), times(1e6, 1e6 - 1))
    assert y[-1].item() == pytest.approx(-1.0, rel=1e-6), "look at shortest_first in run/forward.py"


@pytest.mark.parametrize("method", ADAPTIVE_WHOLE)
def test_dose_from_what_is_left_of_the_last(method: str) -> None:
    """The state is zero but for rounding, and time is 24."""
    k = float(np.random.default_rng(ADAPTIVE_WHOLE.index(method)).uniform(1.3, 1.6))
    left = torch.tensor([50 * math.exp(-22 * k)], dtype=D)
    y = odeint(lambda t, y: 50.0 - k * y, left, times(24, 25), method=method, rtol=1e-3, atol=1e-9)
    assert y[-1].item() == pytest.approx(50 / k * (1 - math.exp(-k)), rel=0.02), (
        f"k = {k}: look at the first step, _initial_size in run/forward.py"
    )


@pytest.mark.parametrize("k", [1.46, 1.52])
@pytest.mark.parametrize("method", ["bdf2"])
def test_doses_by_breakpoints(method: str, k: float) -> None:
    y = odeint(
        lambda t, y: (50.0 if t % 24 < 2 else 0.0) - k * y,
        torch.zeros(1, dtype=D),
        times(0, 25),
        method=method,
        breakpoints=[2.0, 24.0, 26.0],
    )
    assert y[-1].item() == pytest.approx(50 / k * (1 - math.exp(-k)), rel=1e-4), (
        "look at the first step after a breakpoint, _initial_size in run/forward.py"
    )


@pytest.mark.parametrize("method", ["bdf", "bdf3", "rosw-rodaspr2", "arkimex-4", "dirk-s659a", "dopri5"])
def test_faster_at_the_start_than_time_resolves(method: str) -> None:
    """y' = C/y: between two times near 1 the state changes by 2e-3 of itself, at first only."""
    rate = 1e25
    y = odeint(lambda t, y: rate / y, torch.tensor([1e6], dtype=D), times(1, 2), method=method)
    assert y[-1].item() == pytest.approx(math.sqrt(1e12 + 2 * rate), rel=5e-3), (
        "look at _allow_for_rounding_of_time in run/forward.py"
    )


@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2", "rosw-rodaspr2", "arkimex-3", "bosh3", "dopri5"])
def test_lost_between_two_times(method: str) -> None:
    """y' = C/y with a C for which all happens between t = 1 and its neighbour: an error, no number."""
    solution = solve(
        lambda t, y: 1e50 / y, torch.tensor([1e6], dtype=D), times(1, 2), method=method, throw=False
    )
    assert solution.status is Status.STEP_TOO_SMALL, "look at _is_lost_in_time in petsc/stepper.py"
    assert "lost in the rounding of t" in solution.message
    assert solution.stats.accepted == 0, "a step of no length was accepted; look at _step in run/forward.py"


def test_blow_up_is_no_late_start() -> None:
    """Only a start may change by more than its tolerance between two times."""
    with pytest.raises(SolveError) as caught:
        solve(lambda t, y: y * y, torch.tensor([1.0], dtype=D), times(0, 2))
    assert caught.value.t == pytest.approx(1.0, abs=1e-2)


def test_initial_is_raised_to_what_time_resolves() -> None:
    y = odeint(
        lambda t, y: -y,
        torch.ones(1, dtype=D),
        times(1e9, 1e9 + 1),
        method="bdf",
        steps=Adaptive(initial=1e-12),
    )
    assert y[-1].item() == pytest.approx(math.exp(-1), rel=1e-4)


def test_maximum_below_what_time_resolves() -> None:
    with pytest.raises(
        ValueError, match=r"Adaptive: maximum = 1e-12 is lost in the rounding of t.*t = 1000000"
    ):
        solve(lambda t, y: -y, torch.ones(1, dtype=D), times(0, 1e6), steps=Adaptive(maximum=1e-12))


@pytest.mark.parametrize("method", ["arkimex-5", "bdf2", "dirk-s659a"])
def test_root_next_to_the_start(method: str) -> None:
    """The state is zero but for rounding where steps are taken again to find a root."""
    solution = stiffml.solve(
        lambda t, y: (3 * t**2 + 12 * t - 4) * torch.ones_like(y),
        torch.zeros(1, dtype=D),
        times(-2.000000000000013, 4),
        method=method,
        steps=Adaptive(maximum=0.5),
        event=lambda t, y: y[0],
    )
    assert solution.event is not None
    assert solution.event.t.item() == pytest.approx(2.0, rel=1e-4), "look at Rounding in native/rounding.py"


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_first_step_that_is_much_too_long(method: str) -> None:
    """y' = −2 (y − cos t) from 3: steps begin with half of the span, or a fourth of it."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -2 * (y - torch.cos(t))

    exact = (4 * math.cos(4) + 2 * math.sin(4)) / 5 + 2.2 * math.exp(-8)
    right_hand_side = func if METHODS[method].whole else Split(func, lambda t, y: 0 * y)
    if METHODS[method].exponential:
        right_hand_side = Split(lambda t, y: -2 * y, lambda t, y: 2 * torch.cos(t) + 0 * y, linear=True)
    away = {}
    for initial in (None, 1.0, 2.0):
        steps = Adaptive(initial=initial, stop_if_stiff=False)
        y = solve(
            right_hand_side,
            torch.tensor([3.0], dtype=D),
            times(0, 4),
            method=method,
            steps=steps,
            rtol=1e-4,
            atol=1e-6,
        ).y
        away[initial] = abs(y[-1].item() - exact)
    # 1e-4 is what each step may leave; those of the first order leave more, all with one sign. A first step
    # is accepted up to the tolerance, of which those of BDF otherwise aim at a part.
    usual = away[None] / METHODS[method].aim(1e-4)
    assert max(away.values()) < 3 * max(usual, 2e-4), (
        f"{method}: errors by first step {away}; where it has no estimate, estimates_first_step says so"
    )
