"""Convergence orders, and published end values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import times
from torch import Tensor

import problems
from stiffml import METHODS, Fixed, solve


def forced(t: Tensor, y: Tensor) -> Tensor:
    """A problem with a known solution, y = (sin t, cos t)·exp(sin t), nonlinear and dependent on time."""
    target = known(t)
    slope = torch.stack([target[1], -target[0]]) + torch.cos(t) * target
    return slope + torch.sin(target - y) * torch.tensor([3.0, 5.0], dtype=y.dtype) + 0.3 * (target - y) ** 2


def known(t: Tensor) -> Tensor:
    return torch.stack([torch.sin(t), torch.cos(t)]) * torch.exp(torch.sin(t))


def measured_order(name: str, counts: tuple[int, ...]) -> float:
    """Slope of log error over log h, of the largest error at 11 output times."""
    t = torch.linspace(0, 2, 11, dtype=torch.float64)
    exact = torch.stack([known(time) for time in t])
    errors = []
    for count in counts:
        y = solve(forced, known(t[0]), t, method=name, steps=Fixed(2 / count)).y
        errors.append((y - exact).abs().max().item())
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


# Order 5 meets rounding and Newton's tolerance early.
COUNTS = {"bdf5": (40, 80, 160), "bdf": (40, 80, 160)}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "bdf6"])
def test_convergence_order(name: str) -> None:
    counts = COUNTS.get(name, (80, 160, 320))
    expected = METHODS[name].order
    if name == "theta":
        # The first-order part of the error of θ = 0.55 outweighs the second-order one only at small steps.
        counts = (2000, 4000)
    tolerance = 0.3 if METHODS[name].starting_order else 0.2
    order = measured_order(name, counts)
    assert abs(order - expected) <= tolerance, (
        f"{name} converges at order {order:.2f} instead of {expected}; look at its PETSc set-up"
    )


def test_bdf6_keeps_the_order_of_its_start() -> None:
    """No starting ramp is stable at order 6, so PETSc's half step of backward Euler decides: order 2."""
    assert abs(measured_order("bdf6", (80, 160, 320)) - 2) <= 0.3


def test_the_order_is_lost_without_the_ramp() -> None:
    """The ramp is needed: the same steps without it lose the order (they are given as recorded ones)."""
    from stiffml import Recorded

    t = torch.linspace(0, 2, 3, dtype=torch.float64)
    exact = torch.stack([known(time) for time in t])
    errors = []
    for count in (40, 80):
        even = np.arange(1, count + 1) / count
        y = solve(forced, known(t[0]), t, method="bdf4", steps=Recorded((even, even))).y
        errors.append((y - exact).abs().max().item())
    assert np.log2(errors[0] / errors[1]) < 2.5


def test_ramp_is_reported() -> None:
    t = times(0, 1)
    assert solve(forced, known(t[0]), t, method="bdf4", steps=Fixed(0.05)).stats.ramp_steps > 0
    assert solve(forced, known(t[0]), t, method="bdf2", steps=Fixed(0.05)).stats.ramp_steps == 0


# Absolute tolerances far below the components' final sizes, so that relative errors mean something.
ATOL = {"robertson": 1e-8, "vanderpol": 1e-2}


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("name", ["robertson", "vanderpol"])
def test_published_end_values(name: str, rtol: float) -> None:
    problem = problems.load(name)
    reference = problem.references[0]
    t = times(problem.t_span[0], reference.t)
    atol = torch.from_numpy(problem.scale) * rtol * ATOL[name]
    with torch.no_grad():
        y = solve(problem.func(), problem.initial_state(), t, rtol=rtol, atol=atol).y
    error = np.abs(y[-1].numpy() / reference.y - 1).max()
    assert error <= 100 * rtol, f"{name}: relative error {error / rtol:.0f} rtol at t = {reference.t:g}"
