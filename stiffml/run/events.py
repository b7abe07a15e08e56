"""Terminal events: where a function of time and state has its root along a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from stiffml.discretization.trajectory import Segment
from stiffml.run.stepping import StepSolver
from stiffml.system.derivatives.products import gradient
from stiffml.system.state import Layout, State

EventFunc = Callable[[Tensor, State], Tensor]


@dataclass(frozen=True)
class Event:
    """Where a solve ended because its event function reached zero.

    ``t``: 0-d tensor, ``y``: the state there, in the shape of y0; both differentiable.
    """

    t: Tensor
    y: State


ROUNDING = 16
"""Roundings of the state and of time within which a value counts as zero. A root leaves 4 of time."""


INSIDE = (0.2, 0.4, 0.6, 0.8)
"""Where within a step the sign is looked at too, so that two roots between its ends are seen."""


class EventFinder:
    """Watches the sign of an event function along a run, and finds its root within a step.

    It is looked at where steps end, and in between on the cubic that has the states and slopes at both ends.

    Parameters
    ----------
    event : EventFunc
    replay : StepSolver
        Of the run, as far as it has come.
    s0, u0 : float, ndarray
        Where the run begins. A root right there does not count, nor one that differs by rounding, such as
        that which the run before ended on. Where the event function is NaN it has no sign.
    """

    def __init__(self, event: EventFunc, replay: StepSolver, s0: float, u0: np.ndarray) -> None:
        self._event, self._replay = event, replay
        self._recent = deque([u0], maxlen=replay.method.history)
        self._before = self._value(s0, u0)
        mass = replay.system.mass
        self._has_slopes = mass is None or not mass.singular
        self._slope: np.ndarray | None = None  # where the last step ended

    def _value(self, s: float, u: np.ndarray) -> float:
        layout, direction = self._replay.system.layout, self._replay.system.direction
        time = self._replay.system.f.span.own_time(direction * s)
        t = torch.tensor(time, dtype=layout.dtype, device=layout.device)
        state = torch.from_numpy(u).to(layout.device, layout.dtype)
        return float(checked(self._event(t, layout.unflatten(state))))

    def crosses(self, s: float, u: np.ndarray) -> bool:
        """Whether the event function has another sign at a time and a state than after the last step."""
        return bool(self._before * self._value(s, u) <= 0 and self._before != 0)

    def reached(self, state: np.ndarray) -> Segment | None:
        """The step just appended, cut short at the root of the event function if it has one."""
        trajectory = self._replay.single
        start, end = trajectory.times[-2:]
        before, after = self._before, self._value(end, state)
        crosses = before * after <= 0 and before != 0  # and neither is NaN
        slope, self._slope = self._slope, None
        if trajectory.n_steps == 1 and self._starts_from_root(after):
            self._recent.append(state)
            self._before = after
            return None

        def cut(size: float) -> Segment:
            trajectory.end_last_step(start + size, size)
            states = np.array([*self._recent, state])
            return self._replay.step(trajectory.n_steps - 1, states, True)

        def value(size: float) -> float:
            found = before if size == 0 else self._value(start + size, cut(size).states[-1])
            if np.isnan(found):
                where = self._replay.system.direction * (start + size)
                raise ValueError(f"event is NaN at t = {where:.10g}, though it changes its sign around there")
            return found

        size, smallest = end - start, 4 * np.spacing(max(abs(start), abs(end)))
        if before * after > 0:
            inside = self._inside(start, end, state, slope)
            if inside is not None:
                half = trajectory.half
                crosses = before * value(inside) < 0
                if crosses:
                    size, after = inside, -before
                else:
                    trajectory.half = half
                    trajectory.end_last_step(end, size)
        if not crosses:
            self._recent.append(state)
            self._before = after
            return None
        # Taken again, the step may end on the other side of a root that is there but for rounding.
        if after != 0 and before * value(size) < 0:
            size = max(brentq(value, 0.0, size, xtol=smallest, rtol=1e-15), smallest)
        return cut(size)

    def _inside(self, start: float, end: float, state: np.ndarray, slope: np.ndarray | None) -> float | None:
        """How far into the step the event function has the other sign, if it seems to have there.

        ``slope`` is that at its start, if it is known.
        """
        size, before = end - start, self._recent[-1]
        slopes = self._slopes(start, end, before, state, slope)
        for part in INSIDE:
            u = before + part * (state - before)
            if slopes is not None:
                first, last = (size * slope - (state - before) for slope in slopes)
                u = u + part * (1 - part) * ((1 - part) * first - part * last)
            if self._before * self._value(start + part * size, u) < 0:
                return part * size
        return None

    def _slopes(
        self, start: float, end: float, before: np.ndarray, state: np.ndarray, slope: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Those at its ends; None where algebraic equations hide them, or where they are not finite."""
        if not self._has_slopes:
            return None
        system = self._replay.system
        first = system.derivative(start, before) if slope is None else slope
        last = self._slope = system.derivative(end, state)
        finite = np.isfinite(first).all() and np.isfinite(last).all()
        return (first, last) if system.space.every(bool(finite)) else None

    def _starts_from_root(self, after: float) -> bool:
        """Whether the value at the start is zero but for rounding of the state and of time there.

        ``after`` is that at the end of the first step. A component near zero does not tell how large its
        rounding is: it is at least what the component changes by while time does by its own rounding.
        """
        system, trajectory = self._replay.system, self._replay.single
        layout, s = system.layout, float(trajectory.times[0])
        u = torch.from_numpy(self._recent[0]).to(layout.device, layout.dtype)
        wrt_t, wrt_u = gradients_of(self._event, layout, system.direction * s, u)
        of_state = abs(wrt_t * s) + system.space.sum(float((wrt_u * u).abs().sum()))
        rate = abs(after - self._before) / (trajectory.times[1] - s)
        of_time = rate * max(abs(s), abs(trajectory.outputs[-1]))
        eps = torch.finfo(layout.dtype).eps
        return abs(self._before) <= ROUNDING * eps * (of_state + of_time)


def checked(value: Tensor) -> Tensor:
    """The value of an event function as a 0-d tensor."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"event must return a tensor with one element, not {kind}")
    if not value.is_floating_point():
        raise TypeError(
            f"event must return a real number that changes its sign, not {value.dtype}: in place of a "
            "condition such as y[0] > 0.5 return the difference, y[0] - 0.5, whose root can be found"
        )
    return value.reshape(())


def gradients_of(event: EventFunc, layout: Layout, t: float, u: Tensor) -> tuple[float, Tensor]:
    """The derivatives of an event function with respect to time and state (size,), in the dtype of u."""
    with torch.enable_grad():
        time = torch.tensor(t, dtype=u.dtype, device=u.device, requires_grad=True)
        leaf = u.detach().clone().requires_grad_()
        value = checked(event(time, layout.unflatten(leaf)))
        one = torch.ones_like(value)
        return float(gradient(value, time, one, retain=True)), gradient(value, leaf, one)
