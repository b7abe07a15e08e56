"""Terminal events: finds the root of a function of time and state along a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from stiffml.discretization.trajectory import Segment
from stiffml.display import readable
from stiffml.run.stepping import StepSolver
from stiffml.system.derivatives.products import gradient
from stiffml.system.state import Layout, State

EventFunc = Callable[[Tensor, State], Tensor]


@readable
@dataclass(frozen=True)
class Event:
    """The event at which a solve ended: its event function reached zero.

    Attributes
    ----------
    t : Tensor
        (), the time of the event, differentiable.
    y : Tensor or structure of tensors
        The state there, in the form of y0, differentiable.
    """

    t: Tensor
    y: State


START_ROUNDINGS = 16
"""An event value at the start counts as zero if rounding errors of this many units could cause it.

The time of a root is found to 4 units, so a run that starts from a root stays below this.
"""


INNER_POINTS = (0.2, 0.4, 0.6, 0.8)
"""Fractions of a step at which the sign is checked too, to detect two roots inside one step."""


class EventFinder:
    """Watches the sign of an event function along a run and finds its root inside a step.

    The sign is checked at the end of each step. It is also checked at a few points inside, on the cubic
    through the states and slopes at both ends. A NaN value has no sign.

    Parameters
    ----------
    event : EventFunc
    replay : StepSolver
        Solves steps of this run again. Its trajectory grows with the run.
    s0, u0 : float, ndarray
        Initial time and state (size,). A root at the start is ignored, also one that differs from the start
        by rounding only, such as the event that ended an earlier run.
    """

    def __init__(self, event: EventFunc, replay: StepSolver, s0: float, u0: np.ndarray) -> None:
        self._event, self._replay = event, replay
        self._recent = deque([u0], maxlen=replay.method.history)
        self._before = self._value(s0, u0)
        mass = replay.system.mass
        self._has_slopes = mass is None or not mass.singular
        self._slope: np.ndarray | None = None  # du/ds at the end of the last step, if known

    def _value(self, s: float, u: np.ndarray) -> float:
        layout, direction = self._replay.system.layout, self._replay.system.direction
        time = self._replay.system.f.span.own_time(direction * s)
        t = torch.tensor(time, dtype=layout.dtype, device=layout.device)
        state = torch.from_numpy(u).to(layout.device, layout.dtype)
        return float(checked(self._event(t, layout.unflatten(state))))

    def crosses(self, s: float, u: np.ndarray) -> bool:
        """Whether the event function has changed its sign, or is zero, at ``s`` and ``u`` (size,).

        It is compared with its value after the last step.
        """
        return bool(self._before * self._value(s, u) <= 0 and self._before != 0)

    def reached(self, state: np.ndarray) -> Segment | None:
        """The last step, cut short at the root of the event function; None if there is no root in it.

        ``state`` (size,) is the end of that step, which the trajectory must contain already.
        """
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
        # The repeated step may differ by rounding, and end on the other side of a root at its very end.
        if after != 0 and before * value(size) < 0:
            size = max(brentq(value, 0.0, size, xtol=smallest, rtol=1e-15), smallest)
        return cut(size)

    def _inside(self, start: float, end: float, state: np.ndarray, slope: np.ndarray | None) -> float | None:
        """The time into the step at which the event function seems to have the other sign, or None.

        ``state`` (size,) is the end of the step. ``slope`` (size,) is du/ds at its start, None if not known.
        """
        size, before = end - start, self._recent[-1]
        slopes = self._slopes(start, end, before, state, slope)
        for part in INNER_POINTS:
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
        """du/ds (size,) at both ends of the step; None if not finite, or not defined by a singular mass."""
        if not self._has_slopes:
            return None
        system = self._replay.system
        first = system.derivative(start, before) if slope is None else slope
        last = self._slope = system.derivative(end, state)
        finite = np.isfinite(first).all() and np.isfinite(last).all()
        return (first, last) if system.space.every(bool(finite)) else None

    def _starts_from_root(self, after: float) -> bool:
        """Whether the event value at the start of the run is zero within rounding errors of state and time.

        ``after`` is the event value at the end of the first step. The rounding error of time is measured by
        the rate of change over the first step. It also covers components near zero, whose own size says
        nothing about their rounding error.
        """
        system, trajectory = self._replay.system, self._replay.single
        layout, s = system.layout, float(trajectory.times[0])
        u = torch.from_numpy(self._recent[0]).to(layout.device, layout.dtype)
        wrt_t, wrt_u = gradients_of(self._event, layout, system.direction * s, u)
        of_state = abs(wrt_t * s) + system.space.sum(float((wrt_u * u).abs().sum()))
        rate = abs(after - self._before) / (trajectory.times[1] - s)
        of_time = rate * max(abs(s), abs(trajectory.outputs[-1]))
        eps = torch.finfo(layout.dtype).eps
        return abs(self._before) <= START_ROUNDINGS * eps * (of_state + of_time)


def checked(value: Tensor) -> Tensor:
    """The value of an event function as a tensor of shape ().

    Raises
    ------
    TypeError
        If it is no tensor with one element, or not of floating point.
    """
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
    """∂event/∂t and ∂event/∂u (size,) at time ``t`` and state ``u`` (size,), in the dtype of u."""
    with torch.enable_grad():
        time = torch.tensor(t, dtype=u.dtype, device=u.device, requires_grad=True)
        leaf = u.detach().clone().requires_grad_()
        value = checked(event(time, layout.unflatten(leaf)))
        one = torch.ones_like(value)
        return float(gradient(value, time, one, retain=True)), gradient(value, leaf, one)
