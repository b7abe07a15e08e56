"""Derivatives of the time of an event and of the state there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.numbering import HALF
from stiffml.gradients.end_time import end_time_tangents
from stiffml.gradients.refusals import differentiable_no_further, require_single
from stiffml.gradients.tape import Tape
from stiffml.run.crossings import EventFunc, checked, gradients_of
from stiffml.system.space import Space
from stiffml.system.system import System


def differentiable_event(event: EventFunc, tape: Tape, s: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """The time () and state (size,) of an event as differentiable tensors.

    ``s`` is the time of the event in solver time. ``u`` (size,) is the state there, differentiable with the
    end time held constant. g is the event function. By the implicit function theorem, a change δg moves the
    end time by −δg / (dg/dt). dg/dt includes the change of u with the end of the last step.
    """
    system = tape.replay.system
    t = torch.tensor(system.direction * s, dtype=u.dtype, device=u.device)

    def velocity() -> np.ndarray:
        return system.direction * end_time_tangents(tape)[tape.replay.trajectory.n_steps]

    return at_event(event, system, t, u, velocity)


def at_event(
    event: EventFunc, system: System, t: Tensor, u: Tensor, velocity: np.ndarray | Callable[[], np.ndarray]
) -> tuple[Tensor, Tensor]:
    """The time () and state (size,) of an event at ``t`` () and ``u`` (size,), by its function.

    ``u`` is differentiable with t held constant. ``velocity``, or what it returns, is du/dt (size,).
    """
    layout = system.layout
    value = checked(event(t, layout.unflatten(u)))
    # The gradient may be needed in another process only, and computing it takes all of them.
    if system.space.every(not (torch.is_grad_enabled() and (u.requires_grad or value.requires_grad))):
        return t, u
    moving = torch.from_numpy(velocity() if callable(velocity) else velocity).to(u)
    rate, wrt_u = gradients_of(event, layout, float(t), u)
    # If the state is shared among processes, the change of g is a sum over all of them.
    rate += system.space.sum(float(wrt_u @ moving))
    return _AtEvent.apply(t, u, value, moving, rate, system.space)


def moved_with_end(u: Tensor, end: Tensor, tape: Tape) -> Tensor:
    """The outputs u (n, size) of a run that an event ended, made to depend on the time of the event too.

    Outputs inside the last step, and the state at its end, depend on that end. The gradient of the run itself
    holds it constant. ``end`` () is the time of the event, differentiable.
    """
    if not end.requires_grad:
        return u
    readings, trajectory, system = tape.readings, tape.replay.trajectory, tape.replay.system
    last = trajectory.n_steps
    moving = [k for k, reading in enumerate(readings) if reading.end == last]
    if not moving:
        return u
    with torch.no_grad():
        tangents = end_time_tangents(tape)
    rates = {last: 1.0, **({HALF: 0.5} if last == 1 else {})}
    velocities = np.zeros(u.shape)
    for k in moving:
        at_end = readings[k].s is None
        tangent = tangents[last] if at_end else readings[k].tangent(tangents, rates)
        velocities[k] = system.direction * tangent
    return _MovedWithEnd.apply(u, end, torch.from_numpy(velocities).to(u), system.space)


class _MovedWithEnd(torch.autograd.Function):
    """(u, end) -> u + velocities·(end − end*), all at end = end*; for the gradient by ``end``."""

    @staticmethod
    def forward(ctx, u: Tensor, end: Tensor, velocities: Tensor, space: Space):
        ctx.save_for_backward(u, end, velocities)
        ctx.space = space
        return u.clone()

    @staticmethod
    def backward(ctx, along: Tensor):
        require_single(along, "the gradient of an event")
        u, end, velocities = ctx.saved_tensors
        with torch.no_grad():
            moved = ctx.space.sum(float((along * velocities).sum()))
            found = [along.clone(), torch.full_like(end, moved)]
        inputs = [along, u, end]
        return *differentiable_no_further(found, inputs, "the gradient of an event"), None, None


class _AtEvent(torch.autograd.Function):
    """(u, g) at the fixed time t* -> time and state at g = 0.

    They are t = t* − (g − g*)/rate and u + velocity·(t − t*), linearised at the event.
    """

    @staticmethod
    def forward(ctx, t: Tensor, u: Tensor, value: Tensor, velocity: Tensor, rate: float, space: Space):
        ctx.save_for_backward(u, value, velocity)
        ctx.rate, ctx.space = rate, space
        return t.clone(), u.clone()

    @staticmethod
    def backward(ctx, along_t: Tensor, along_u: Tensor):
        for along in (along_t, along_u):
            require_single(along, "the gradient of an event")
        u, value, velocity = ctx.saved_tensors
        if ctx.rate == 0:
            raise ZeroDivisionError(
                "event: the event function touches zero without crossing it, or has no derivative, so the "
                "time of the event has none"
            )
        with torch.no_grad():
            moved = ctx.space.sum(float(along_u @ velocity))
            found = [along_u.clone(), -(along_t + moved) / ctx.rate]
        inputs = [along_t, along_u, u, value]
        return None, *differentiable_no_further(found, inputs, "the gradient of an event"), None, None, None
