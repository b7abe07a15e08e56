"""Second-order corrections of steps: they are what their equation says, and follow narrow valleys."""

from __future__ import annotations

import numpy as np
import pytest
from points import At

from stiffml.training import LevenbergMarquardt
from stiffml.training.lm.acceleration import PROBE, corrected, is_bent
from stiffml.training.lm.damped import Tall, Wide, scale_of
from stiffml.training.lm.levenberg_marquardt import Iteration, State

LOOK_AT = "look at stiffml/training/lm/acceleration.py and damped.py"


class Valley:
    """Rosenbrock's: residuals (1 − x, s (y − x²)), whose valley is the narrower the larger s."""

    def __init__(self, steepness: float = 300.0) -> None:
        self.steepness, self.calls = steepness, 0

    def evaluate(self, theta: np.ndarray, near: object = None) -> At:
        self.calls += 1
        (x, y), s = theta, self.steepness
        return At(np.array([1 - x, s * (y - x * x)]), np.array([[-1.0, 0.0], [-2 * s * x, s]]))


def minimise(settings: LevenbergMarquardt, low: float = -np.inf) -> tuple[State, Valley]:
    problem, none, begin = Valley(), np.zeros(2), np.array([-1.2, 1.0])
    iteration = Iteration(settings, none, none, np.full(2, low), np.full(2, np.inf))
    state = iteration.begin(begin, problem.evaluate(begin))
    while not state.outcome and state.iteration < 500:
        state = iteration.step(problem, state, 1e-10)
    return state, problem


def system(kind: str) -> tuple[Tall | Wide, np.ndarray, np.ndarray]:
    """Damped steps of a matrix (m, size) with one number held, its free part, and which are free."""
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(9, 5) if kind == "tall" else (5, 9)) * np.geomspace(
        1, 100, 5 if kind == "tall" else 9
    )
    free, none = np.arange(1, matrix.shape[1]), np.zeros(matrix.shape[1])
    right = rng.normal(size=len(matrix))
    if kind == "wide":
        return Wide(matrix, right, none, none, free), matrix[:, free], free
    return Tall(matrix, right, free), matrix[:, free], free


@pytest.mark.parametrize("kind", ["tall", "flat", "wide"])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_answers_are_damped_least_squares(kind: str, damping: float) -> None:
    """K of more rows than columns, of fewer, and these by the small system."""
    steps, matrix, free = system(kind)
    asked = np.random.default_rng(4).normal(size=len(matrix))
    scale = scale_of((matrix**2).sum(axis=0))
    whole = np.concatenate([matrix, np.sqrt(damping) * np.diag(scale)])
    expected = np.linalg.lstsq(whole, -np.concatenate([asked, np.zeros(len(free))]), rcond=None)[0]
    steps.step(10 * damping)  # whose factors must not be taken
    found = steps.answer(damping, asked)
    assert found[0] == 0, LOOK_AT
    np.testing.assert_allclose(found[free], expected, rtol=1e-8, atol=1e-10, err_msg=LOOK_AT)
    assert steps.length(found) == pytest.approx(np.linalg.norm(scale * expected))


def test_rows_of_a_prior_ask_for_nothing() -> None:
    rng = np.random.default_rng(5)
    matrix, prior = rng.normal(size=(4, 3)), np.diag([2.0, 3.0, 4.0])
    steps = Tall(np.concatenate([matrix, prior]), rng.normal(size=7), np.arange(3))
    asked = rng.normal(size=4)
    padded = steps.answer(0.1, np.concatenate([asked, np.zeros(3)]))
    np.testing.assert_allclose(steps.answer(0.1, asked), padded)


def test_the_correction_is_that_of_the_second_derivative() -> None:
    """Residuals of the valley are quadratic, so that the difference is exact."""
    problem, theta, damping = Valley(), np.array([0.5, 0.4]), 0.3
    point = problem.evaluate(theta)
    steps = Tall(point.matrix, point.residuals, np.arange(2))
    step, _ = steps.step(damping)
    found = corrected(problem, point, theta, theta + step, np.ones(2), steps, damping, longest=np.inf)
    second = np.array([0.0, -2 * problem.steepness * step[0] ** 2])
    damped = point.matrix.T @ point.matrix + damping * np.diag(scale_of((point.matrix**2).sum(axis=0)) ** 2)
    expected = theta + step - 0.5 * np.linalg.solve(damped, point.matrix.T @ second)
    np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=LOOK_AT)
    left = corrected(problem, point, theta, theta + step, np.ones(2), steps, damping, longest=1e-6)
    np.testing.assert_array_equal(left, theta + step, err_msg="a correction that is too long is left out")


def test_a_narrow_valley_takes_half_the_steps() -> None:
    (plain, _), (bent, problem) = minimise(LevenbergMarquardt(acceleration=0)), minimise(LevenbergMarquardt())
    for state in (plain, bent):
        np.testing.assert_allclose(state.theta, 1.0, rtol=1e-6)
    assert 2 * bent.iteration <= plain.iteration, LOOK_AT
    assert problem.calls <= 8 * bent.iteration


def test_corrected_steps_stay_within_bounds() -> None:
    state, _ = minimise(LevenbergMarquardt(acceleration=1e3), low=-1.2)
    assert (state.theta >= -1.2).all()
    np.testing.assert_allclose(state.theta, 1.0, rtol=1e-6)


def test_what_is_linear_costs_no_further_solve() -> None:
    matrix, calls = np.random.default_rng(0).normal(size=(6, 3)), []

    class Linear:
        def evaluate(self, theta: np.ndarray, near: object = None) -> At:
            calls.append(theta)
            return At(matrix @ theta - 1, matrix)

    none, problem = np.zeros(3), Linear()
    iteration = Iteration(LevenbergMarquardt(), none, none, none - np.inf, none + np.inf)
    state = iteration.begin(none, problem.evaluate(none))
    while not state.outcome:
        state = iteration.step(problem, state, 1e-10)
    assert len(calls) == state.iteration + 1, LOOK_AT
    assert not state.bent


def test_a_gain_off_its_expectation_says_that_residuals_bend() -> None:
    assert PROBE < 0.1
    assert [is_bent(gained, 1.0) for gained in (1.0, 0.8, 0.7, 1.3)] == [False, False, True, True]
