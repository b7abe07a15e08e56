"""Residuals of runs and intervals, and their Jacobian, against runs solved one by one and differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decays import COMPONENTS, Chain, Rising, chain_runs, exact
from methods import NEWTON_WHOLE

from stiffml import Adaptive, Grid, Newton
from stiffml.training import GrowingHorizon, MultipleShooting, Run, Runs, Whole
from stiffml.training.lm import step_by_step as step_by_step_module
from stiffml.training.lm.intervals import Interval, shot, whole
from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.lm.one_by_one import OneByOne
from stiffml.training.lm.residuals import Residuals, rearranged
from stiffml.training.lm.step_by_step import step_by_step

SCALE = np.array([0.5, 2e-3])
LOOK_AT = "look at stiffml/training/lm/together.py"


def residuals_of(runs: Runs, together: bool = True, **more: Any) -> Residuals:
    arguments = {"method": "sdirk3", "steps": Grid(2), "newton": Newton(rtol=1e-11), **more}
    found = Residuals(Chain(2.0, 300.0), runs, SCALE, arguments)
    assert found.together, "these are known steps of a small system"
    if not together:
        found.engine = OneByOne(found.arguments, found.vector.parameters)
    return found


@pytest.mark.parametrize("method", NEWTON_WHOLE)
@pytest.mark.parametrize("length", [2, 100])
def test_all_at_once_is_one_by_one(method: str, length: int) -> None:
    """Intervals of runs at times of their own, with gaps and a learned initial value."""
    runs = chain_runs().with_initial({"A": "learned"})
    points = []
    for together in (True, False):
        residuals = residuals_of(runs, together, method=method)
        theta = residuals.vector.read()
        points.append(residuals.of(shot(runs, length)).begin(theta, None))
    found, expected = points
    np.testing.assert_allclose(found.residuals, expected.residuals, atol=1e-9, err_msg=LOOK_AT)
    size = np.abs(expected.jacobian()).max()
    np.testing.assert_allclose(found.jacobian(), expected.jacobian(), atol=1e-8 * size, err_msg=LOOK_AT)


@pytest.mark.parametrize(
    "steps", [{"method": "cn", "steps": Grid(3)}, {"method": "bdf", "steps": Adaptive(), "rtol": 1e-9}]
)
def test_jacobian_is_that_of_differences(steps: dict) -> None:
    runs = chain_runs().with_initial({"B": "learned"})
    residuals = Residuals(Chain(2.0, 300.0), runs, SCALE, {**steps, "newton": Newton(rtol=1e-12)})
    problem, theta = residuals.of(whole(runs)), residuals.vector.read()
    found = problem.begin(theta, None).jacobian()
    # Adaptive steps differ between solves by their tolerance.
    h, close = (1e-3, 2e-4) if isinstance(steps["steps"], Adaptive) else (1e-5, 1e-7)
    for i, column in enumerate(found.T):
        change = h * np.eye(len(theta))[i]
        ahead, behind = (problem.begin(theta + s * change, None).residuals for s in (1, -1))
        np.testing.assert_allclose(
            column, (ahead - behind) / (2 * h), atol=close * np.abs(found).max(), err_msg=f"column {i}"
        )


def test_what_counts() -> None:
    """Known first rows do not count, nor do gaps; learned ones do; weights are those of squares."""
    runs = chain_runs()
    residuals = residuals_of(runs)
    theta = residuals.vector.read()
    assert len(residuals.of(whole(runs)).begin(theta, None).residuals) == 2 * 12 + 2 * 9 - 2
    learned = runs.with_initial({"A": "learned"})
    assert len(residuals_of(learned).of(whole(runs)).begin(np.append(theta, [1, 2]), None).residuals) == 42
    weights = np.ones((13, 2))
    weights[3], weights[4] = 4.0, 0.0
    run = Run("a", runs[0].times, runs[0].values, weights=weights)
    weighted = residuals_of(Runs([run], COMPONENTS, initial="known"))
    r = weighted.of([Interval(0, 0, 12)]).begin(theta, None).residuals
    plain = residuals_of(runs[:1]).of([Interval(0, 0, 12)]).begin(theta, None).residuals.reshape(12, 2)
    np.testing.assert_allclose(
        r, np.concatenate([plain[:2], 2 * plain[2:3], plain[4:]]).ravel(), rtol=1e-9, atol=1e-12
    )


def test_residuals_vanish_at_the_truth() -> None:
    runs = chain_runs()
    residuals = Residuals(Chain(4.0, 900.0), runs, SCALE, {"method": "sdirk3", "steps": Grid(60)})
    theta = residuals.vector.read()
    for intervals in (whole(runs), shot(runs, 3)[:2]):
        assert np.abs(residuals.of(intervals).begin(theta, None).residuals).max() < 1e-4


def test_a_kept_point_is_the_same_bit_by_bit() -> None:
    for method in ("bdf3", "sdirk3", "cn"):
        runs = chain_runs()
        residuals = residuals_of(runs, method=method)
        problem = residuals.of(shot(runs, 4))
        point = problem.begin(residuals.vector.read(), None)
        near = problem.evaluate(residuals.vector.read() + 0.1, point)
        again = problem.restored(problem.kept(near))
        problem.evaluate(residuals.vector.read() - 0.3, near)
        np.testing.assert_array_equal(near.residuals, again.residuals)
        np.testing.assert_array_equal(near.jacobian(), again.jacobian(), err_msg=f"{method}; {LOOK_AT}")


def test_a_failure_says_which_run_and_when() -> None:
    class Exploding(Chain):
        def forward(self, t, y):
            return super().forward(t, y) + (y > 1.5) * y**2 * 1e3

    runs = chain_runs()
    residuals = Residuals(Exploding(), runs, SCALE, {"method": "cn", "steps": Grid()})
    with pytest.raises(TrialError, match="run b") as caught:
        residuals.of(whole(runs)).begin(residuals.vector.read(), None)
    assert caught.value.run == "b"
    assert caught.value.t < 0.1


def test_nothing_that_is_not_finite_reaches_the_weights() -> None:
    runs = chain_runs()
    residuals = residuals_of(runs)
    problem, theta = residuals.of(whole(runs)), residuals.vector.read()
    point = problem.begin(theta, None)
    with pytest.raises(TrialError, match="not finite"):
        problem.evaluate(theta * np.nan, point)
    np.testing.assert_array_equal(residuals.vector.read(), theta)


def test_paths_go_on_from_rung_to_rung() -> None:
    runs = chain_runs()
    residuals = residuals_of(runs, method="cn")
    old, new = shot(runs, 2), whole(runs)
    theta = residuals.vector.read()
    paths = residuals.of(old).begin(theta, None).paths
    found = rearranged(old, paths, new, residuals)
    assert found is not None
    for run, (times, states) in zip(runs, found, strict=True):
        assert times[0] == run.times[0]
        assert times[-1] == run.times[-1]
        assert (np.diff(times) > 0).all()
        assert np.isfinite(states).all()
    assert residuals.of(new).begin(theta, found).solved.iterations <= 3


def test_strategies_end_with_whole_runs() -> None:
    runs = chain_runs()
    for strategy in (Whole(), MultipleShooting(), GrowingHorizon(rows=5)):
        rungs = strategy.rungs(runs)
        assert rungs[-1].intervals == whole(runs)
        assert rungs[-1].iterations == strategy.last
    assert [rung.name for rung in MultipleShooting().rungs(runs)][:3] == [
        f"intervals of {k}" for k in (1, 2, 4)
    ]
    first = GrowingHorizon(rows=5).rungs(runs)[0]
    assert first.intervals == (Interval(0, 0, 5), Interval(1, 0, 5))
    every = {(i.run, row) for i in shot(runs, 4) for row in range(i.first, i.last)}
    assert every == {(0, r) for r in range(12)} | {(1, r) for r in range(9)}, (
        "no step is left out, none twice"
    )
    with pytest.raises(ValueError, match="increase"):
        MultipleShooting(lengths=(2, 1))


def test_exact_solution_is_that_of_the_model() -> None:
    """What the other tests compare with."""
    t = np.linspace(0, 0.5, 7)
    y, h = exact(t, 1.5, 0.2), 1e-6
    slope = (exact(t + h, 1.5, 0.2) - exact(t - h, 1.5, 0.2)) / (2 * h)
    expected = np.stack([-4 * y[:, 0], 4 * y[:, 0] - 900 * y[:, 1]], axis=1)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-5)


def test_a_beginning_is_given_up_where_steps_are_cut_again_and_again(monkeypatch) -> None:
    """y' = y² from 1 has no solution at t = 1; steps of the middle rule before it can be solved if cut."""
    model, start = Rising(0.0), np.ones(1)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    times = np.array([0.0, 0.5, 0.85])
    runs = Runs([Run("up", times, np.ones((3, 1)))], ["A"], initial="known")
    arguments = Residuals(model, runs, start, {"method": "cn", "steps": Grid(1)}).arguments
    found = step_by_step(arguments, times, start, 2)
    assert len(found.step_times) == 7, "one of two steps is cut into five"
    model.register_forward_hook(count)
    monkeypatch.setattr(step_by_step_module, "CUTS", 2)
    monkeypatch.setattr(step_by_step_module, "FEW", 0)
    with pytest.raises(TrialError, match="its steps were cut until they were 4 in place of 2") as caught:
        step_by_step(arguments, times, start, 2)
    assert 0.5 < caught.value.t < 0.85
    assert calls < 200, "it goes on beyond its number of steps"
