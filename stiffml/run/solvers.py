"""Who takes the steps of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from stiffml.discretization.trajectory import Trajectory
from stiffml.methods import Method
from stiffml.run.nonstop import Nonstop
from stiffml.run.stepping import Stepper, StepSolver, Task
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System


class Solvers(NamedTuple):
    """The functions that make the stepper of a run, and the solver of its recorded steps.

    ``nonstop`` takes all steps by itself; None where they have to be taken one by one.
    """

    stepper: Callable[[Task], Stepper]
    again: Callable[[Trajectory, Method, System, LinearSolver | None], StepSolver]
    nonstop: Nonstop | None = None
