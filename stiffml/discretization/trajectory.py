"""Trajectories: the steps that forward runs took, and segments of them with their states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from stiffml.discretization.numbering import is_half, start_of_half
from stiffml.steps import Fractions, Recorded

FEW = 16
"""Steps of an interval that are summed one by one."""


class Growing:
    """An array in memory to which rows of one shape are appended."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._rows = np.empty((64, *shape))
        self.count = 0

    def append(self, row: np.ndarray | float) -> None:
        """Append one row (*shape)."""
        if self.count == len(self._rows):
            grown = np.empty((2 * self.count, *self._rows.shape[1:]))
            grown[: self.count] = self._rows
            self._rows = grown
        self._rows[self.count] = row
        self.count += 1

    def extend(self, rows: np.ndarray) -> None:
        """Append rows (K, *shape)."""
        count = self.count + len(rows)
        if count > len(self._rows):
            grown = np.empty((max(count, 2 * self.count), *self._rows.shape[1:]))
            grown[: self.count] = self._rows[: self.count]
            self._rows = grown
        self._rows[self.count : count] = rows
        self.count = count

    @property
    def rows(self) -> np.ndarray:
        """(count, *shape); a view, valid until the next append."""
        return self._rows[: self.count]


class Trajectory:
    """The accepted steps of one run: their times and sizes, and which of them end on outputs.

    The states are stored separately, in :mod:`stiffml.run.checkpoints`.

    Attributes
    ----------
    outputs : ndarray
        (outputs,) the times that steps must end on, in solver time. The first is the start of the run.
    output_steps : list of int
        For each output reached so far, the number of steps from the start to it.
    half : tuple of float and ndarray, or None
        Time and state (size,) of the half step with which a BDF run of order 2 or more starts.
    end_is_held : bool
        Whether the last step was moved to end at an event, so that its end does not depend on output times.
    """

    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs = outputs
        self.output_steps = [0]
        self.half: tuple[float, np.ndarray] | None = None
        self.end_is_held = False
        self._times, self._sizes = Growing(()), Growing(())
        self._times.append(outputs[0])

    @classmethod
    def of_steps(
        cls,
        outputs: np.ndarray,
        ends: np.ndarray,
        output_steps: list[int],
        half: tuple[float, np.ndarray] | None,
    ) -> Trajectory:
        """The trajectory of K steps that end at ``ends`` (K,), on outputs after ``output_steps`` steps."""
        made = cls(outputs)
        made._times.extend(ends)
        made._sizes.extend(np.diff(made.times))
        made.output_steps, made.half = output_steps, half
        return made

    def append(self, time: float, size: float) -> None:
        """Add an accepted step by its end and its size."""
        self._sizes.append(size)
        # The sum of the steps may round beyond the last output.
        self._times.append(min(time, self.outputs[-1]))

    def extend(self, ends: np.ndarray, sizes: np.ndarray) -> None:
        """Add K accepted steps by their ends and their sizes, both (K,)."""
        self._sizes.extend(sizes)
        self._times.extend(np.minimum(ends, self.outputs[-1]))

    def end_last_step(self, time: float, size: float) -> None:
        """Move the end of the last step to ``time``."""
        self.end_is_held = True
        self._times.rows[-1], self._sizes.rows[-1] = time, size

    def restore_last_step(self, time: float, size: float) -> None:
        """Let the last step end by itself again, at ``time``, after it was moved."""
        self.end_last_step(time, size)
        self.end_is_held = False

    def drop_last_step(self) -> None:
        """Remove the last step."""
        self.end_is_held = False
        self._times.count -= 1
        self._sizes.count -= 1

    def with_steps(self, ends: np.ndarray) -> Trajectory:
        """A new trajectory with the steps of this one, and K further steps that end at ``ends`` (K,)."""
        longer = Trajectory(self.outputs)
        longer.half = self.half
        times = np.concatenate([self.times, np.minimum(ends, self.outputs[-1])])
        longer.extend(times[1:], np.concatenate([self.sizes, np.diff(times[self.n_steps :])]))
        return longer

    def copy(self) -> Trajectory:
        """The same steps, with a half step that can be replaced."""
        return self.with_steps(np.empty(0))

    def mark_output(self) -> None:
        """Record that the last step ended on the next output time."""
        self.output_steps.append(self.n_steps)

    @property
    def n_steps(self) -> int:
        """The number of accepted steps."""
        return self._sizes.count

    @property
    def last_size(self) -> float:
        """The size of the last step."""
        return float(self._sizes.rows[-1])

    @property
    def times(self) -> np.ndarray:
        """(n_steps + 1,) the start and the ends of all steps, as the stepper summed them.

        Ends on output times differ from these by rounding.
        """
        return self._times.rows

    @property
    def sizes(self) -> np.ndarray:
        """(n_steps,) the step sizes."""
        return self._sizes.rows

    @property
    def starts(self) -> np.ndarray:
        """(1,) int: 0, the number of the first state."""
        return np.zeros(1, dtype=int)

    def half_at(self, start: int) -> tuple[float, np.ndarray]:
        """Time and state (size,) of the half step of this trajectory."""
        assert self.half is not None, "this run has no half step"
        return self.half

    def recorded(self) -> Recorded:
        """The steps of all completed intervals, to be used as ``steps=`` of another solve."""
        return Recorded.of_run(self._fractions)

    def _fractions(self) -> Fractions:
        sizes, intervals = self.sizes, len(self.output_steps) - 1
        if self.output_steps[-1] == intervals:  # a step for each
            return tuple(np.ones((intervals, 1)))
        listed = sizes.tolist()
        ends = []
        for first, last in zip(self.output_steps[:-1], self.output_steps[1:], strict=True):
            if last - first <= FEW:  # the same numbers, without the costs of calls of numpy
                sums = list(accumulate(listed[first:last]))
                ends.append(np.array([*(part / sums[-1] for part in sums[:-1]), 1.0]))
                continue
            fractions = np.cumsum(sizes[first:last])
            fractions /= fractions[-1]
            fractions[-1] = 1.0
            ends.append(fractions)
        return tuple(ends)

    def output_gradient(self, boundaries: np.ndarray) -> np.ndarray:
        """From dL/d(step ends) (n_steps + 1,) to dL/d(output times) (outputs,).

        Each step end keeps its fraction of the interval between two outputs.
        """
        gradient = np.zeros(len(self.outputs))
        gradient[0] = boundaries[0]
        intervals = zip(self.output_steps[:-1], self.output_steps[1:], strict=True)
        for j, ((first, last), ends) in enumerate(zip(intervals, self._fractions(), strict=True)):
            inside = boundaries[first + 1 : last + 1]
            gradient[j] += inside @ (1 - ends)
            gradient[j + 1] += inside @ ends
        # The run may have stopped inside an interval. Its step ends move with that interval too, except the
        # end at an event.
        last = self.output_steps[-1]
        if len(self.output_steps) < len(self.outputs):
            begin, end = self.outputs[len(self.output_steps) - 1 : len(self.output_steps) + 1]
            moved = slice(last + 1, self.n_steps if self.end_is_held else self.n_steps + 1)
            inside, ends = boundaries[moved], (self.times[moved] - begin) / (end - begin)
            gradient[len(self.output_steps) - 1] += inside @ (1 - ends)
            gradient[len(self.output_steps)] += inside @ ends
        return gradient


