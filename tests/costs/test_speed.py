"""What the main job costs, in counts that are the same on every processor; times are in benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

import stiffml
from stiffml import Grid, solve
from stiffml.all_at_once import topology
from stiffml.experiments.robertson import Network, error_of, observations

CALLS_AT_ONCE, CALLS_BACK, CALLS_ONE_BY_ONE = 970, 400, 6600
"""Python calls of the package, a tenth more than were counted."""

PACKAGE = str(Path(stiffml.__file__).parent)


@pytest.fixture
def func_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many states each call of the network had."""
    sizes: list[int] = []
    forward = Network.forward

    def counting(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes.append(y[..., 0].numel())
        return forward(self, t, y)

    monkeypatch.setattr(Network, "forward", counting)
    return sizes


def python_calls(work: Callable[[], object]) -> int:
    """Calls of Python functions of the package: what the interpreter adds to the arithmetic."""
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_a_training_iteration_of_the_robertson_fit(func_calls: list[int]) -> None:
    """40 steps of Crank-Nicolson as the unknowns of one Newton iteration."""
    data, network = observations(), Network(0)

    def forward(**arguments) -> None:
        nonlocal solution
        solution = solve(network, data.scaled[0], data.times, method="cn", steps=Grid(), **arguments)

    solution = solve(network, data.scaled[0], data.times, method="cn", steps=Grid())
    forward()
    error_of(solution, data).backward()  # what is found out once
    func_calls.clear()
    interpreted = python_calls(forward)
    stats = solution.stats
    assert stats.at_once == stats.accepted == 40
    assert stats.newton_iterations <= 9, f"{stats}: look at solve in all_at_once/newton.py"
    assert len(func_calls) <= 10, f"{len(func_calls)} calls: look at ManySteps.update and what solve tries"
    assert interpreted <= CALLS_AT_ONCE, f"{interpreted} Python calls: look at all_at_once/ and Drive"
    topology._KNOWN.clear()  # as many other solves do; the run has its own equations
    func_calls.clear()
    interpreted = python_calls(lambda: error_of(solution, data).backward())
    assert len(func_calls) <= 1, f"{len(func_calls)} calls: look at reverse, and at SameFunc.compare"
    assert sum(func_calls) <= 41, f"func at {sum(func_calls)} states: look at reverse"
    assert interpreted <= CALLS_BACK, f"{interpreted} Python calls: look at gradients/transposed.py"
    found = solution
    forward(guess=found)
    assert solution.stats.newton_iterations <= 2, f"{solution.stats}: look at planning.py"


def test_steps_one_by_one(func_calls: list[int]) -> None:
    """The same by PETSc took 97 Newton iterations, 146 calls of func."""
    data, network = observations(), Network(0)

    def forward() -> None:
        nonlocal solution
        solution = solve(
            network, data.scaled[0], data.times, method="cn", steps=Grid(), stepping="sequential"
        )

    solution = solve(network, data.scaled[0], data.times, method="cn", steps=Grid())
    error_of(solution, data).backward()  # what is found out once
    func_calls.clear()
    interpreted = python_calls(forward)
    stats = solution.stats
    assert stats.accepted == 40
    assert stats.newton_iterations <= 105, f"{stats}: look at SNESTest and the first guesses of steps"
    assert stats.jacobians <= stats.newton_iterations, f"{stats}: look at Callbacks.ifunction"
    assert stats.rhs_evals <= stats.newton_iterations + 50, f"{stats}: look at Dynamics.evaluate"
    assert len(func_calls) <= 170, f"{len(func_calls)} calls: look at Dynamics.evaluate and what solve tries"
    assert interpreted <= CALLS_ONE_BY_ONE, f"{interpreted} Python calls: look at Callbacks and Stepper"
