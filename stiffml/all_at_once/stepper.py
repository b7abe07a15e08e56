"""A stepper that solves known steps all at once, window by window, and one by one if that fails."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from stiffml.all_at_once.solve import Found, solve_steps
from stiffml.discretization.trajectory import Trajectory
from stiffml.errors import Status
from stiffml.native.stepper import NativeStepper
from stiffml.run.stepping import Counts, Task

WINDOW_NUMBERS = 4_000_000
"""Largest number of float64 values in the matrix of a window (32 MB)."""

SHORTEST = 4
"""Number of steps in the shortest window. Fewer steps are solved as fast one by one."""


class _Window(NamedTuple):
    """A solved window: the number of its first step, and the solution."""

    first: int
    found: Found


class AllAtOnceStepper(NativeStepper):
    """Solves windows of many steps by one Newton iteration each, and returns the steps one by one.

    If a window does not converge, a quarter of it is tried, and so on. The steps of the shortest window that
    fails are solved one by one by :class:`NativeStepper`. So are steps whose size is not the planned one and
    steps that violate bounds.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        assert task.plan is not None
        self._ends, self._guess = task.plan.ends, task.plan.guess
        self._window: _Window | None = None
        self._length = self._longest = self._fitting()
        self._one_by_one = 0  # how many of the next steps are solved one by one
        self._at_once = 0

    def _fitting(self) -> int:
        """The largest number of steps in a window, by memory."""
        layout, rows = self._task.system.layout, self._rows_of_a_step()
        band = 3 * (rows * self._task.method.history + rows) * layout.width
        return max(SHORTEST, WINDOW_NUMBERS // (rows * layout.size * band))

    def _rows_of_a_step(self) -> int:
        return len(self._task.method.kept_stages(self._task.system.form)) + 2

    @property
    def counts(self) -> Counts:
        return dataclasses.replace(super().counts, at_once=self._at_once)

    def step(self, size: float) -> Status | None:
        n = self._planned(size)
        if n is not None and self._take(n, size):
            return None
        self._one_by_one = max(0, self._one_by_one - 1)
        self._window = None
        return super().step(size)

    def _planned(self, size: float) -> int | None:
        """The number of the planned step that starts now and has this size; None if there is none."""
        near = 1e-9 * size
        n = int(np.searchsorted(self._ends, self.time + near, side="right"))
        if n == len(self._ends) or abs(self._ends[n] - self.time - size) > near:
            return None
        return n

    def _take(self, n: int, size: float) -> bool:
        """Take planned step ``n`` from a window; return whether that was possible."""
        if self._one_by_one:
            return False
        taken, window = self._trajectory.n_steps, self._window
        if window is None or taken >= window.first + len(window.found.states):
            window = self._window = self._find(n)
            if window is None:
                return False
        k, found = taken - window.first, window.found
        state, limits = found.states[k], self._task.limits
        if limits is not None:
            limits.begin()
            if not limits.allows(self.time + size, state):
                return False
        self.cut_by, self.detail = None, ""
        if found.half is not None and taken == 0:
            self._trajectory.half = float(self.time + size / 2), found.half
        self._trajectory.append(self.time + size, size)
        self._states.append(state)
        self._stages = found.stages[k] if self._keeps_stages else None
        self._at_once += 1
        return True

    def _find(self, n: int) -> _Window | None:
        """Solve a window of planned steps from ``n`` on, with as many steps as converge; None if too few."""
        left = len(self._ends) - n
        while min(self._length, left) >= SHORTEST:
            count = min(self._length, left)
            try:
                found = self._solve_window(n, count)
            except Exception:
                # func may raise far from the solution. If it raises near it, solving one by one shows that.
                self._length = count // 4
                continue
            self._iterations += found.iterations
            self._length = min(self._longest, 2 * self._length)
            return _Window(self._trajectory.n_steps, found)
        self._length = self._one_by_one = SHORTEST
        return None

    def _solve_window(self, n: int, count: int) -> Found:
        ends, before = self._ends[n : n + count], np.array(self._states)
        planned = Trajectory(np.array([self._task.s0, self._task.last]))
        planned.half = self._trajectory.half
        for time in (*self._trajectory.times[1:].tolist(), *ends.tolist()):
            planned.append(time, time - planned.times[-1])
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
        )
