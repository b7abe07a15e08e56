"""Terminal events: where a function of time and state has its root, and how that depends on everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from stiffml.discretization.trajectory import Segment
from stiffml.gradients.once import differentiable_no_further
from stiffml.gradients.tangent import end_time_tangent
from stiffml.run.replay import Replay
from stiffml.system.space import Space
from stiffml.system.state import State

EventFunc = Callable[[Tensor, State], Tensor]


@dataclass(frozen=True)
class Event:
    """Where a solve ended because its event function reached zero.

    ``t``: 0-d tensor, ``y``: the state there, in the shape of y0; both differentiable.
    """

    t: Tensor
    y: State


class EventFinder:
    """Watches the sign of an event function along a run, and finds its root within a step.

    Parameters
    ----------
    event : EventFunc
    replay : Replay
        Of the run, as far as it has come.
    s0, u0 : float, ndarray
        Where the run begins. A root right there does not count.
    """

    def __init__(self, event: EventFunc, replay: Replay, s0: float, u0: np.ndarray) -> None:
        self._event, self._replay = event, replay
        self._recent = deque([u0], maxlen=replay.method.history)
        self._before = self._value(s0, u0)

    def _value(self, s: float, u: np.ndarray) -> float:
        layout, direction = self._replay.system.layout, self._replay.system.direction
        t = torch.tensor(direction * s, dtype=layout.dtype, device=layout.device)
        state = torch.from_numpy(u).to(layout.device, layout.dtype)
        return float(checked(self._event(t, layout.unflatten(state))))

    def reached(self, state: np.ndarray) -> Segment | None:
        """The step just appended, cut short at the root of the event function if it has one."""
        trajectory = self._replay.trajectory
        start, end = trajectory.times[-2:]
        after = self._value(end, state)
        if self._before == 0 or self._before * after > 0 or np.isnan(after):
            self._recent.append(state)
            self._before = after
            return None

        def cut(size: float) -> Segment:
            trajectory.end_last_step(start + size, size)
            states = np.array([*self._recent, state])
            return self._replay.step(trajectory.n_steps - 1, states, True)

        def value(size: float) -> float:
            return self._before if size == 0 else self._value(start + size, cut(size).states[-1])

        size = end - start
        if after != 0:
            size = brentq(value, 0.0, size, xtol=4 * np.spacing(max(abs(start), abs(end))), rtol=1e-15)
        return cut(size or float(np.spacing(abs(start))))


def checked(value: Tensor) -> Tensor:
    """The value of an event function as a 0-d tensor."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"event must return a tensor with one element, not {kind}")
    return value.reshape(())


def differentiable_event(
    event: EventFunc, replay: Replay, checkpoints, s: float, u: Tensor
) -> tuple[Tensor, Tensor]:
    """The time and state of an event with their gradients.

    ``u`` (size,) is the state at the end of the run with the end time held, differentiable. By the implicit
    function theorem the end time moves by −δg / (dg/dt), where dg/dt includes how the last step's
    result moves with its end.
    """
    system = replay.system
    layout = system.layout
    velocity = torch.from_numpy(system.direction * end_time_tangent(replay, checkpoints)).to(u)
    with torch.enable_grad():
        t = torch.tensor(system.direction * s, dtype=u.dtype, device=u.device, requires_grad=True)
        leaf = u.detach().clone().requires_grad_()
        value = checked(event(t, layout.unflatten(leaf)))
        wrt_t, wrt_u = torch.autograd.grad(value, [t, leaf], allow_unused=True)
    rate = 0.0 if wrt_t is None else float(wrt_t)
    # The state may lie in several processes; what it does to g is a sum over all of it.
    rate += system.space.sum(0.0 if wrt_u is None else float(wrt_u @ velocity))
    value = checked(event(t.detach(), layout.unflatten(u)))
    return _AtEvent.apply(t.detach(), u, value, velocity, rate, system.space)


class _AtEvent(torch.autograd.Function):
    """(u, g) at a held time -> (time, u) at g = 0: t = t* − (g − g*)/rate, u + velocity·(t − t*)."""

    @staticmethod
    def forward(ctx, t: Tensor, u: Tensor, value: Tensor, velocity: Tensor, rate: float, space: Space):
        ctx.save_for_backward(u, value, velocity)
        ctx.rate, ctx.space = rate, space
        return t.clone(), u.clone()

    @staticmethod
    def backward(ctx, along_t: Tensor, along_u: Tensor):
        u, value, velocity = ctx.saved_tensors
        if ctx.rate == 0:
            raise ZeroDivisionError(
                "event: the event function touches zero without crossing it, so the time of the event has no "
                "derivative"
            )
        with torch.no_grad():
            moved = ctx.space.sum(float(along_u @ velocity))
            found = [along_u.clone(), -(along_t + moved) / ctx.rate]
        inputs = [along_t, along_u, u, value]
        return None, *differentiable_no_further(found, inputs, "the gradient of an event"), None, None, None
