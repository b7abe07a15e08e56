"""Climbs the rungs of a strategy, with restarts from other weights, one iteration at a time.

A rung whose intervals cannot be solved is one step back: the rung before is fitted more closely. After a few
of these the attempt ends, and the next one starts from other weights. So does one whose pace is too slow for
the target, if others are left; the best of all goes on in the end if it was such a one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from stiffml.training.columns import columns_of, rows_of
from stiffml.training.lm.full_space import FullSpaceIteration, FullSpaceResiduals
from stiffml.training.lm.intervals import Rung
from stiffml.training.lm.levenberg_marquardt import Iteration, State, TrialError
from stiffml.training.lm.pace import too_slow
from stiffml.training.lm.progress import Attempt, Failure, Goal, Progress, Row
from stiffml.training.lm.residuals import IntervalResiduals, Residuals, rearranged

STEPS_BACK = 2
"""How often an attempt goes back a rung before it ends."""

CLOSER = 1e-2
"""By which factor the tolerance of a rung is smaller where it is fitted again."""

LISTS = {"rows": Row, "attempts": Attempt, "failures": Failure}
"""Of a progress."""


class Climb:
    """The fit of all rungs.

    Parameters
    ----------
    residuals : Residuals
    rungs : sequence of Rung
    iteration : Iteration
    goal : Goal
    reset : callable
        From the number of an attempt to parameters (size,) to begin with; for goals with more than one
        attempt.
    judge : callable
        From parameters (size,) to an error by which attempts are compared, instead of their residuals.
    """

    def __init__(
        self,
        residuals: Residuals,
        rungs: Sequence[Rung],
        iteration: Iteration,
        goal: Goal,
        reset: Callable[[int], np.ndarray] | None = None,
        judge: Callable[[np.ndarray], float] | None = None,
    ) -> None:
        self.residuals, self.rungs, self.iteration, self.goal = residuals, list(rungs), iteration, goal
        self._reset, self._judge = reset, judge
        self._problem: tuple[int, IntervalResiduals] | None = None
        self.progress = Progress(residuals.vector.read())
        self._unfinished: dict[str, Any] | None = None
        self._began = time.perf_counter()

    @property
    def finished(self) -> bool:
        return bool(self.progress.outcome)

    @property
    def is_out_of_time(self) -> bool:
        return self._unfinished is not None

    def advance(self) -> None:
        """One iteration, or the beginning of a rung."""
        if time.perf_counter() - self._began > self.goal.seconds:
            self._out_of_time()
        elif self.progress.state is None:
            self._begin()
        else:
            self._step(self.progress.state)

    def problem(self) -> IntervalResiduals:
        """The residuals of the present rung."""
        level = self.progress.level
        if self._problem is None or self._problem[0] != level:
            intervals, weight = self.rungs[level].intervals, self.rungs[level].weight
            if weight is None:
                self._problem = level, self.residuals.of(intervals)
            else:
                self._problem = level, FullSpaceResiduals(self.residuals, intervals, weight)
        return self._problem[1]

    def _iteration(self) -> Iteration:
        """That of the present rung."""
        problem = self.problem()
        if isinstance(problem, FullSpaceResiduals):
            return FullSpaceIteration(self.iteration, problem.unknowns)
        return self.iteration

    def _begin(self) -> None:
        now, rung = self.progress, self.rungs[self.progress.level]
        began = time.perf_counter()
        paths = None
        if now.paths is not None and now.came_from >= 0:
            before = self.rungs[now.came_from].intervals
            paths = rearranged(before, now.paths, rung.intervals, self.residuals)
        try:
            point = self.problem().begin(now.theta, paths, now.held)
        except TrialError as error:
            self._failed(error, 0)
            self._go_back(error)
            return
        now.state = self._iteration().begin(point.numbers, point)
        self._row(now.state, began)

    def _step(self, state: State) -> None:
        now, rung = self.progress, self.rungs[self.progress.level]
        began = time.perf_counter()
        tolerance = rung.tolerance * CLOSER**now.back if self._is_again() else rung.tolerance
        try:
            state = self._iteration().step(self.problem(), state, tolerance)
        except TrialError as failed:  # the Jacobian of an accepted step
            state.failures, state.outcome = [failed], f"lost: {failed}"
        for failure in state.failures:
            self._failed(failure, state.iteration)
        now.state = state
        self._row(state, began)
        error = mean_error(state.point.residuals)
        given_up = False
        if rung.to_target and error <= self.goal.error:
            state.outcome = "reached the target"
        elif not state.outcome and state.iteration >= rung.iterations:
            state.outcome = f"stopped after {rung.iterations} iterations"
        elif not state.outcome and self._is_too_slow(state):
            given_up, state.outcome = True, f"too slow for the target after {state.iteration} iterations"
        if state.outcome:
            self._end_rung(state, error, given_up)

    def _is_last(self) -> bool:
        return self.progress.level == len(self.rungs) - 1

    def _others_are_left(self) -> bool:
        return self._reset is not None and len(self.progress.attempts) + 1 < self.goal.attempts

    def _is_too_slow(self, state: State) -> bool:
        """Of the last rung, while there are other attempts to make."""
        if self.goal.error == 0 or not self._is_last() or not self._others_are_left():
            return False
        errors = [row.error for row in self.progress.rows[-state.iteration - 1 :]]
        return too_slow(errors, self.goal.error, self.rungs[-1].iterations)

    def _is_again(self) -> bool:
        return self.progress.came_from >= self.progress.level

    def _end_rung(self, state: State, error: float, given_up: bool = False) -> None:
        now = self.progress
        now.theta, now.paths, now.came_from, now.state = state.point.theta, state.point.paths, now.level, None
        now.held = None if self.rungs[now.level].weight is None else self.problem().kept(state.point)
        if self._is_last():
            # The point itself is kept: without its stages the solve might not find it again.
            self._end_attempt(error, state.outcome, self.problem().kept(state.point), given_up)
        else:
            now.level += 1

    def _go_back(self, error: TrialError) -> None:
        now = self.progress
        if now.level == 0 or now.back == STEPS_BACK:
            rung = self.rungs[now.level].name
            self._end_attempt(np.inf, f"lost at {rung}: {error}")
            return
        now.back += 1
        now.level -= 1

    def _end_attempt(
        self, error: float, outcome: str, point: dict[str, Any] | None = None, given_up: bool = False
    ) -> None:
        now = self.progress
        judged = error
        if np.isfinite(error) and self._judge is not None:
            judged = self._judge(now.theta)
        ended = Attempt(now.attempt, error, judged, outcome, given_up)
        others_are_left, goal = self._others_are_left(), self.goal
        close = error <= goal.error or (goal.error == 0 and goal.judged is not None)
        reached = close and (goal.judged is None or judged <= goal.judged)
        better = np.isfinite(error) and (now.best is None or judged < now.best.judged)
        if reached or better:
            now.best, now.best_theta, now.best_point = ended, now.theta.copy(), point
        elif now.taken_up and now.best is not None:  # it was better when it was given up
            ended = now.best = replace(now.best, given_up=False)
        now.attempts[ended.number : ended.number + 1] = [ended]
        if reached:
            now.outcome = "reached the target"
        elif others_are_left:
            self._start(ended.number + 1)
        elif now.best is not None and now.best.given_up:
            self._take_up(now.best)
        else:
            count = len(now.attempts)
            now.outcome = f"{outcome}, after {count} attempts" if count > 1 else outcome

    def _start(self, attempt: int) -> None:
        now = self.progress
        assert self._reset is not None
        now.attempt, now.theta = attempt, self._reset(attempt)
        now.level = now.back = 0
        now.paths, now.held, now.came_from = None, None, -1

    def _take_up(self, best: Attempt) -> None:
        """Go on with an attempt that was given up for others."""
        now = self.progress
        now.attempt, now.level, now.taken_up = best.number, len(self.rungs) - 1, True
        assert self._reset is not None  # only where others were left is an attempt given up
        assert now.best_point is not None
        self._reset(best.number)  # its buffers; its weights are in the point
        point = self.problem().restored(now.best_point)
        now.state = self._iteration().begin(point.numbers, point)

    def _out_of_time(self) -> None:
        self._unfinished = self.state_dict()  # with more time the fit goes on from here
        now = self.progress
        text = f"stopped after {self.goal.seconds:g} s"
        if now.state is not None and self._is_last():
            self._end_rung(now.state, mean_error(now.state.point.residuals))
        now.outcome = text

    def _failed(self, error: TrialError, iteration: int) -> None:
        now = self.progress
        rung = self.rungs[now.level].name
        now.failures.append(Failure(now.attempt, rung, iteration, error.run, error.t, str(error)))

    def _row(self, state: State, began: float) -> None:
        now = self.progress
        error = mean_error(state.point.residuals)
        seconds = time.perf_counter() - began
        failed = len(state.failures)
        now.rows.append(
            Row(now.attempt, now.level, state.cost, error, state.damping, state.rejected, failed, seconds)
        )

    # What a killed fit goes on from

    def state_dict(self) -> dict[str, Any]:
        """All of the progress, in arrays, numbers and texts; before its end if the time was over."""
        if self._unfinished is not None:
            return self._unfinished
        now = self.progress
        plain = {one.name: getattr(now, one.name) for one in fields(now)}
        state = None
        if now.state is not None:
            state = {**now.state.state_dict(), "point": self.problem().kept(now.state.point)}
        lists = {name: columns_of(kind, getattr(now, name)) for name, kind in LISTS.items()}
        return {**plain, **lists, "state": state, "best": None if now.best is None else asdict(now.best)}

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from a ``state_dict`` of the same fit."""
        held = dict(held)
        state, best = held.pop("state"), held.pop("best")
        lists: dict[str, Any] = {name: rows_of(kind, held.pop(name)) for name, kind in LISTS.items()}
        self.progress = Progress(**held, **lists, best=None if best is None else Attempt(**best))
        if self.progress.attempt and self._reset is not None:
            self._reset(self.progress.attempt)
        self._began = time.perf_counter() - sum(row.seconds for row in self.progress.rows)
        if state is not None:
            point = self.problem().restored(state.pop("point"))
            self.progress.state = self._iteration().resumed(state, point)


def mean_error(residuals: np.ndarray) -> float:
    """The mean absolute residual."""
    return float(np.abs(residuals).mean()) if len(residuals) else 0.0
