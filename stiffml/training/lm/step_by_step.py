"""Solves an interval step by step, to find where Newton's iteration over all of its steps can begin."""

from __future__ import annotations

import dataclasses

import numpy as np

from stiffml.errors import Status
from stiffml.interface.arguments import Arguments
from stiffml.interface.solution import Solution
from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.lm.one_by_one import one_solution


def step_by_step(arguments: Arguments, times: np.ndarray, start: np.ndarray, most: int | None) -> Solution:
    """The solution at ``times`` (rows,) from ``start`` (size,), by at most so many steps.

    Steps that cannot be solved are cut, as often as needed. A solution by many more steps than were asked for
    is hardly ever near one by these, and those that come to no end are cut the most.

    Raises
    ------
    TrialError
        If more steps are needed.
    SolveError, Exception
        If it cannot be solved, or what func raises.
    """
    if most is None:
        return one_solution(arguments, times, start)
    found = one_solution(dataclasses.replace(arguments, callback=_Count(most)), times, start)
    if found.status is Status.STOPPED:
        cause = f"its steps were cut until they were {most}, for {len(times) - 1} rows"
        raise TrialError(cause, t=found.step_times[-1].item())
    return found


@dataclasses.dataclass
class _Count:
    """A callback that ends a solve with step number ``most``."""

    most: int
    taken: int = 0

    def __call__(self, t: object, y: object, h: object) -> bool:
        self.taken += 1
        return self.taken >= self.most
