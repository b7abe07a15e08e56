"""How a step loop ends before its last output."""

from __future__ import annotations

import numpy as np

from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.run.record import Failure
from stiffml.run.stepping import Stepper, Task
from stiffml.settings import Tolerances
from stiffml.system.derivatives.infinite_entries import describe_derivative, infinite_derivative
from stiffml.system.finite import first_not_finite
from stiffml.system.system import System

STALLED = 20
"""Steps that linear solver failures may cut before the run stops.

It stops only if these are also more than a fifth of all steps.
"""


DERIVATIVE_FAILURES = (Status.NEWTON_FAILED, Status.LINEAR_FAILED, Status.NON_FINITE)
"""The ways in which a run can fail because a derivative of f is not finite."""

LEAST_SPACINGS = 16
"""A step shorter than this many spacings between floating-point times is lost in rounding."""


class Finished(Exception):
    """Ends the step loop: event ``number`` was reached, at the time ``s``."""

    def __init__(self, s: float, number: int) -> None:
        self.s, self.number = s, number


class Stop(Exception):
    """Ends the step loop: the run cannot go on."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def lost(size: float, s: float) -> str:
    """The message for a step that is lost in the rounding of time at ``s``; empty for a longer one."""
    spacing = float(np.spacing(abs(s)))
    if not size < LEAST_SPACINGS * spacing:
        return ""
    return (
        f"a step of {size:.1g} is lost in the rounding of t, whose neighbouring numbers are "
        f"{spacing:.1g} apart here"
    )


def where_infinite(method: Method, system: System, s: float, u: np.ndarray) -> str:
    """A description of where ∂f/∂y is not finite at the state ``u`` (size,); empty if it is finite."""
    if not method.implicit or system.space.is_distributed:
        return ""
    where = infinite_derivative(system.f, s, u.copy())
    return "" if where is None else describe_derivative(system.f, s, where)


def worst_component(
    status: Status,
    task: Task,
    stepper: Stepper | None,
    states: tuple[np.ndarray, np.ndarray],
    tolerances: Tolerances,
) -> int | None:
    """The flat index of the component to name in the message, or None.

    It is the component that is not finite, that breaks a bound, that is farthest from Newton convergence, or
    that changed most relative to its tolerance, depending on the failure. ``states`` are the last two,
    (size,) each; ``stepper`` is None if steps were not taken one by one.
    """
    if status is Status.NON_FINITE:
        slopes = [part.last_slope for part in task.system.parts]
        if stepper is not None and stepper.bad_slope is not None:
            slopes.insert(0, stepper.bad_slope)
        found = (first_not_finite(slope) for slope in slopes)
        return next((component for component in found if component is not None), None)
    if status is Status.OUT_OF_BOUNDS:
        return None if task.limits is None else task.limits.component
    before, state = states
    change: np.ndarray | None = state - before
    if status in (Status.NEWTON_FAILED, Status.LINEAR_FAILED):
        change = None if stepper is None else stepper.newton_update
    if change is None or not np.isfinite(change).all():
        return None
    return int(np.argmax(np.abs(change) / (tolerances.atol + tolerances.rtol * np.abs(state))))
