"""How the vectors of a run are numbered: states, half steps, outputs between steps.

The states of all trajectories lie on one axis: those of the first from 0 on, those of each other one after
the last state of the one before. Step n leads from state n to state n + 1, so that the last state of a
trajectory is the only one whose number is not that of a step. What lies between states has negative numbers.
"""

from __future__ import annotations

import numpy as np

STAGE = np.iinfo(np.int64).min
"""In ``Nodes.states``: the node is a stage, not a state."""


def half_step(start):
    """The half step with which the trajectory begins whose first state is ``start``: odd numbers.

    ``start`` is one number or an array of them, and so is what is returned.
    """
    return -1 - 2 * start


HALF = half_step(0)
"""The half step of the first trajectory, or the only one."""


def is_half(states: np.ndarray) -> np.ndarray:
    """Which of them are half steps."""
    return (states < 0) & (states % 2 == 1)


def start_of_half(state):
    """The first state of the trajectory that begins with this half step; of an array, for each."""
    return (-1 - state) // 2


def output_state(output):
    """The number, as a state, of an output between the ends of steps: even numbers.

    ``output`` is one number or an array of them, and so is what is returned.
    """
    return -2 - 2 * output


def is_output(state: int) -> bool:
    """Whether it is that of an output between the ends of steps."""
    return state < 0 and state % 2 == 0


def output_of(state: int) -> int:
    """The output that has this number as a state."""
    return (-2 - state) // 2
