"""Outputs between the ends of steps, of several samples with steps of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from stiffml.discretization.interpolation import Reading
from stiffml.discretization.numbering import half_step, is_half, is_output, output_state
from stiffml.discretization.trajectory import Trajectories
from stiffml.interface.few_steps import warn_of_few_steps
from stiffml.native.replay import Replay
from stiffml.run.dense_output import reader_for
from stiffml.run.stored import InMemory


def readings_between(replay: Replay, checkpoints: InMemory, asked: Sequence[np.ndarray]) -> list[Reading]:
    """The readings at times (k,) of every sample, in solver time; sample by sample, in the given order.

    Times after the last step of a sample are left out. States have their numbers among all samples.
    """
    trajectories = replay.trajectory
    assert isinstance(trajectories, Trajectories)
    kept = checkpoints.segment(replay, 0, trajectories.n_steps)
    readings: list[Reading] = []
    for part, s in zip(trajectories.parts, asked, strict=True):
        if warn_of_few_steps(replay, part.times, s):
            break  # one sample says it for all
    for start, part, s in zip(trajectories.starts.tolist(), trajectories.parts, asked, strict=True):
        if not len(s):
            continue
        own = Replay(part, replay.method, replay.system, replay.solver if replay.method.implicit else None)
        reader = reader_for(s, own)
        reader.read(0, kept.states[start])
        for n in range(part.n_steps):
            stages = None if kept.stages is None else kept.stages[start + n]
            reader.read(n + 1, kept.states[start + n + 1], stages)
        readings += [
            _among_all(reading, start, len(readings) + i) for i, reading in enumerate(reader.finish())
        ]
    return readings


def _among_all(reading: Reading, start: int, number: int) -> Reading:
    """A reading of a sample whose first state is ``start``, with the numbers that states have among all."""
    states = reading.states
    moved = np.where(is_half(states), half_step(start), states + start)
    if is_output(int(states[0])):
        moved = np.array([output_state(number)])
    return dataclasses.replace(reading, states=moved, end=reading.end + start)
