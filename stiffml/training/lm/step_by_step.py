"""Solves an interval step by step, to find where Newton's iteration over all of its steps can begin."""

from __future__ import annotations

import dataclasses

import numpy as np

from stiffml.errors import SolveError, Status
from stiffml.interface.arguments import Arguments
from stiffml.interface.solution import Solution
from stiffml.run.watching import StepLimit
from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.lm.one_by_one import one_solution

CUTS, FEW = 2, 10
"""How many steps an interval is solved by at most: so many for each one asked for, and a few more."""


def step_by_step(arguments: Arguments, times: np.ndarray, start: np.ndarray, steps: int | None) -> Solution:
    """The solution at ``times`` (rows,) from ``start`` (size,), by so many steps, or not many more.

    Steps that cannot be solved are cut, as often as needed. A solution by many more steps than were asked for
    is hardly ever near one by these, and those that come to no end are cut the most.

    Raises
    ------
    TrialError
        If many more steps are needed.
    SolveError, Exception
        If it cannot be solved, or what func raises.
    """
    if steps is None:
        return one_solution(arguments, times, start)
    most = CUTS * steps + FEW
    too_many = f"its steps were cut until they were {most} in place of {steps}"
    try:
        found = one_solution(dataclasses.replace(arguments, callback=StepLimit(most)), times, start)
    except SolveError as error:
        if error.status is Status.MAX_STEPS:
            raise TrialError(too_many, t=error.t) from error
        raise
    if found.status is Status.STOPPED:
        raise TrialError(too_many, t=found.step_times[-1].item())
    if len(found.step_times) == steps + 1:
        return found
    return one_solution(arguments, times, start)  # groups of steps solved together may need no cuts
