"""Who takes the steps of each method."""

from __future__ import annotations

from collections.abc import Callable

from stiffml.all_at_once.stepper import AllAtOnceStepper
from stiffml.native.compiled_run import alone
from stiffml.native.explicit import ExplicitStepper
from stiffml.native.replay import Replay
from stiffml.native.stepper import NativeStepper
from stiffml.petsc.compiled_run.nonstop import taken_in_c
from stiffml.petsc.compiled_run.qualifying import obstacle
from stiffml.petsc.stepper import PETScStepper
from stiffml.run.nonstop import Nonstop
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
    stepper = STEPPERS[request.method.stepper] if request.plan is None else _all_at_once
    return Solvers(stepper, Replay, _nonstop(request) if request.plan is None else None)


def _nonstop(request: Request) -> Nonstop | None:
    """Code in C that takes all steps of a run; None if there is none for it."""
    if not obstacle(request):
        return taken_in_c
    return None if alone.obstacle(request) else alone.taken_in_c


def _all_at_once(task: Task) -> Stepper:
    """A stepper for known steps: the method's own if not even the first steps can be solved all at once."""
    stepper = AllAtOnceStepper(task)
    if stepper.has_begun:
        return stepper
    stepper.close()
    return STEPPERS[task.method.stepper](task)