class Trajectories:
    """Several trajectories, each with its own times, in flat arrays.

    Their states are numbered consecutively, see :mod:`stiffml.discretization.numbering`.

    Parameters
    ----------
    parts : sequence of Trajectory
        The trajectories of runs that have ended.

    Attributes
    ----------
    starts : ndarray
        (trajectories,) int: the numbers of their first states.
    times : ndarray
        (states,) the times of all states.
    sizes : ndarray
        (states − 1,) the sizes of all steps. Entries at the last state of a trajectory have no meaning.
    """

    def __init__(self, parts: Sequence[Trajectory]) -> None:
        self.parts = tuple(parts)
        lengths = [part.n_steps + 1 for part in parts]
        self.starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(int)
        self.times = np.concatenate([part.times for part in parts])
        self.sizes = np.diff(self.times)
        for start, part in zip(self.starts, parts, strict=True):
            self.sizes[start : start + part.n_steps] = part.sizes

    @property
    def n_steps(self) -> int:
        """The number of the last state of the last trajectory."""
        return len(self.sizes)

    def half_at(self, start: int) -> tuple[float, np.ndarray]:
        """Time and state (size,) of the half step of the trajectory whose first state is ``start``."""
        return self.parts[int(np.searchsorted(self.starts, start))].half_at(0)

    def output_gradient(self, boundaries: np.ndarray) -> np.ndarray:
        """From dL/d(step ends) (states,) to dL/d(output times), concatenated over the trajectories."""
        parts = np.split(boundaries, self.starts[1:])
        return np.concatenate([p.output_gradient(b) for p, b in zip(self.parts, parts, strict=True)])


