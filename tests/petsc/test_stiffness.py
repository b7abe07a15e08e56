"""Explicit methods notice that a problem is stiff, and only then."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from methods import ADAPTIVE_EXPLICIT
from torch import Tensor

import problems
from stiffml import Adaptive, Solution, SolveError, Status, solve

D = torch.float64
Func = Callable[[Tensor, Tensor], Tensor]


def vanderpol(t: Tensor, y: Tensor) -> Tensor:
    position, velocity = y.unbind(-1)
    return torch.stack([velocity, 1e3 * (1 - position**2) * velocity - position], -1)


def lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def lotka_volterra(t: Tensor, y: Tensor) -> Tensor:
    prey, hunters = y.unbind(-1)
    return torch.stack([prey * (1.1 - 0.4 * hunters), hunters * (0.1 * prey - 0.4)], -1)


def kepler(t: Tensor, y: Tensor) -> Tensor:
    place, velocity = y.split(2, -1)
    return torch.cat([velocity, -place * (place**2).sum(-1, keepdim=True) ** -1.5], -1)


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def damped(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -100 * y[..., 0] - y[..., 1]], -1)


def forced(t: Tensor, y: Tensor) -> Tensor:
    return torch.cos(7 * t) - 0.01 * y


def arenstorf(t: Tensor, y: Tensor) -> Tensor:
    mu, nu = 0.012277471, 1 - 0.012277471
    x, v, dx, dv = y.unbind(-1)
    near, far = ((x + mu) ** 2 + v**2) ** 1.5, ((x - nu) ** 2 + v**2) ** 1.5
    ax = x + 2 * dv - nu * (x + mu) / near - mu * (x - nu) / far
    return torch.stack([dx, dv, ax, v - 2 * dx - nu * v / near - mu * v / far], -1)


NOT_STIFF: dict[str, tuple[Func, list[float]]] = {
    "lorenz": (lorenz, [1, 1, 1]),
    "lotka-volterra": (lotka_volterra, [10, 10]),
    "kepler": (kepler, [0.1, 0, 0, math.sqrt(19)]),
    "oscillator": (oscillator, [1, 0]),
    "forced": (forced, [0]),
    "arenstorf": (arenstorf, [0.994, 0, 0, -2.00158510637908252]),
}


FLUNG_OUT = ("arenstorf", 1e-3, "tsit5")
"""To a distance of 26, where its equations are nearly linear, with a matrix that is not normal: ‖J‖ is twice
its spectral radius, and up to five times in the norm of the tolerances."""


def run(func: Func, y0: list[float] | Tensor, end: float, method: str, **arguments) -> Solution:
    return solve(
        func,
        torch.as_tensor(y0, dtype=D),
        torch.tensor([0, end], dtype=D),
        method=method,
        throw=False,
        **arguments,
    )


@pytest.mark.parametrize("method", ADAPTIVE_EXPLICIT)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("name", ["robertson", "vanderpol", "hires"])
def test_stiff_problems_end_soon(name: str, rtol: float, method: str) -> None:
    if name == "vanderpol":
        solution = run(vanderpol, [2.0, 0.0], 2000.0, method, rtol=rtol)
    else:
        problem = problems.load(name)
        solution = run(problem.func(), problem.initial_state(), problem.t_span[1], method, rtol=rtol)
    assert solution.status is Status.STIFF, (
        f"it ended with {solution.status} after {solution.stats.accepted} steps; look at petsc/stiffness.py"
    )
    assert solution.stats.accepted < 2000
    assert "method='bdf'" in solution.message
    assert "stop_if_stiff=False" in solution.message


@pytest.mark.parametrize("method", ADAPTIVE_EXPLICIT)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("name", NOT_STIFF)
def test_no_alarm_without_stiffness(name: str, rtol: float, method: str) -> None:
    """However long the run is going to be."""
    if (name, rtol, method) == FLUNG_OUT:
        pytest.skip("the orbit is lost, and far away the test of stiffness is wrong about a rotating frame")
    func, y0 = NOT_STIFF[name]
    solution = run(func, y0, 1e7, method, rtol=rtol, steps=Adaptive(max_steps=600))
    # With so loose a tolerance an orbit may open, whose steps then become ever longer.
    assert solution.status in (Status.MAX_STEPS, Status.SUCCESS), f"ended with {solution.message}"


@pytest.mark.parametrize("method", ADAPTIVE_EXPLICIT)
@pytest.mark.parametrize(
    ("func", "y0", "end"), [(lambda t, y: -y, [1.0], 300.0), (damped, [1.0, 0.0], 100.0)]
)
def test_no_alarm_where_stability_costs_little(func: Func, y0: list[float], end: float, method: str) -> None:
    """A solution that has died out leaves only stability to limit steps, of which few are to come."""
    solution = run(func, y0, end, method, rtol=1e-3)
    assert solution.success, solution.message


@pytest.mark.parametrize("method", ADAPTIVE_EXPLICIT)
def test_goes_on_where_asked_to(method: str) -> None:
    steps = Adaptive(max_steps=300, stop_if_stiff=False)
    assert run(vanderpol, [2.0, 0.0], 2000.0, method, rtol=1e-3, steps=steps).status is Status.MAX_STEPS


def test_takes_no_calls_of_func() -> None:
    counts = [
        run(oscillator, [1.0, 0.0], 20.0, "dopri5", steps=Adaptive(stop_if_stiff=stop)).stats.rhs_evals
        for stop in (True, False)
    ]
    assert counts[0] == counts[1]


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(SolveError, match=r"stiff for this explicit method.*Try: method='bdf'") as caught:
        solve(vanderpol, torch.tensor([2.0, 0.0], dtype=D), torch.tensor([0, 2e3], dtype=D), method="dopri5")
    assert caught.value.status is Status.STIFF
    assert caught.value.solution is not None
