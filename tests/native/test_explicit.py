"""Explicit steps by stiffml itself: those that PETSc takes, and no call of func but those of stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods import ADAPTIVE_EXPLICIT, EXPLICIT
from small_problems import SmallNetwork, times
from torch import Tensor, nn

from stiffml import METHODS, Adaptive, Discrete, Grid, Solution, Status, solve
from stiffml.interface import steppers
from stiffml.petsc.stepper import PETScStepper

BY_PETSC = [name for name in EXPLICIT if METHODS[name].in_petsc]
ADAPTIVE_BY_PETSC = [name for name in ADAPTIVE_EXPLICIT if METHODS[name].in_petsc]


@pytest.fixture
def by_petsc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steppers.STEPPERS, "explicit", PETScStepper)


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([b, 5 * ((1 - a**2) * b - a) + torch.sin(3 * t)], -1)


@pytest.mark.parametrize("name", BY_PETSC)
def test_given_steps_are_petscs(
    name: str, network: SmallNetwork, start: Tensor, request: pytest.FixtureRequest
) -> None:
    t = times(0, 0.3, 1.0)
    found = solve(network, start, t, method=name, steps=Grid(6))
    request.getfixturevalue("by_petsc")
    expected = solve(network, start, t, method=name, steps=Grid(6))
    off = float((found.y - expected.y).detach().abs().max())
    assert off <= 1e-11, f"{name}: states differ by {off:.1e}; look at native/explicit.py"


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("rtol", [1e-3, 1e-7])
@pytest.mark.parametrize("name", ADAPTIVE_BY_PETSC)
def test_adaptive_steps_are_petscs(
    name: str, rtol: float, direction: int, request: pytest.FixtureRequest
) -> None:
    """Their sizes, and which are rejected, of a problem with fast and slow parts."""

    def run() -> Solution:
        t = direction * times(0, 1, 4)
        return solve(
            lambda t, y: direction * oscillator(direction * t, y), times(2, 0), t, method=name, rtol=rtol
        )

    found = run()
    request.getfixturevalue("by_petsc")
    expected = run()
    assert expected.stats.rejected > 0
    assert found.stats.accepted == expected.stats.accepted
    assert found.stats.rejected == expected.stats.rejected
    ends = [np.concatenate(solution.steps.ends) for solution in (found, expected)]
    # High orders see hardly more than rounding in the short step that lands on an output.
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-7 if METHODS[name].order < 7 else 1e-3)
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-2 * rtol)


@pytest.mark.parametrize("name", ADAPTIVE_EXPLICIT)
def test_options_are_petscs(name: str) -> None:
    """Then PETSc takes the steps."""
    plain = solve(oscillator, times(2, 0), times(0, 4), method=name, rtol=1e-5)
    given = {"method": name, "rtol": 1e-5, "options": {"ts_adapt_safety": 0.4}}
    if not METHODS[name].in_petsc:
        with pytest.raises(ValueError, match=rf"options: ts_adapt_safety .*{name}.* not taken by PETSc"):
            solve(oscillator, times(2, 0), times(0, 4), **given)
        return
    short = solve(oscillator, times(2, 0), times(0, 4), **given)
    assert short.stats.accepted > plain.stats.accepted


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(20, 20, dtype=torch.float64)
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.net(y))


@pytest.mark.parametrize("name", EXPLICIT)
def test_a_training_hardly_calls_func_but_for_stages(name: str) -> None:
    """Two calls find its parameters and try it; four solves in five make no other trials."""
    func, y0, t = Wide(), torch.ones(3, 20, dtype=torch.float64), times(0, 1)
    counts = []
    for _ in range(10):
        func.calls = 0
        solution = solve(func, y0, t, method=name, steps=Grid(10))
        solution.y.sum().backward()
        counts.append(func.calls)
    tableau = METHODS[name].tableau.explicit  # type: ignore[attr-defined]
    stages = 10 * (tableau.stages - int(tableau.stiffly_accurate))
    assert sorted(counts)[7] <= stages + 2, f"{counts}: look at interface/checking.py, may_rely_on_trials"
    assert max(counts) <= stages + 14


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e200])
@pytest.mark.parametrize("name", EXPLICIT)
def test_no_step_is_kept_over_a_stage_that_is_not_finite(
    name: str, bad: float, request: pytest.FixtureRequest
) -> None:
    """As with PETSc's steps."""

    def run() -> Solution:
        def func(t: Tensor, y: Tensor) -> Tensor:
            return torch.where(t > 0.5, bad * torch.ones_like(y), -y)

        steps = Adaptive() if METHODS[name].adaptive else Grid(7)
        return solve(func, times(1, 2), times(0, 1), method=name, steps=steps, throw=False)

    found = run()
    if bad == 1e200 and not METHODS[name].adaptive:
        return  # large, but finite, and nothing tells that it is wrong
    assert found.status in (Status.NON_FINITE, Status.STEP_TOO_SMALL)
    if METHODS[name].in_petsc and not np.isfinite(bad):
        request.getfixturevalue("by_petsc")
        assert run().status is found.status


def test_graphs_are_not_kept_where_nothing_needs_them() -> None:
    func = Wide()
    y0 = torch.ones(3, 20, dtype=torch.float64)
    with torch.no_grad():
        solution = solve(func, y0, times(0, 1), method="rk4", steps=Grid(10))
    assert solution.pieces[0].tape.run.kept is None
    for kept in (Discrete("solutions"), Discrete(graphs=0), Discrete(3)):
        solution = solve(func, y0, times(0, 1), method="rk4", steps=Grid(10), adjoint=kept)
        assert solution.pieces[0].tape.run.kept is None
