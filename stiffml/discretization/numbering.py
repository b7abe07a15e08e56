"""How the vectors of a run are numbered: states, half steps, outputs between step ends.

The states of all trajectories are numbered consecutively: first those of the first trajectory, from 0, then
those of the next, and so on. Step n leads from state n to state n + 1. No step starts from the last state of
a trajectory, so that number is not used for a step. Half steps have negative odd numbers, outputs between
step ends negative even ones.
"""

from __future__ import annotations

import numpy as np

STAGE = np.iinfo(np.int64).min
"""The entry of ``Nodes.states`` for a node that is a stage."""


def half_step(start):
    """The number of the half step of the trajectory whose first state is ``start``.

    For an array of first states, an array.
    """
    return -1 - 2 * start


HALF = half_step(0)
"""The number of the half step of the first trajectory."""


def is_half(states: np.ndarray) -> np.ndarray:
    """(N,) bool, which of the numbers are those of half steps."""
    return (states < 0) & (states % 2 == 1)


def start_of_half(state):
    """The first state of the trajectory with this half step; for an array, an array."""
    return (-1 - state) // 2


def output_state(output):
    """The number among states of output ``output``; for an array, an array."""
    return -2 - 2 * output


def is_output(state: int) -> bool:
    """Whether the number is that of an output between step ends."""
    return state < 0 and state % 2 == 0


def output_of(state: int) -> int:
    """The output with this number among states; the inverse of :func:`output_state`."""
    return (-2 - state) // 2
