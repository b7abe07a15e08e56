"""The Levenberg-Marquardt iteration against scipy's, and what it does where residuals fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from points import At
from scipy.optimize import least_squares

from stiffml.training import LevenbergMarquardt
from stiffml.training.lm.levenberg_marquardt import FAILURES, Iteration, State, TrialError

LOOK_AT = "look at stiffml/training/lm/levenberg_marquardt.py"


class Problem:
    """Residuals r(θ) and their Jacobian, which fail where ``fails``."""

    def __init__(self, r: Callable, jacobian: Callable, fails: Callable = lambda theta: False) -> None:
        self.r, self.jacobian, self.fails = r, jacobian, fails

    def evaluate(self, theta: np.ndarray, near: object = None) -> At:
        if self.fails(theta):
            raise TrialError("no solution here")
        return At(self.r(theta), self.jacobian(theta))


def minimise(
    problem: Problem,
    theta: np.ndarray,
    settings: LevenbergMarquardt | None = None,
    low: float | np.ndarray = -np.inf,
    high: float | np.ndarray = np.inf,
    weight: float = 0.0,
    steps: int = 400,
) -> State:
    size, none = len(theta), np.zeros(len(theta))
    settings = settings or LevenbergMarquardt()
    iteration = Iteration(settings, none, none + weight, low * np.ones(size), high * np.ones(size))
    state = iteration.begin(theta, problem.evaluate(theta))
    for _ in range(steps):
        if state.outcome:
            break
        state = iteration.step(problem, state, 1e-14)
    return state


T = np.linspace(0, 3, 25)
DATA = 2.5 * np.exp(-1.3 * T) + 0.4 + 0.05 * np.sin(40 * T)
DATA[[4, 15]] += 3.0  # outliers


def curve(theta: np.ndarray) -> np.ndarray:
    return theta[0] * np.exp(-theta[1] * T) + theta[2] - DATA


def slope(theta: np.ndarray) -> np.ndarray:
    e = np.exp(-theta[1] * T)
    return np.stack([e, -theta[0] * T * e, np.ones_like(T)], axis=1)


BEGIN = np.array([1.0, 0.3, 0.0])


@pytest.mark.parametrize(
    ("loss", "name"), [("squares", "linear"), ("soft-l1", "soft_l1"), ("huber", "huber")]
)
@pytest.mark.parametrize("width", [0.1, 1.0])
def test_minimum_is_that_of_scipy(loss: str, name: str, width: float) -> None:
    state = minimise(Problem(curve, slope), BEGIN, LevenbergMarquardt(loss=loss, width=width))
    found = least_squares(curve, BEGIN, slope, loss=name, f_scale=width, xtol=1e-15, ftol=1e-15, gtol=1e-14)
    assert state.cost == pytest.approx(found.cost, rel=1e-10), f"{loss}: another cost; {LOOK_AT}"
    np.testing.assert_allclose(state.theta, found.x, rtol=1e-5, err_msg=LOOK_AT)


def test_bounds_are_kept_and_active_ones_found() -> None:
    low, high = np.array([0.0, 0.0, 0.5]), np.array([2.0, 5.0, 1.0])
    begin = np.array([1.0, 0.3, 0.6])
    state = minimise(Problem(curve, slope), begin, low=low, high=high)
    found = least_squares(curve, begin, slope, bounds=(low, high), xtol=1e-15, ftol=1e-15, gtol=1e-14)
    assert ((state.theta >= low) & (state.theta <= high)).all()
    assert state.cost == pytest.approx(found.cost, rel=1e-6), LOOK_AT
    np.testing.assert_allclose(state.theta, found.x, atol=1e-4)


def test_a_ridge_is_a_prior_at_zero() -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 8))  # fewer residuals than numbers
    right = np.arange(5.0)
    problem = Problem(lambda x: matrix @ x - right, lambda x: matrix)
    state = minimise(problem, np.ones(8), weight=0.3)
    expected = np.linalg.solve(matrix.T @ matrix + 0.09 * np.eye(8), matrix.T @ right)
    np.testing.assert_allclose(state.theta, expected, atol=1e-7)


def test_steps_that_fail_are_rejected_and_said() -> None:
    """Beyond 1.2 there are no residuals, though the minimum of the first model lies there."""
    problem = Problem(
        lambda x: np.array([np.exp(x[0]) - 3.0]), lambda x: np.exp(x)[None], lambda x: x[0] > 1.2
    )
    settings, none = LevenbergMarquardt(damping=1e-10), np.zeros(1)
    iteration = Iteration(settings, none, none, none - np.inf, none + np.inf)
    state = iteration.begin(np.array([-2.0]), problem.evaluate(np.array([-2.0])))
    state = iteration.step(problem, state, 1e-14)
    assert state.failures
    assert str(state.failures[0]) == "no solution here"
    assert state.failed == 0
    assert minimise(problem, np.array([-2.0]), settings).theta[0] == pytest.approx(np.log(3.0))


def test_many_failures_in_a_row_end_it_where_it_was() -> None:
    begin = BEGIN.copy()
    problem = Problem(curve, slope, lambda theta: not np.array_equal(theta, begin))
    state = minimise(problem, begin)
    assert len(state.failures) == FAILURES
    assert state.outcome.startswith(f"lost: {FAILURES} trial steps in a row")
    np.testing.assert_array_equal(state.theta, begin)


def test_a_minimum_is_told_from_a_jacobian_that_is_wrong() -> None:
    assert minimise(Problem(curve, slope), BEGIN).outcome.startswith("converged")
    wrong = minimise(Problem(curve, lambda theta: -slope(theta)), BEGIN)
    assert wrong.outcome.startswith("stuck")


def test_a_state_goes_on_as_if_it_had_not_been_stored() -> None:
    problem, none = Problem(curve, slope), np.zeros(3)
    iteration = Iteration(LevenbergMarquardt(), none, none, none - np.inf, none + np.inf)
    state = iteration.begin(BEGIN, problem.evaluate(BEGIN))
    for _ in range(3):
        state = iteration.step(problem, state, 1e-14)
    again = iteration.resumed(state.state_dict(), problem.evaluate(state.theta))
    for _ in range(3):
        state, again = iteration.step(problem, state, 1e-14), iteration.step(problem, again, 1e-14)
    np.testing.assert_array_equal(state.theta, again.theta)
    assert state.damping == again.damping


@pytest.mark.parametrize(
    "argument", [{"damping": 0}, {"grow": 1}, {"acceleration": -1}, {"trials": 0}, {"loss": "cauchy"}]
)
def test_settings_are_checked(argument: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(argument))):
        LevenbergMarquardt(**argument)


@pytest.mark.parametrize("loss", ["squares", "soft-l1", "huber"])
def test_a_trial_that_runs_away_is_rejected_in_silence(loss: str) -> None:
    """Steps are ten times too long at first, to where squares of residuals are infinite."""

    def r(theta: np.ndarray) -> np.ndarray:
        return np.where(np.abs(theta) < 2, theta - 1, 1e200)

    problem = Problem(r, lambda theta: np.array([[0.1]]))
    with np.errstate(all="raise", under="ignore"):
        state = minimise(problem, np.zeros(1), LevenbergMarquardt(loss=loss))
    assert abs(state.theta[0] - 1) < 1e-3
