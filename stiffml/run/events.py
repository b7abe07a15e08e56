"""Events that end a run: the first root of several functions of time and state along it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq

from stiffml.discretization.trajectory import Segment
from stiffml.run.crossings import Crossing, checked, gradients_of
from stiffml.run.stepping import StepSolver

START_ROUNDINGS = 16
"""An event value at the start counts as zero if rounding errors of this many units could cause it.

The time of a root is found to 4 units, so a run that starts from a root stays below this.
"""


HORIZON = 1e30
"""The end of a span without end."""

LONG = 1e4
"""Of a run without end, its length in first steps, as far as the rounding of its start goes."""

INNER_POINTS = (0.2, 0.4, 0.6, 0.8)
"""Fractions of a step at which the sign is checked too, to detect two roots inside one step."""


@dataclass
class _OnWatch:
    """An event function and its value after the last step."""

    number: int
    crossing: Crossing
    before: float


class EventFinder:
    """Watches the signs of event functions along a run and finds the first root inside a step.

    The signs are checked at the end of each step. They are also checked at a few points inside, on the cubic
    through the states and slopes at both ends. A NaN value has no sign.

    Parameters
    ----------
    events : mapping of int to Crossing
        By number.
    replay : StepSolver
        Solves steps of this run again. Its trajectory grows with the run.
    s0, u0 : float, ndarray
        Initial time and state (size,). A root at the start is ignored, also one that differs from the start
        by rounding only, such as the event that ended an earlier run.

    Attributes
    ----------
    number : int
        Of the event that was reached.
    """

    def __init__(self, events: Mapping[int, Crossing], replay: StepSolver, s0: float, u0: np.ndarray) -> None:
        self._replay = replay
        self._recent = deque([u0], maxlen=replay.method.history)
        self._watched = [
            _OnWatch(number, crossing, self._value(crossing, s0, u0)) for number, crossing in events.items()
        ]
        mass = replay.system.mass
        self._has_slopes = mass is None or not mass.singular
        self._slope: np.ndarray | None = None  # du/ds at the end of the last step, if known
        self.number = 0

    def _value(self, crossing: Crossing, s: float, u: np.ndarray) -> float:
        layout, direction = self._replay.system.layout, self._replay.system.direction
        time = self._replay.system.f.span.own_time(direction * s)
        t = torch.tensor(time, dtype=layout.dtype, device=layout.device)
        state = torch.from_numpy(u).to(layout.device, layout.dtype)
        return float(checked(crossing.function(t, layout.unflatten(state))))

    def crosses(self, s: float, u: np.ndarray) -> bool:
        """Whether an event function has changed its sign, or is zero, at ``s`` and ``u`` (size,).

        It is compared with its value after the last step.
        """
        return any(
            watched.crossing.takes(watched.before)
            and watched.before * self._value(watched.crossing, s, u) <= 0
            for watched in self._watched
        )

    def reached(self, state: np.ndarray) -> Segment | None:
        """The last step, cut short at the first root of an event function; None if there is no root in it.

        ``state`` (size,) is the end of that step, which the trajectory must contain already.
        """
        trajectory = self._replay.single
        start, end = trajectory.times[-2:]
        half, size = trajectory.half, end - start
        after = [self._value(watched.crossing, end, state) for watched in self._watched]
        inner = self._inner(start, end, state)
        first: float | None = None
        for watched, value in zip(self._watched, after, strict=True):
            if trajectory.n_steps == 1 and self._starts_from_root(watched, value):
                continue
            found = self._root(watched, value, state, inner)
            if found is not None and (first is None or found < first):
                first, self.number = found, watched.number
        if first is not None:
            return self._cut(first, state)
        trajectory.restore_last_step(end, size)
        trajectory.half = half
        self._recent.append(state)
        for watched, value in zip(self._watched, after, strict=True):
            watched.before = value
        return None

    def _cut(self, size: float, state: np.ndarray) -> Segment:
        """The last step, to ``state`` (size,), solved again with another size."""
        trajectory = self._replay.single
        trajectory.end_last_step(trajectory.times[-2] + size, size)
        return self._replay.step(trajectory.n_steps - 1, np.array([*self._recent, state]), True)

    def _root(
        self, watched: _OnWatch, after: float, state: np.ndarray, inner: Callable[[], list[np.ndarray]]
    ) -> float | None:
        """The time into the last step at which an event function is zero; None if it has no root there.

        ``after`` is its value at the end of the step, ``state`` (size,); ``inner`` has states inside it.
        """
        trajectory = self._replay.single
        # The trajectory may have the step as cut short at the root of another function.
        start, crossing, before = trajectory.times[-2], watched.crossing, watched.before
        end = self._end

        def value(size: float) -> float:
            if size == 0:
                return before
            found = self._value(crossing, start + size, self._cut(size, state).states[-1])
            if np.isnan(found):
                where = self._replay.system.direction * (start + size)
                raise ValueError(f"event is NaN at t = {where:.10g}, though it changes its sign around there")
            return found

        size, smallest = end - start, 4 * np.spacing(max(abs(start), abs(end)))
        low, high = 0.0, size
        if not (crossing.takes(before) and before * after <= 0):
            bracket = self._bracket(watched, after, inner())
            if bracket is None:
                return None
            low, high = (part * size for part in bracket)
            sign = math.copysign(1.0, before if low == 0 else value(low))
            if not (crossing.takes(sign) and sign * value(high) < 0):
                return None
            return max(brentq(value, low, high, xtol=smallest, rtol=1e-15), smallest)
        # The repeated step may differ by rounding, and end on the other side of a root at its very end.
        if after != 0 and before * value(size) < 0:
            size = max(brentq(value, 0.0, size, xtol=smallest, rtol=1e-15), smallest)
        return size

    def _bracket(
        self, watched: _OnWatch, after: float, inner: list[np.ndarray]
    ) -> tuple[float, float] | None:
        """The parts of the last step between which an event function seems to change its sign, or None."""
        start = self._replay.single.times[-2]
        parts, values = [0.0], [watched.before]
        for part, u in zip(INNER_POINTS, inner, strict=True):
            parts.append(part)
            values.append(self._value(watched.crossing, start + part * (self._end - start), u))
            if watched.crossing.takes(values[-2]) and values[-2] * values[-1] < 0:
                return parts[-2], part
        if watched.crossing.takes(values[-1]) and values[-1] * after < 0:
            return parts[-1], 1.0
        return None

    def _inner(self, start: float, end: float, state: np.ndarray) -> Callable[[], list[np.ndarray]]:
        """The states (size,) at :data:`INNER_POINTS` of a step to ``state`` (size,), when first asked for."""
        self._end = end
        slope, self._slope = self._slope, None
        found: list[np.ndarray] = []

        def inner() -> list[np.ndarray]:
            if not found:
                size, before = end - start, self._recent[-1]
                slopes = self._slopes(start, end, before, state, slope)
                for part in INNER_POINTS:
                    u = before + part * (state - before)
                    if slopes is not None:
                        first, last = (size * each - (state - before) for each in slopes)
                        u = u + part * (1 - part) * ((1 - part) * first - part * last)
                    found.append(u)
            return found

        return inner

    def _slopes(
        self, start: float, end: float, before: np.ndarray, state: np.ndarray, slope: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """du/ds (size,) at both ends of the step; None if not finite, or not defined by a singular mass."""
        if not self._has_slopes:
            return None
        system = self._replay.system
        first = system.derivative(start, before) if slope is None else slope
        last = self._slope = system.derivative(end, state)
        finite = np.isfinite(first).all() and np.isfinite(last).all()
        return (first, last) if system.space.every(bool(finite)) else None

    def _starts_from_root(self, watched: _OnWatch, after: float) -> bool:
        """Whether an event value at the start of the run is zero within rounding errors of state and time.

        ``after`` is the event value at the end of the first step. The rounding error of time is measured by
        the rate of change over the first step. It also covers components near zero, whose own size says
        nothing about their rounding error.
        """
        system, trajectory = self._replay.system, self._replay.single
        layout, s = system.layout, float(trajectory.times[0])
        u = torch.from_numpy(self._recent[0]).to(layout.device, layout.dtype)
        wrt_t, wrt_u = gradients_of(watched.crossing.function, layout, system.direction * s, u)
        of_state = abs(wrt_t * s) + system.space.sum(float((wrt_u * u).abs().sum()))
        first = self._end - s
        rate, latest = abs(after - watched.before) / first, abs(trajectory.outputs[-1])
        if latest >= HORIZON:  # the run has no end by itself
            latest = LONG * first
        of_time = rate * max(abs(s), latest)
        eps = torch.finfo(layout.dtype).eps
        return abs(watched.before) <= START_ROUNDINGS * eps * (of_state + of_time)
