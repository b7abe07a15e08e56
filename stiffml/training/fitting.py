"""Fits by Levenberg-Marquardt: the climb with its folder, restarts and judge, and its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from stiffml.checks import described
from stiffml.training.asked import Asked, bounds_of
from stiffml.training.data import Runs
from stiffml.training.folder import to_arrays, to_tensors
from stiffml.training.history import history_dataset
from stiffml.training.lm.climb import Climb
from stiffml.training.lm.covariance import Covariance, covariance
from stiffml.training.lm.ladder import FullSpace, GrowingHorizon, MultipleShooting, Strategy
from stiffml.training.lm.levenberg_marquardt import Iteration, LevenbergMarquardt
from stiffml.training.lm.profile import Profiler
from stiffml.training.lm.progress import Goal
from stiffml.training.resolving import ATOL, RTOL, mean_of, resolve
from stiffml.training.result import Result
from stiffml.training.starts import start_of, units_of
from stiffml.training.trouble import ADVICE, TrainingError

DETERMINED = 2_000
"""Numbers up to which their covariance is computed: it has their square."""


def fit_by_levenberg_marquardt(
    asked: Asked,
    goal: Goal,
    strategy: Strategy | None,
    settings: LevenbergMarquardt | None,
    bounds: Mapping[str, tuple[float, float]] | None,
) -> Result:
    """Fit, and return the best attempt.

    Raises
    ------
    TrainingError
        If no attempt has reached the whole runs.
    """
    residuals, vector = asked.residuals, asked.residuals.vector
    settings = LevenbergMarquardt() if settings is None else settings
    if not isinstance(settings, LevenbergMarquardt):
        raise TypeError(f"levenberg_marquardt must be a LevenbergMarquardt(…), not {described(settings)}")
    strategy = default_strategy(residuals.runs) if strategy is None else strategy
    if not isinstance(strategy, Strategy):
        raise TypeError(
            "strategy must be MultipleShooting, GrowingHorizon, FullSpace or Whole, not "
            f"{described(strategy)}"
        )
    if isinstance(strategy, FullSpace) and not residuals.together:
        raise ValueError(
            "strategy: FullSpace needs known steps, such as steps=Grid(), of an implicit method, for up to "
            "32 components; take GrowingHorizon() or Whole() for other solves"
        )
    if isinstance(strategy, FullSpace) and residuals.by_products:
        raise ValueError(
            f"strategy: FullSpace needs a matrix of the derivatives by {len(vector)} parameters, which would "
            "not fit into memory; take MultipleShooting(), GrowingHorizon() or Whole(), or fewer observations"
        )
    low, high = bounds_of(bounds, vector)
    weight = vector.weight.copy()
    weight[: vector.of_model] = settings.ridge
    iteration = Iteration(settings, vector.centre, weight, low, high)

    def reset(attempt: int) -> np.ndarray:
        asked.restarts.reset(attempt)
        return np.clip(vector.read(), low, high)

    judges = goal.judged is not None or asked.validate is not None
    climb = Climb(
        residuals,
        strategy.rungs(residuals.runs),
        iteration,
        goal,
        reset if goal.attempts > 1 else None,
        (lambda theta: judged_error(asked, theta)) if judges else None,
    )
    climb.progress.theta = np.clip(climb.progress.theta, low, high)
    config = {
        **asked.config,
        "optimizer": "lm",
        "strategy": str(strategy),
        "levenberg_marquardt": str(settings),
        "bounds": str(bounds),
        "target": goal.error,
        "judged": goal.judged,
        "attempts": goal.attempts,
    }
    asked.recording(config).drive(
        climb,
        lambda: to_tensors(climb.state_dict()),
        lambda held: climb.load_state_dict(to_arrays(held)),
        lambda: _history(climb),
        None,
    )
    now = climb.progress
    if now.best is None or now.best_theta is None or now.best_point is None:
        raise TrainingError(_lost(climb))
    if now.best.number != now.attempt:
        reset(now.best.number)  # buffers may be others with each attempt; its weights are in the point
    point = residuals.of(climb.rungs[-1].intervals).restored(now.best_point)
    found: Covariance | None = None
    profiler: Profiler | None = None
    if len(vector) <= DETERMINED:
        matrix, right = iteration.linear(now.best_theta, point)
        squares = iteration.sum_of_squares(now.best_theta, point)
        found = covariance(vector.names, now.best_theta, matrix, len(right), squares, asked.known_noise)
        problem = residuals.of(climb.rungs[-1].intervals)
        profiler = Profiler(problem, iteration, now.best_theta, point, found, vector.write)
    return Result(
        model=residuals.model,
        error=now.best.error,
        outcome=now.outcome,
        history=_history(climb),
        attempts=now.attempts,
        failures=now.failures,
        scale=residuals.scale,
        initial=initial_states(asked, now.best_theta),
        covariance=found,
        profiler=profiler,
        data=residuals.runs,
        validate=asked.validate,
        equations=asked.equations,
        compile=asked.compile,
    )


def default_strategy(runs: Runs) -> Strategy:
    """Multiple shooting needs complete observations."""
    complete = all(run.mask[1:].all() for run in runs)
    return MultipleShooting() if complete else GrowingHorizon()


def initial_states(asked: Asked, theta: np.ndarray) -> dict[str, np.ndarray]:
    """By run, its initial state (components,) with the fitted values."""
    vector, runs = asked.residuals.vector, asked.residuals.runs
    return {run.name: vector.starts(theta, i, run.y0, True) for i, run in enumerate(runs)}


def judged_error(asked: Asked, theta: np.ndarray) -> float:
    """The mean error at the data to validate on, or else at the data, solved with tight tolerances."""
    residuals = asked.residuals
    residuals.vector.write(theta)
    starts = initial_states(asked, theta)
    runs = residuals.runs if asked.validate is None else asked.validate
    atol = ATOL * float(residuals.scale.min())
    found = []
    for run in runs:
        if asked.validate is None:
            y0 = starts[run.name]
        else:
            units = units_of(runs, residuals.scale)
            y0 = start_of(residuals.model, run, units, rtol=RTOL, atol=atol, **asked.equations)
        found.append(resolve(residuals.model, run, y0, RTOL, atol, compile=asked.compile, **asked.equations))
    return mean_of(found, residuals.scale)


def _history(climb: Climb):
    now = climb.progress
    return history_dataset(now.rows, [rung.name for rung in climb.rungs], {"outcome": now.outcome})


def _lost(climb: Climb) -> str:
    """Why no attempt came to whole runs."""
    now = climb.progress
    if climb.is_out_of_time and not now.failures:
        return f"{now.outcome}, before whole runs were fitted. Try: a larger max_seconds"
    causes = Counter(str(failure.cause) for failure in now.failures).most_common(2)
    often = "; ".join(f"{cause} ({count} times)" for cause, count in causes)
    last = now.attempts[-1].outcome if now.attempts else now.outcome
    ended = f" ({now.outcome})" if now.outcome != last else ""
    return f"no trajectory through the data was found: {last}{ended}. Solves failed: {often}. {ADVICE}"
