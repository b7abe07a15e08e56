"""Steps that are known in advance: those asked for, and a starting ramp where the method needs one."""

from __future__ import annotations

import numpy as np

from stiffml.methods import Method
from stiffml.steps import Fixed, Fractions, Grid, Recorded, with_ramps


def scheduled(steps: Fixed | Grid | Recorded, outputs: np.ndarray, method: Method) -> tuple[Fractions, int]:
    """The steps of every output interval, and how many of them a starting ramp has added."""
    fractions = steps.fractions(outputs)
    if method.history == 1 or isinstance(steps, Recorded):
        return fractions, 0
    ramped = with_ramps(fractions, outputs, method.starting_order, method.growth, method.jump)
    return ramped, sum(map(len, ramped)) - sum(map(len, fractions))


def step_ends(fractions: Fractions, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The times (steps,) at which all steps end, and (steps,) bool which of them are ``outputs`` (n,)."""
    counts = np.array([len(part) for part in fractions], dtype=int)
    begin, end, part = (
        np.repeat(outputs[:-1], counts),
        np.repeat(outputs[1:], counts),
        np.concatenate([np.empty(0), *fractions]),
    )
    # The last step ends on ``end`` itself: begin + 1.0·(end − begin) may round to another number.
    is_output = np.zeros(len(part), dtype=bool)
    is_output[np.cumsum(counts) - 1] = True
    return np.where(part == 1, end, begin + part * (end - begin)), is_output


def all_ends(
    steps: Fixed | Grid | Recorded, outputs: np.ndarray, method: Method
) -> tuple[np.ndarray, np.ndarray, int]:
    """The same for steps of these kinds, and the number of steps that a starting ramp has added."""
    fractions, ramp_steps = scheduled(steps, outputs, method)
    return *step_ends(fractions, outputs), ramp_steps


def expected_steps(steps: Fixed | Grid | Recorded, outputs: np.ndarray, method: Method) -> int:
    """The number of steps, if none has to be cut."""
    return sum(map(len, scheduled(steps, outputs, method)[0])) if len(outputs) > 1 else 0
