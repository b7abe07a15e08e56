"""Outputs of explicit methods by default: between steps, as accurate as these, with exact gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gradients import compare
from methods import ADAPTIVE_EXPLICIT
from small_problems import SmallNetwork, times
from torch import Tensor

import stiffml
from stiffml import METHODS, Adaptive, Fixed, Grid, KeptSteps, Solution, solve

INTERPOLATING = [name for name, method in METHODS.items() if method.interpolates_outputs]


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([b, 2 * (1 - a**2) * b - a], -1)


def predator(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([a * (1.5 - b), b * (a - 3)], -1)


def forced(t: Tensor, y: Tensor) -> Tensor:
    return -(y**2) * torch.cos(3 * t) + torch.sin(t)


PROBLEMS = {
    "oscillator": (oscillator, times(2, 0), 10.0),
    "predator": (predator, times(2, 1), 6.0),
    "forced": (forced, times(0.5), 8.0),
}


def test_which_methods_do() -> None:
    """Those that adapt their steps, and whose own interpolant has their order or one less."""
    assert set(INTERPOLATING) == {"bosh3", "dopri5", "tsit5"}
    assert set(INTERPOLATING) < set(ADAPTIVE_EXPLICIT)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", INTERPOLATING)
def test_outputs_are_as_accurate_as_steps(name: str, problem: str, rtol: float) -> None:
    func, y0, end = PROBLEMS[problem]
    t = torch.linspace(0, end, 200, dtype=torch.float64)
    found = solve(func, y0, t, method=name, rtol=rtol, atol=1e-2 * rtol)
    (fractions,) = found.steps.ends
    steps = torch.cat([times(0), end * torch.from_numpy(fractions)])
    at_ends = solve(func, y0, steps, method=name, steps=found.steps, outputs="interpolate")
    exact = [
        solve(func, y0, at, method="dopri5", rtol=1e-12, atol=1e-13, outputs="steps").y for at in (t, steps)
    ]
    off = float((found.y - exact[0]).abs().max())
    of_steps = float((at_ends.y - exact[1]).abs().max())
    # At most 2.2 in these, and usually 1: the largest error is mostly that of the last steps. Those of tsit5
    # are more accurate than those of dopri5, its interpolant is not: at most 3.3.
    assert off <= (3.5 if name == "tsit5" else 2.3) * of_steps, (
        f"{off / of_steps:.2f} times the error of steps; look at methods/rk.py"
    )


@pytest.mark.parametrize("name", INTERPOLATING)
def test_outputs_cost_no_steps(name: str) -> None:
    calls = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        calls.append(None)
        return oscillator(t, y)

    counts = []
    with torch.no_grad():
        for number in (2, 500):
            calls.clear()
            t = torch.linspace(0, 10, number, dtype=torch.float64)
            solution = solve(func, times(2, 0), t, method=name, rtol=1e-5)
            counts.append((solution.stats.accepted, len(calls)))
    assert counts[0] == counts[1], f"{counts}: look at Stepper.columns"


WAYS: dict[str, dict] = {
    "plain": {},
    "breakpoints": {"breakpoints": [0.41, 1.13]},
    "through": {"through": [0.41]},
    "bounds": {"bounds": (-50.0, 50.0)},
    "reversed": {},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", INTERPOLATING)
def test_gradients(name: str, way: str, network: SmallNetwork, start: Tensor) -> None:
    """By y0, parameters and t against differences of the same steps, which recorded ones repeat."""
    y0, t = start.clone().requires_grad_(), times(0, 0.11, 0.36, 0.5, 0.93, 1.2, 1.7)
    t = (t.flip(0) if way == "reversed" else t).requires_grad_()
    taken = solve(network, y0, t, method=name, rtol=1e-2, atol=1e-3, **WAYS[way])
    assert len(taken.steps.ends) < len(t) - 1, "else steps end on outputs"
    every = {"y0": [y0], "parameters": list(network.parameters()), "t": [t]}
    flat = [tensor for inputs in every.values() for tensor in inputs]
    found = dict(zip(map(id, flat), torch.autograd.grad(taken.y.square().sum(), flat), strict=True))

    def loss() -> Tensor:
        return solve(network, y0, t, method=name, steps=taken.steps, **WAYS[way]).y.square().sum()

    for name_of, inputs in every.items():
        error, rate = compare(loss, inputs, [found[id(tensor)] for tensor in inputs], 1e-3)
        assert error <= 1e-6, f"dL/d{name_of} is off by {error:.1e}; look at gradients/explicit.py"
        # An output that moves past the end of a step leaves a remainder that is not smooth.
        assert rate >= 1.9 or error <= 1e-8, f"{name_of} has Taylor rate {rate:.2f}"


@pytest.mark.parametrize("name", INTERPOLATING)
def test_an_event_and_the_outputs_before_it(name: str, network: SmallNetwork, start: Tensor) -> None:
    """Against the solve without the event, whose steps are the same up to there."""
    y0, t = start.clone().requires_grad_(), torch.linspace(0, 1.7, 30, dtype=torch.float64)
    found = solve(network, y0, t, method=name, rtol=1e-5, event=lambda t, y: t - 1.23 + 0.01 * y.sum())
    whole = solve(network, y0, t, method=name, rtol=1e-5)
    count = len(found.t)
    assert 15 < count < 29
    torch.testing.assert_close(found.y, whole.y[:count], rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), y0)[0] for y in (found.y, whole.y[:count])]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_other_steps_and_methods_end_on_outputs() -> None:
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    for arguments in (
        {"method": "dopri5", "steps": Grid(2)},
        {"method": "dopri5", "steps": Fixed(0.1)},
        {"method": "bdf"},
        {"method": "dopri5", "outputs": "steps"},
    ):
        solution = solve(oscillator, times(2, 0), t, **arguments)
        assert len(solution.steps.ends) == 6, f"{arguments}"


@pytest.mark.parametrize("outputs", ["auto", "steps", "interpolate"])
def test_recorded_steps_are_repeated_as_they_were_taken(outputs: str) -> None:
    t = torch.linspace(0, 3, 9, dtype=torch.float64)
    for arguments in ({}, {"breakpoints": [0.5, 2.2]}, {"through": [1.3]}):
        taken = solve(oscillator, times(2, 0), t, method="dopri5", rtol=1e-4, outputs=outputs, **arguments)
        again = solve(oscillator, times(2, 0), t, method="dopri5", steps=taken.steps, **arguments)
        torch.testing.assert_close(again.y, taken.y, rtol=1e-13, atol=1e-13)


def test_kept_steps() -> None:
    t = torch.linspace(0, 3, 9, dtype=torch.float64)
    kept = KeptSteps(Adaptive())
    solutions: list[Solution] = [
        solve(oscillator, times(2, 0), t, method="dopri5", rtol=1e-4, steps=kept) for _ in range(3)
    ]
    for solution in solutions:
        assert len(solution.steps.ends) == 1
        np.testing.assert_allclose(solution.y, solutions[0].y, rtol=1e-12, atol=1e-12)


def test_odeint_and_a_block_do_the_same() -> None:
    t = torch.linspace(0, 3, 9, dtype=torch.float64)
    y = solve(oscillator, times(2, 0), t, method="dopri5").y
    assert torch.equal(stiffml.odeint(oscillator, times(2, 0), t, method="dopri5"), y)
    assert torch.equal(stiffml.ODEBlock(oscillator, t, method="dopri5")(times(2, 0)), y)
