"""A stepper that solves known steps all at once, window by window, and one by one if that fails."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from stiffml.all_at_once.solve import Found, Kept, solve_steps
from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.native.stepper import NativeStepper
from stiffml.run.stepping import Counts, Task
from stiffml.system.system import System

WINDOW_NUMBERS = 4_000_000
"""Largest number of float64 values in the matrix of a window (32 MB)."""

SHORTEST = 8
"""Number of steps in the shortest window, unless fewer are left. Fewer are solved as fast one by one."""

NEAR = 1e-9
"""A step counts as the planned one if their ends differ by at most this fraction of the step, by rounding."""


class _Window(NamedTuple):
    """A solved window: the end times of its steps, and the solution."""

    ends: np.ndarray
    found: Found


def fitting(system: System, method: Method) -> int:
    """The largest number of steps in a window, by memory."""
    rows = len(method.kept_stages(system.form)) + 2
    band = 3 * (rows * method.history + rows) * system.layout.width
    return WINDOW_NUMBERS // (rows * system.layout.size * band)


class AllAtOnceStepper(NativeStepper):
    """Solves windows of many steps by one Newton iteration each, and returns the steps one by one.

    If a window does not converge, a quarter of it is tried, and so on. The steps of the shortest window that
    fails are solved one by one by :class:`NativeStepper`. So are steps whose size is not the planned one and
    steps that violate bounds.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        assert task.plan is not None
        self._ends, self._guess, self._trials = task.plan.ends, task.plan.guess, task.plan.trials
        self._near = task.plan.near
        self._window: _Window | None = None
        self._taken = 0  # how many steps of the window have been taken
        self._length = self._longest = fitting(task.system, task.method)
        self._one_by_one = 0  # how many of the next steps are solved one by one
        self._at_once = 0
        if self._longest >= SHORTEST:
            self._look_ahead(float(self._ends[0]) - task.s0)

    @property
    def has_begun(self) -> bool:
        """Whether the first steps were solved all at once."""
        return self._window is not None or self._at_once > 0

    @property
    def counts(self) -> Counts:
        return dataclasses.replace(super().counts, at_once=self._at_once)

    @property
    def kept(self) -> Kept | None:
        """What is known of the equations of the only window, if the run is to be differentiated."""
        window, plan = self._window, self._task.plan
        if window is None or plan is None or not plan.is_differentiated or len(window.ends) < len(plan.ends):
            return None
        return window.found.kept

    @property
    def slopes(self) -> list[np.ndarray] | None:
        window = self._window
        return None if window is None or self._taken < len(window.ends) else window.found.slopes

    @property
    def time(self) -> float:
        window = self._window
        return super().time if window is None or not self._taken else float(window.ends[self._taken - 1])

    @property
    def state(self) -> np.ndarray:
        window = self._window
        return super().state if window is None or not self._taken else window.found.states[self._taken - 1]

    @property
    def stages(self) -> np.ndarray | None:
        window = self._window
        if window is None or not self._taken:
            return super().stages
        return window.found.stages[self._taken - 1] if self._keeps_stages else None

    @property
    def half(self) -> tuple[float, np.ndarray] | None:
        window = self._window
        if window is None or not self._taken or window.found.halves is None:
            return super().half
        begin = super().time
        return begin + (float(window.ends[0]) - begin) / 2, window.found.halves[0]

    def step(self, size: float) -> Status | None:
        window = self._next_window(size)
        if window is not None:
            end, state = float(window.ends[self._taken]), window.found.states[self._taken]
            if abs(end - self.time - size) <= NEAR * size and self._allows(end, state):
                self.cut_by, self.detail = None, ""
                self._taken += 1
                self._at_once += 1
                return None
        self._settle()
        self._one_by_one = max(0, self._one_by_one - 1)
        return super().step(size)

    def take_ahead(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        window = None
        if self._task.limits is None:
            window = self._next_window(float(ends[0]) - self.time)
        if window is not None:
            first, found = self._taken, window.found
            last = min(len(window.ends), first + len(ends))
            if np.array_equal(window.ends[first:last], ends[: last - first]):
                self.cut_by, self.detail = None, ""
                self._taken = last
                self._at_once += last - first
                return found.states[first:last], found.stages[first:last] if self._keeps_stages else None
        return super().take_ahead(ends)

    def _next_window(self, size: float) -> _Window | None:
        """The window with the next step, of this size; None if it is solved for by itself."""
        if self._window is None or self._taken == len(self._window.ends):
            self._settle()
            self._look_ahead(size)
        return self._window

    def _allows(self, end: float, state: np.ndarray) -> bool:
        """Whether the bounds allow a step to end at the time ``end`` in ``state`` (size,)."""
        limits = self._task.limits
        if limits is None:
            return True
        limits.begin()
        return limits.allows(end, state)

    def _settle(self) -> None:
        """Drop the window; its steps taken so far are added to the trajectory."""
        half, stages, window = self.half, self.stages, self._window
        self._window = None
        if window is None or not self._taken:
            return
        ends = window.ends[: self._taken]
        self._trajectory.extend(ends, np.diff(ends, prepend=super().time))
        self._states.extend(window.found.states[: self._taken][-self._task.method.history :])
        self._trajectory.half, self._stages, self._taken = half, stages, 0

    def _look_ahead(self, size: float) -> None:
        """Solve a window of planned steps, as long as converges, if the next step is a planned one.

        ``size`` is the size of the next step.
        """
        near = NEAR * size
        n = int(np.searchsorted(self._ends, self.time + near, side="right"))
        if self._one_by_one or n == len(self._ends) or abs(self._ends[n] - self.time - size) > near:
            return
        left = len(self._ends) - n
        shortest = min(SHORTEST, left)
        while (count := min(self._length, left)) >= shortest:
            try:
                with np.errstate(all="ignore"):  # iterates may be anywhere
                    found = self._solve_window(n, count)
            except Exception:
                # func may raise far from the solution. If it raises near it, solving one by one shows that.
                if not self._repeat_trials():
                    self._length = count // 4
                continue
            if found.is_jacobian_right is False and self._repeat_trials():
                continue
            if self._trials is not None:
                self._trials.count(found.is_jacobian_right is not None)
            self._iterations += found.iterations
            self._length = min(self._longest, 2 * self._length)
            self._window = _Window(self._ends[n : n + count], found)
            return
        self._length = self._one_by_one = SHORTEST

    def _repeat_trials(self) -> bool:
        """Make trials of func that were left out; whether it is evaluated in another way since."""
        return self._trials is not None and self._trials.repeat()

    def _solve_window(self, n: int, count: int) -> Found:
        ends, before = self._ends[n : n + count], np.array(self._states)
        planned = self._trajectory.with_steps(ends)
        guess = np.repeat(before[-1:], count, axis=0)
        if self._guess is not None:
            guess = self._guess[n : n + count]
        first = self._trajectory.n_steps
        return solve_steps(
            planned,
            first,
            first + count,
            self._task.method,
            self._task.system,
            self._task.newton,
            np.concatenate([before, guess]),
            trusted=self._guess is not None,
            near=self._near if count == len(self._ends) else None,
        )
