"""Who takes the steps of each method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stiffml.all_at_once.stepper import AllAtOnceStepper
from stiffml.native.compiled_run import alone
from stiffml.native.explicit import ExplicitStepper
from stiffml.native.replay import Replay
from stiffml.native.stepper import NativeStepper
from stiffml.petsc.compiled_run import nonstop as by_petsc
from stiffml.petsc.compiled_run.qualifying import obstacle
from stiffml.petsc.stepper import PETScStepper
from stiffml.run.nonstop import Course, Nonstop, Taken
from stiffml.run.request import Request
from stiffml.run.solvers import Solvers
from stiffml.run.stepping import Stepper, Task


def _explicit(task: Task) -> Stepper:
    """Explicit steps; those with options of PETSc's are PETSc's."""
    return PETScStepper(task) if task.options else ExplicitStepper(task)


STEPPERS: dict[str, Callable[[Task], Stepper]] = {
    "petsc": PETScStepper,
    "native": NativeStepper,
    "explicit": _explicit,
}
"""By the names in the capability table, :attr:`stiffml.methods.Method.stepper`."""


def solvers_for(request: Request) -> Solvers:
    """Who takes the steps of a run, and who takes recorded ones again."""
    plan = request.plan
    if plan is None:
        return Solvers(STEPPERS[request.method.stepper], Replay, _nonstop(request))
    # Where C takes steps by itself, one by one is as fast as all at once from a guess. If a step has to be
    # cut there, they are solved for all at once.
    in_c = not plan.is_asked and not alone.obstacle(request)
    return Solvers(_all_at_once, Replay, partial(alone.taken_in_c, request) if in_c else None)


def _nonstop(request: Request) -> Nonstop | None:
    """Code in C that takes all steps of a run; None if there is none for it.

    A step of PETSc costs some 10 µs besides func, more than compiled functions of small systems. So the rows
    of the method are solved without it where C can do that, and the steps are the same.
    """
    if alone.obstacle(request):
        return None if obstacle(request) else by_petsc.taken_in_c
    return partial(_alone_or_by_petsc, request)


def _alone_or_by_petsc(request: Request, task: Task, course: Course) -> Taken:
    taken = alone.taken_in_c(request, task, course)
    return by_petsc.taken_in_c(task, course) if taken.given_up and not obstacle(request) else taken


def _all_at_once(task: Task) -> Stepper:
    """A stepper for known steps: the method's own if not even the first steps can be solved all at once."""
    stepper = AllAtOnceStepper(task)
    if stepper.has_begun:
        return stepper
    stepper.close()
    return STEPPERS[task.method.stepper](task)
