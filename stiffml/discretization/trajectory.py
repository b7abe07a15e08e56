"""What a forward run leaves behind for the reverse sweep and for the caller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stiffml.discretization.equations import HALF
from stiffml.steps import Fractions, Recorded


class Growing:
    """Rows of one shape in memory, appended one by one."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._rows = np.empty((64, *shape))
        self.count = 0

    def append(self, row: np.ndarray | float) -> None:
        if self.count == len(self._rows):
            grown = np.empty((2 * self.count, *self._rows.shape[1:]))
            grown[: self.count] = self._rows
            self._rows = grown
        self._rows[self.count] = row
        self.count += 1

    @property
    def rows(self) -> np.ndarray:
        """(count, *shape); a view, valid until the next append."""
        return self._rows[: self.count]


class Trajectory:
    """The accepted steps of one run: when they ended, and where the outputs lie among them.

    What was kept of the states is elsewhere, in :mod:`stiffml.run.checkpoints`: this is small.

    Attributes
    ----------
    outputs : ndarray
        Output times in solver time, the first one the start.
    output_steps : list of int
        For each output reached so far, the number of steps taken to it.
    half : tuple of float and ndarray, or None
        Time and state of the half step with which a BDF run of order 2 or more starts.
    end_is_held : bool
        Whether the last step was let end elsewhere, at an event, which output times do not move.
    """

    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs = outputs
        self.output_steps = [0]
        self.half: tuple[float, np.ndarray] | None = None
        self.end_is_held = False
        self._times, self._sizes = Growing(()), Growing(())
        self._times.append(outputs[0])

    def append(self, time: float, size: float) -> None:
        self._sizes.append(size)
        self._times.append(min(time, self.outputs[-1]))  # the sum of steps may round beyond the last

    def end_last_step(self, time: float, size: float) -> None:
        """Let the last step end elsewhere."""
        self.end_is_held = True
        self._times.rows[-1], self._sizes.rows[-1] = time, size

    def drop_last_step(self) -> None:
        """Forget it."""
        self.end_is_held = False
        self._times.count -= 1
        self._sizes.count -= 1

    def mark_output(self) -> None:
        """The last step ended on the next output time."""
        self.output_steps.append(self.n_steps)

    @property
    def n_steps(self) -> int:
        """Steps accepted."""
        return self._sizes.count

    @property
    def times(self) -> np.ndarray:
        """(n_steps + 1,) step ends as PETSc added them up: equal to the outputs within rounding."""
        return self._times.rows

    @property
    def sizes(self) -> np.ndarray:
        """(n_steps,)"""
        return self._sizes.rows

    def times_at(self, states: np.ndarray) -> np.ndarray:
        """(N,) numbers of states, ``HALF`` among them -> (N,) their times."""
        times = self.times[states]
        return times if self.half is None else np.where(states == HALF, self.half[0], times)

    def recorded(self) -> Recorded:
        """The steps of every interval that was completed, for taking them again."""
        return Recorded.of_run(self._fractions())

    def _fractions(self) -> Fractions:
        sizes = self.sizes
        ends = []
        for first, last in zip(self.output_steps[:-1], self.output_steps[1:], strict=True):
            fractions = np.cumsum(sizes[first:last])
            fractions /= fractions[-1]
            fractions[-1] = 1.0
            ends.append(fractions)
        return tuple(ends)

    def output_gradient(self, boundaries: np.ndarray) -> np.ndarray:
        """dL/d(step ends) -> dL/d(output times): steps keep their fraction of their interval."""
        gradient = np.zeros(len(self.outputs))
        gradient[0] = boundaries[0]
        intervals = zip(self.output_steps[:-1], self.output_steps[1:], strict=True)
        for j, ((first, last), ends) in enumerate(zip(intervals, self._fractions(), strict=True)):
            inside = boundaries[first + 1 : last + 1]
            gradient[j] += inside @ (1 - ends)
            gradient[j + 1] += inside @ ends
        # Of a run that ended within an interval its steps end where they would have, but for an event.
        last = self.output_steps[-1]
        if len(self.output_steps) < len(self.outputs):
            begin, end = self.outputs[len(self.output_steps) - 1 : len(self.output_steps) + 1]
            moved = slice(last + 1, self.n_steps if self.end_is_held else self.n_steps + 1)
            inside, ends = boundaries[moved], (self.times[moved] - begin) / (end - begin)
            gradient[len(self.output_steps) - 1] += inside @ (1 - ends)
            gradient[len(self.output_steps)] += inside @ ends
        return gradient


@dataclass(frozen=True)
class Segment:
    """The steps ``first`` … ``last`` − 1 of a trajectory, with the states that they join.

    Attributes
    ----------
    origin : int
        Which state ``states`` begins with: ``first``, or earlier ones that multistep formulas use.
    states : ndarray
        (last + 1 − origin, size)
    stages : ndarray or None
        (steps, stages, size) the vectors that only one step knows of; None until they are solved for.
    """

    trajectory: Trajectory
    first: int
    last: int
    origin: int
    states: np.ndarray
    stages: np.ndarray | None = None

    @property
    def steps(self) -> int:
        return self.last - self.first

    @property
    def sizes(self) -> np.ndarray:
        """(steps,)"""
        return self.trajectory.sizes[self.first : self.last]

    @property
    def times(self) -> np.ndarray:
        """(steps + 1,) ends of the steps, the start of the first included."""
        return self.trajectory.times[self.first : self.last + 1]

    def times_at(self, states: np.ndarray) -> np.ndarray:
        """(N,) numbers of states, ``HALF`` among them -> (N,) their times."""
        return self.trajectory.times_at(states)

    def states_at(self, states: np.ndarray) -> np.ndarray:
        """(N,) numbers of states, ``HALF`` among them -> (N, size); a view where they are consecutive."""
        if len(states) and states[0] >= 0 and states[-1] - states[0] == len(states) - 1:
            return self.states[states[0] - self.origin : states[-1] + 1 - self.origin]
        values = self.states[np.maximum(states, self.origin) - self.origin]
        if self.trajectory.half is not None:
            values[states == HALF] = self.trajectory.half[1]
        return values

    def stage(self, first: int, steps: int, stage: int) -> np.ndarray:
        """(steps, size) one stage of the steps from ``first`` on."""
        assert self.stages is not None, "the stages of this segment were not solved for"
        return self.stages[first - self.first : first - self.first + steps, stage]
