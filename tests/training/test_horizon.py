"""How a growing horizon goes on: the trajectory of a rung is the one before, continued."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods import NEWTON_WHOLE
from torch import nn

from stiffml import Grid
from stiffml.methods import resolve
from stiffml.training import GrowingHorizon, LevenbergMarquardt, Run, Runs, fit
from stiffml.training.lm.intervals import Interval, up_to, whole
from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.lm.one_by_one import OneByOne
from stiffml.training.lm.residuals import Residuals, rearranged
from stiffml.training.lm.together import Together

RATE = 1e2
LOOK_AT = "look at Together.assembled in stiffml/training/lm/together.py"


class Switch(nn.Module):
    """dy/dt = k (y − y³ + sin t): from y = −1 it jumps to the upper branch at sin t = 0.38, and stays there.

    Before and long after the jump the steps have solutions on both branches.
    """

    def __init__(self, k: float = RATE) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(np.log(k)).double())

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.log.exp() * (y - y**3 + torch.sin(t))


TIMES = np.concatenate([[0.0, 0.1, 0.2, 0.3], np.linspace(0.5, 2.9, 7)])
RUNS = Runs([Run("a", TIMES, np.full((len(TIMES), 1), -1.0))], ["y"], initial="known")


def residuals_of(method: str) -> Residuals:
    return Residuals(Switch(), RUNS, np.ones(1), {"method": method, "steps": Grid(20)})


@pytest.mark.parametrize("method", ["sdirk3", "beuler", "dirk-es213sal"])
def test_a_longer_horizon_keeps_the_trajectory(method: str) -> None:
    """The jump is beyond the first horizon; from a constant guess the iteration does not reach it."""
    residuals = residuals_of(method)
    theta = residuals.vector.read()
    old, new = up_to(RUNS, 3), up_to(RUNS, 20)
    before = residuals.of(old).begin(theta, None)
    paths = rearranged(old, before.paths, new, residuals)
    assert paths is not None
    assert paths[0][0][-1] == TIMES[3], "nothing is made up beyond the first horizon"
    problem = residuals.of(new)
    with pytest.raises(TrialError):
        problem._evaluate(theta, paths)
    found = problem.begin(theta, paths).solved.outputs[0]
    alone = residuals_of(method)
    alone.engine = OneByOne(alone.arguments, alone.vector.parameters)
    expected = alone.of(new).begin(theta, None).solved.outputs[0]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found[3, 0] < -0.7
    assert found[-1, 0] > 1


@pytest.mark.parametrize("method", NEWTON_WHOLE)
def test_a_neighbour_begins_from_states_and_stages(method: str) -> None:
    """At the very same parameters the first update is below the tolerance; half steps take one more."""
    residuals = residuals_of(method)
    problem, theta = residuals.of(up_to(RUNS, 3)), residuals.vector.read()
    point = problem.begin(theta, None)
    assert problem.evaluate(theta, point).solved.iterations <= 1 + resolve(method).starts_with_half_step


@pytest.mark.parametrize("method", [m for m in NEWTON_WHOLE if m != "dirk-s212"])  # it has to cut a step
def test_what_steps_found_one_by_one_is_a_guess_with_stages(method: str, monkeypatch) -> None:
    """Where no other guess leads to the trajectories, nothing but the last update is left to do."""
    runs = Runs([RUNS[0], Run("b", TIMES[:6], np.full((6, 1), -1.1))], ["y"], initial="known")
    residuals = Residuals(Switch(), runs, np.ones(1), {"method": method, "steps": Grid(20)})
    solve = Together.solve

    def only_from_stages(engine, groups, starts, paths, near=None):
        if near is None:
            raise FloatingPointError("no guess without stages leads anywhere")
        return solve(engine, groups, starts, paths, near)

    monkeypatch.setattr(Together, "solve", only_from_stages)
    found = residuals.of(whole(runs)).begin(residuals.vector.read(), None).solved
    # What a step's iteration leaves, some 1e-6, grows a hundredfold across the jump: 1e-4, 1e-8, 1e-16.
    assert found.iterations <= 4, LOOK_AT
    monkeypatch.setattr(Together, "solve", solve)
    expected = [residuals.of((i,)).begin(residuals.vector.read(), None) for i in whole(runs)]
    for own, alone in zip(found.outputs, expected, strict=True):
        np.testing.assert_allclose(own, alone.solved.outputs[0], atol=1e-7, err_msg=LOOK_AT)


def test_steps_that_were_cut_are_no_solution_of_the_steps_asked_for() -> None:
    residuals = residuals_of("dirk-s212")
    problem = residuals.of(whole(RUNS))
    cut = problem._step_by_step(problem.intervals[0], problem._times[0], np.array([-1.0]))
    assert cut.stats.accepted > 20 * (len(TIMES) - 1), "this step exists: take another method"
    assert residuals.engine.assembled(problem._groups, [cut]) is None


def test_a_horizon_ends_where_something_is_observed() -> None:
    values = np.full((9, 1), np.nan)
    values[[0, 2, 3, 6]] = 1.0
    runs = Runs([Run("gaps", np.arange(9.0), values), RUNS[0]], ["y"], initial="known")
    assert up_to(runs, 2) == (Interval(0, 0, 3), Interval(1, 0, 2))
    assert up_to(runs, 3) == (Interval(0, 0, 8), Interval(1, 0, 3)), "the rows after the last belong to it"
    rungs = GrowingHorizon(4).rungs(runs)
    assert [rung.name for rung in rungs] == ["the first 4", "the first 8", "whole"]


def test_a_rate_is_found_across_the_jump() -> None:
    """From a rate of a tenth, with which the jump is later; every second row is without observations."""
    times = np.linspace(0.0, 1.2, 13)
    rows = Runs([Run("a", times, np.full((13, 1), -1.0))], ["y"], initial="known")
    truth = Residuals(Switch(20.0), rows, np.ones(1), {"method": "sdirk3", "steps": Grid(4)})
    values = truth.of(up_to(rows, 20)).begin(truth.vector.read(), None).solved.outputs[0]
    values[1::2] = np.nan
    runs = Runs([Run("a", times, values)], ["y"], initial="known")
    settings = LevenbergMarquardt(ridge=1e-6)
    result = fit(
        Switch(2.0), runs, strategy=GrowingHorizon(), steps=Grid(4), scale=1.0, levenberg_marquardt=settings
    )
    assert result.model.log.item() == pytest.approx(np.log(20.0), abs=1e-4)
    assert not [failure for failure in result.failures if failure.iteration == 0]
