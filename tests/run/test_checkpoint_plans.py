"""Few checkpoints for many steps: how many steps are taken again, and how much is asked of the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from checkpoint_schedules import Forward, Revolve
from small_problems import times
from torch import nn

from stiffml import METHODS, Discrete, Grid, Newton, solve
from stiffml.native.replay import Replay
from stiffml.run import thinned
from stiffml.run.thinned import Thinned


@pytest.fixture
def taken_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of steps that are taken again, in order."""
    numbers: list[int] = []
    step = Replay.step

    def counting(self, n: int, *arguments, **named):
        numbers.append(n)
        return step(self, n, *arguments, **named)

    monkeypatch.setattr(Replay, "step", counting)
    return numbers


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was asked of schedules."""
    seen: list[object] = []
    schedule = thinned._schedule

    def counting(steps: int, slots: int) -> Iterator[object]:
        for action in schedule(steps, slots):
            seen.append(action)
            yield action

    monkeypatch.setattr(thinned, "_schedule", counting)
    return seen


def least(steps: int, slots: int) -> int:
    """Steps that must be taken again, by the dynamic programming of Revolve.

    Not counted are those that are taken to be differentiated, since it is known where they lead, and those of
    the run, all but the last.
    """
    total = sum(action.n1 - action.n0 for action in Revolve(steps, slots) if isinstance(action, Forward))
    return total - steps - (steps - 1)


@pytest.mark.parametrize(
    ("method", "kept"), [("rk4", 3), ("rk4", 7), ("cn", 5), ("bdf2", 8), ("bdf3", 9), ("bdf5", 20)]
)
def test_no_more_steps_than_the_best_schedule_needs(method: str, kept: int, taken_again: list[int]) -> None:
    """That a ramp adds steps is known beforehand, and part of the plan."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    solution = solve(
        lambda t, y: -y, y0, times(0, 1), method=method, steps=Grid(60), adjoint=Discrete(checkpoints=kept)
    )
    assert not taken_again
    solution.y[-1].sum().backward()
    steps = solution.stats.accepted
    most = least(steps, kept // METHODS[method].history)  # multistep formulas keep several states each time
    assert len(taken_again) <= most, f"{len(taken_again)} of {steps} steps, {most} would do; look at Thinned"


@pytest.mark.parametrize("kept", [2, 3, 6])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "dopri8"])
def test_explicit_steps_taken_again_evaluate_each_stage_once(
    method: str, kept: int, taken_again: list[int]
) -> None:
    """The stages of the steps of the run, bit for bit, and one more evaluation of each with its graph."""
    func = nn.Linear(40, 40, dtype=torch.float64)
    y0, ends, found = torch.linspace(-1, 1, 40, dtype=torch.float64).requires_grad_(), times(0, 1), []
    for checkpoints in ("solutions", kept):
        given = {"method": method, "steps": Grid(32), "adjoint": Discrete(checkpoints=checkpoints)}
        solution = solve(lambda t, y: torch.tanh(func(y)) * torch.cos(t), y0, ends, **given)
        found.append(torch.autograd.grad((solution.y[-1] ** 2).sum(), [y0, *func.parameters()]))
    stages = METHODS[method].butcher.stages - METHODS[method].butcher.stiffly_accurate
    assert len(taken_again) == least(32, kept)
    assert solution.stats.adjoint.rhs_evals == stages * (32 + len(taken_again))
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("steps", [100, 1000, 10_000])
def test_planning_looks_at_no_more_than_it_needs(steps: int, actions: list[object]) -> None:
    """Forwards as much as there are checkpoints; what planning costs is in benchmarks."""
    Thinned(20, 1, steps)
    assert len(actions) <= 20 + 3, f"{len(actions)} actions for {steps} steps: look at _positions"


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("expected", [None, 9, 100, 1000])
def test_snapshots_of_a_run_of_unknown_length(slots: int, expected: int | None) -> None:
    """Adaptive, or longer than planned: at any end what is left to do backwards is near the least."""
    store = Thinned(slots, 1, expected)
    for n in range(2000):
        store.append(np.array([float(n)]), None)
        kept = sorted(store._snapshots)
        assert len(kept) <= slots
        assert kept[0] == 0
        if n % 97 == 0 and n > (expected or 0):
            assert all(store._snapshots[m] == m for m in kept)
            gaps = zip(kept, [*kept[1:], n], strict=True)
            needed = sum(repetitions(end - begin, slots - i) for i, (begin, end) in enumerate(gaps))
            assert needed <= 1.4 * repetitions(n, slots) + 4 * n, (
                f"{needed} steps of {n} with {slots} slots, where Revolve needs {repetitions(n, slots)}; "
                "look at Thinned._thin"
            )


def repetitions(steps: int, slots: int) -> int:
    """Griewank & Walther, ACM Trans. Math. Softw. 26 (2000), proposition 1: steps that Revolve repeats."""
    if steps < 2:
        return 0
    reps = 0
    while math.comb(slots + reps, slots) < steps:
        reps += 1
    return reps * steps - math.comb(slots + reps, slots + 1)


@pytest.mark.parametrize(("method", "arguments"), [("cn", {"steps": Grid(40)}), ("bdf2", {"rtol": 1e-4})])
def test_steps_nobody_knew_of(method: str, arguments: dict, taken_again: list[int]) -> None:
    """Steps that Newton's iteration cuts, and adaptive ones."""

    def front(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -20 * torch.atan(20 * (y - torch.cos(4 * t))) - 0.1 * y

    y0 = torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)
    arguments = {"method": method, "newton": Newton(rtol=1e-12, atol=1e-14, max_iterations=5), **arguments}
    right = solve(front, y0, times(0, 1), **arguments)
    few = solve(front, y0, times(0, 1), **arguments, adjoint=Discrete(checkpoints=6))
    steps = right.stats.accepted
    assert steps > 60, "the case is meant to make Newton fail; make the front steeper"
    (expected,) = torch.autograd.grad(right.y[-1].sum(), y0)
    taken_again.clear()
    (found,) = torch.autograd.grad(few.y[-1].sum(), y0)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)
    slots = 6 // METHODS[method].history
    most = 1.4 * repetitions(steps, slots) + 4 * steps
    assert len(taken_again) <= most, f"{len(taken_again)} of {steps} steps; look at Thinned"
