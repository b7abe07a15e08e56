"""Who takes the steps of each method."""

from __future__ import annotations

from collections.abc import Callable

from stiffml.methods import Method
from stiffml.native.replay import Replay
from stiffml.native.stepper import NativeStepper
from stiffml.petsc.stepper import PETScStepper
from stiffml.run.stepping import Solvers, Stepper, Task

STEPPERS: dict[str, Callable[[Task], Stepper]] = {"petsc": PETScStepper, "native": NativeStepper}
"""By the names in the capability table, :attr:`stiffml.methods.Method.stepper`."""


def solvers_for(method: Method) -> Solvers:
    """Who takes the steps of a run by a method, and who takes recorded ones again."""
    return Solvers(STEPPERS[method.stepper], Replay)