def times_at(trajectory: Trajectory | Trajectories, states: np.ndarray) -> np.ndarray:
    """The times (N,) of states and half steps, given by number (N,)."""
    times = trajectory.times[np.maximum(states, 0)]
    for n in np.flatnonzero(is_half(states)):
        times[n] = trajectory.half_at(start_of_half(int(states[n])))[0]
    return times


@dataclass(frozen=True)
class Segment:
    """The steps ``first`` … ``last`` − 1 of one or several trajectories, with their states.

    Attributes
    ----------
    first, last : int
        The first step, and one more than the last step.
    origin : int
        The number of the first row of ``states``: ``first``, or less where multistep formulas use earlier
        states.
    states : ndarray
        (last + 1 − origin, size) the states ``origin`` … ``last``.
    stages : ndarray or None
        (last − first, stages, size) the stages of the steps; None if they were not kept or solved for.
    slopes : mapping or None
        f (size,) by columns, for a segment of one step of which it is known.
    """

    trajectory: Trajectory | Trajectories
    first: int
    last: int
    origin: int
    states: np.ndarray
    stages: np.ndarray | None = None
    slopes: Mapping[int, np.ndarray] | None = None

    @property
    def which(self) -> np.ndarray:
        """(steps,) int: the numbers of the steps. Numbers of last states of trajectories are left out."""
        numbers, starts = np.arange(self.first, self.last), self.trajectory.starts
        return numbers if len(starts) == 1 else numbers[~np.isin(numbers + 1, starts)]

    def starts_of(self, steps: np.ndarray) -> np.ndarray:
        """(N,) the first states of the trajectories that the steps (N,) belong to."""
        starts = self.trajectory.starts
        return starts[np.searchsorted(starts, steps, side="right") - 1]

    @property
    def begin(self) -> float:
        """The time at which the first step begins."""
        return float(self.trajectory.times[self.first])

    def times_at(self, states: np.ndarray) -> np.ndarray:
        """The times (N,) of states and half steps, given by number (N,)."""
        return times_at(self.trajectory, states)

    def states_at(self, states: np.ndarray) -> np.ndarray:
        """The vectors (N, size) of states and half steps, given by number (N,).

        For consecutive states this is a view.
        """
        if len(states) and states[0] >= 0 and states[-1] - states[0] == len(states) - 1:
            return self.states[states[0] - self.origin : states[-1] + 1 - self.origin]
        values = self.states[np.maximum(states, self.origin) - self.origin]
        for n in np.flatnonzero(is_half(states)):
            values[n] = self.trajectory.half_at(start_of_half(int(states[n])))[1]
        return values

    def stage(self, which: np.ndarray, stage: int) -> np.ndarray:
        """(steps, size) one stage of the steps ``which``; a view if the steps are consecutive."""
        assert self.stages is not None, "the stages of this segment were not solved for"
        if which[-1] - which[0] == len(which) - 1:
            return self.stages[which[0] - self.first : which[-1] + 1 - self.first, stage]
        return self.stages[which - self.first, stage]
