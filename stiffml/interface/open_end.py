"""Spans without an end of their own: they go on until an event."""

from __future__ import annotations

import dataclasses
import math

import torch

from stiffml.errors import SolveError, Status
from stiffml.interface.arguments import Arguments
from stiffml.interface.events import events_of
from stiffml.interface.solution import Solution
from stiffml.run.events import HORIZON
from stiffml.steps import Adaptive


def is_open(arguments: Arguments) -> bool:
    """Whether the last of the times (n,) is infinite."""
    times = arguments.t.detach().cpu().numpy()
    return len(times) > 1 and math.isinf(times[-1])


def with_far_end(arguments: Arguments) -> Arguments:
    """The same with a last time that no solve comes to but one that has become steady.

    Raises
    ------
    ValueError
        Where nothing would end the solve, or its steps are given by the length of the span.
    """
    t = arguments.t
    if not any(event.terminal for event in events_of(arguments.event)):
        raise ValueError(
            f"t is not finite at position {len(t) - 1}: an end at {float(t[-1].detach()):g} needs a terminal "
            "event, which ends the solve: event=…"
        )
    if not isinstance(arguments.steps, Adaptive | None):
        raise ValueError(
            "steps: to an infinite end only Adaptive() steps go, whose number is not known; pass a finite end"
        )
    end = torch.full_like(t[-1:].detach(), math.copysign(HORIZON, float(t[-1].detach())))
    return dataclasses.replace(arguments, t=torch.cat([t[:-1], end]))


def without_event(solution: Solution) -> SolveError:
    """The error of a solve that came to the far end; its solution is changed to one that failed."""
    times = solution.step_times
    steady = solution.pieces[-1].tape.run.trajectory.last_size
    error = SolveError(
        Status.NO_EVENT,
        "no event came, and steps have grown without limit, as they do where a solution is steady",
        "look at the event function at the last state; another level, or a finite end of t",
        t=float(times[-1]),
        h=steady,
    )
    last = slice(0, -1)  # the far end is no output
    y = solution.y
    solution.t = solution.t[last]
    solution.y = tuple(part[last] for part in y) if isinstance(y, tuple) else y[last]
    solution.status, solution.message = error.status, str(error)
    return error
