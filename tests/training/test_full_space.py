"""States and parameters together: derivatives, the minimum with a large weight, interruptions, gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decays import Chain, Interrupt, chain_runs
from methods import NEWTON_WHOLE
from scipy.sparse.linalg import spsolve

from stiffml import Adaptive, Grid, Newton
from stiffml.training import FullSpace, LevenbergMarquardt, Whole, fit
from stiffml.training.lm.full_space import FullSpaceIteration, FullSpaceResiduals
from stiffml.training.lm.intervals import whole
from stiffml.training.lm.levenberg_marquardt import Iteration
from stiffml.training.lm.residuals import Residuals

SCALE = np.array([0.5, 2e-3])
LOOK_AT = "look at stiffml/training/lm/full_space.py and defects.py"


def problem_of(method: str, weight: float = 7.0) -> tuple[Residuals, FullSpaceResiduals]:
    """Two runs at times of their own, with gaps, and a learned initial value."""
    runs = chain_runs(noise=0.02).with_initial({"A": "learned"})
    arguments = {"method": method, "steps": Grid(2), "newton": Newton(rtol=1e-11)}
    residuals = Residuals(Chain(2.0, 300.0), runs, SCALE, arguments)
    return residuals, FullSpaceResiduals(residuals, whole(runs), weight)


@pytest.mark.parametrize("method", NEWTON_WHOLE)
def test_derivatives_are_those_of_differences(method: str) -> None:
    residuals, problem = problem_of(method)
    begun = problem.begin(residuals.vector.read(), None)
    shift = np.random.default_rng(0).standard_normal(len(begun.numbers))
    point = problem.evaluate(begun.numbers + 0.05 * shift, None)
    count, generator = len(residuals.vector), np.random.default_rng(1)
    misfit, defects = point.rows()
    # Rows are quadratic in few numbers and smooth: differences of order h² = 1e-10, rounding eps/h = 1e-11.
    h = 1e-5
    for _ in range(6):
        direction = generator.standard_normal(len(begun.numbers))
        ahead, behind = (problem.evaluate(point.numbers + s * h * direction, None) for s in (1, -1))
        for rows, name in ((misfit, "residuals"), (defects, "defects")):
            found = rows.by_theta @ direction[:count] + rows.by_x @ direction[count:]
            factor = 1.0 if name == "residuals" else np.sqrt(7.0)
            expected = factor * (getattr(ahead, name) - getattr(behind, name)) / (2 * h)
            size = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, atol=1e-7 * size, err_msg=f"{name}; {LOOK_AT}")


@pytest.mark.parametrize("method", NEWTON_WHOLE)
def test_defects_vanish_where_steps_hold(method: str) -> None:
    """With θ held, defects alone lead to the states that a solve finds."""
    residuals, problem = problem_of(method)
    theta = residuals.vector.read()
    solved = residuals.of(whole(residuals.runs)).begin(theta, None)
    point = problem.begin(theta, None)
    for _ in range(4):  # the rows are linear in x for this model, or nearly
        _, defects = point.rows()
        x = spsolve(defects.by_x.tocsc(), defects.residuals)
        point = problem.evaluate(np.concatenate([theta, point.numbers[len(theta) :] - x]), None)
    assert np.abs(point.defects).max() < 1e-9
    np.testing.assert_allclose(point.residuals, solved.residuals, atol=1e-7, err_msg=LOOK_AT)


def none_held(residuals: Residuals, size: int) -> Iteration:
    none, beyond = np.zeros(size), np.full(size, np.inf)
    return Iteration(LevenbergMarquardt(), none, none, -beyond, beyond)


def test_a_step_is_that_of_dense_normal_equations() -> None:
    residuals, problem = problem_of("sdirk3")
    theta = residuals.vector.read()
    point = problem.begin(theta, None)
    wide = FullSpaceIteration(none_held(residuals, len(theta)), problem.unknowns)
    system = wide._damped(point.numbers, point)
    rows = point.rows()
    matrix = np.concatenate([np.hstack([part.by_theta, part.by_x.toarray()]) for part in rows])
    right = np.concatenate([part.residuals for part in rows])
    square = matrix.T @ matrix
    diagonal = np.diag(square) + 1e-8 * np.trace(square) / len(square)
    for damping in (1e-6, 1e-2, 10.0):
        step, gain = system.step(damping)
        expected = np.linalg.solve(square + damping * np.diag(diagonal), -matrix.T @ right)
        np.testing.assert_allclose(step, expected, atol=1e-6 * np.abs(expected).max(), err_msg=LOOK_AT)
        left = right + matrix @ expected
        assert gain == pytest.approx(0.5 * (right @ right - left @ left), rel=1e-6)


@pytest.mark.parametrize("method", ["sdirk3", "cn", "bdf2"])
def test_it_ends_at_the_minimum_along_the_trajectory(method: str) -> None:
    runs = chain_runs(noise=0.02).with_initial({"A": "learned"})
    options: dict[str, Any] = {"method": method, "steps": Grid(2)}
    whole_runs = fit(Chain(3.0, 700.0), runs, strategy=Whole(last_tolerance=1e-12), **options)
    found = fit(Chain(0.3, 60.0), runs, strategy=FullSpace(last_tolerance=1e-12), **options)
    np.testing.assert_allclose(
        found.model.logs.detach(), whole_runs.model.logs.detach(), atol=1e-6, err_msg=LOOK_AT
    )
    np.testing.assert_allclose(found.initial["a"], whole_runs.initial["a"], atol=1e-6)
    # The last weight leaves nearly no defects: the last rung begins where it ends.
    rungs, costs = np.asarray(found.history["rung"]), np.asarray(found.history["cost"])
    assert costs[rungs == rungs.max()][0] == pytest.approx(costs[-1], rel=1e-5), LOOK_AT


def test_a_fit_that_was_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    def run(folder: Path, **more: Any):
        options = {"strategy": FullSpace((1.0, 100.0), iterations=5), "method": "sdirk3", "steps": Grid(2)}
        runs = chain_runs(noise=0.01, initial="learned")
        return fit(Chain(), runs, folder=folder, save_every=3, attempts=2, **options, **more)

    expected = run(tmp_path / "whole")
    for after in (4, 8, 5):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", resume=after != 4, report=Interrupt(after))
    resumed = run(tmp_path / "parts", resume=True)
    assert torch.equal(expected.model.logs, resumed.model.logs), "look at Climb.state_dict"
    for name in ("error", "cost", "damping"):
        np.testing.assert_array_equal(expected.history[name], resumed.history[name])
    np.testing.assert_array_equal(expected.initial["a"], resumed.initial["a"])


def test_bounds_and_priors_hold() -> None:
    runs = chain_runs(noise=0.02)
    options: dict[str, Any] = {
        "method": "sdirk3",
        "steps": Grid(2),
        "bounds": {"logs[0]": (0.0, 1.2)},
        "levenberg_marquardt": LevenbergMarquardt(ridge=0.05),
    }
    expected = fit(Chain(3.0, 700.0), runs, strategy=Whole(last_tolerance=1e-12), **options)
    found = fit(Chain(2.0, 60.0), runs, strategy=FullSpace(last_tolerance=1e-12), **options)
    assert found.model.logs[0].item() == 1.2
    np.testing.assert_allclose(found.model.logs.detach(), expected.model.logs.detach(), atol=1e-6)


def test_it_needs_known_steps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FullSpace needs known steps"):
        fit(
            Chain(), chain_runs(), strategy=FullSpace(), method="bdf", steps=Adaptive(), folder=tmp_path / "a"
        )
    assert not (tmp_path / "a").exists()
    for weights in ((), (2.0, 1.0), (1.0, 1.0), (-1.0,)):
        with pytest.raises(ValueError, match="weights"):
            FullSpace(weights)


def test_far_weights_where_a_ladder_is_lost() -> None:
    """With much noise, intervals from observation to observation say nothing of the slow rate."""
    runs = chain_runs(noise=0.05, seed=3)
    options: dict[str, Any] = {"method": "sdirk3", "steps": Grid(2)}
    found = fit(Chain(40.0, 50.0), runs, strategy=FullSpace(), **options)
    expected = fit(Chain(4.0, 900.0), runs, strategy=Whole(), **options)
    assert found.error == pytest.approx(expected.error, rel=1e-3), LOOK_AT
