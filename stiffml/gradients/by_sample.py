"""The gradients of compiled runs of one state, or of samples with steps of their own, in compiled code."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stiffml.discretization.interpolation import StateReadings
from stiffml.gradients.tape import Tape
from stiffml.native.compiled_run.alone import Columns
from stiffml.native.compiled_run.reversing import Reversed, reversed_in_c
from stiffml.run.stored import InMemory


def reversed_by_sample(tape: Tape, cotangents: Tensor) -> Reversed | None:
    """The gradients of such a run for dL/dy (n_outputs, size); None if compiled code lacks what they need.

    Gradients by times are not among them.
    """
    replay, checkpoints, system = tape.replay, tape.checkpoints, tape.replay.system
    if not system.f.is_compiled or system.layout.samples > 1:  # which would have steps in common
        return None
    if replay.has_queries or not isinstance(checkpoints, InMemory):
        return None
    of_states, readings, values = np.zeros(checkpoints.states.shape), tape.readings, cotangents.numpy()
    if isinstance(readings, StateReadings):
        np.add.at(of_states, readings.states, values)
    else:
        numbers = [reading.states for reading in readings]
        states = np.concatenate(numbers)
        if (states < 0).any():  # the half steps of BDF
            return None
        weights = np.concatenate([reading.weights for reading in readings])
        rows = np.repeat(np.arange(len(numbers)), [len(part) for part in numbers])
        np.add.at(of_states, states, weights[:, None] * values[rows])
    columns = tape.run.kept.values if isinstance(tape.run.kept, Columns) else None
    kept = checkpoints.states, checkpoints.stages, columns
    return reversed_in_c(replay.trajectory, replay.method, system, *kept, of_states)
