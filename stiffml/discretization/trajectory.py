"""What forward runs leave behind for the reverse sweep and for the caller: the steps they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stiffml.discretization.numbering import is_half, start_of_half
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

    def extend(self, rows: np.ndarray) -> None:
        """Append several."""
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

    def with_steps(self, ends: np.ndarray) -> Trajectory:
        """This one and further steps, which end at ``ends`` (K,), as another trajectory."""
        longer = Trajectory(self.outputs)
        longer.half = self.half
        times = np.concatenate([self.times, np.minimum(ends, self.outputs[-1])])
        longer._times.extend(times[1:])
        longer._sizes.extend(np.concatenate([self.sizes, np.diff(times[self.n_steps :])]))
        return longer

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

    @property
    def starts(self) -> np.ndarray:
        """(1,) the number of the first state."""
        return np.zeros(1, dtype=int)

    def half_at(self, start: int) -> tuple[float, np.ndarray]:
        """Time and state of the half step that the trajectory from state ``start`` begins with."""
        assert self.half is not None, "this run has no half step"
        return self.half

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


class Trajectories:
    """Several trajectories, each with times of its own, in flat arrays.

    Their states have numbers on one axis, see :mod:`stiffml.discretization.numbering`.

    Parameters
    ----------
    parts : sequence of Trajectory
        Of runs that have ended.

    Attributes
    ----------
    starts : ndarray
        (trajectories,) int: the numbers of their first states.
    times : ndarray
        (states,) of all states.
    sizes : ndarray
        (states − 1,) of all steps; of no meaning where a number is that of a last state.
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
        """The number of the last state of all."""
        return len(self.sizes)

    def half_at(self, start: int) -> tuple[float, np.ndarray]:
        """Time and state of the half step that the trajectory from state ``start`` begins with."""
        return self.parts[int(np.searchsorted(self.starts, start))].half_at(0)

    def output_gradient(self, boundaries: np.ndarray) -> np.ndarray:
        """dL/d(step ends) -> dL/d(output times), those of one trajectory after those of another."""
        parts = np.split(boundaries, self.starts[1:])
        return np.concatenate([p.output_gradient(b) for p, b in zip(self.parts, parts, strict=True)])


def times_at(trajectory: Trajectory | Trajectories, states: np.ndarray) -> np.ndarray:
    """(N,) numbers of states, half steps among them -> (N,) their times."""
    times = trajectory.times[np.maximum(states, 0)]
    for n in np.flatnonzero(is_half(states)):
        times[n] = trajectory.half_at(start_of_half(int(states[n])))[0]
    return times


@dataclass(frozen=True)
class Segment:
    """The steps ``first`` … ``last`` − 1 of one trajectory or several, with the states that they join.

    Attributes
    ----------
    origin : int
        Which state ``states`` begins with: ``first``, or earlier ones that multistep formulas use.
    states : ndarray
        (last + 1 − origin, size)
    stages : ndarray or None
        (last − first, stages, size) the vectors that only one step knows of; None until they are solved for.
    """

    trajectory: Trajectory | Trajectories
    first: int
    last: int
    origin: int
    states: np.ndarray
    stages: np.ndarray | None = None

    @property
    def which(self) -> np.ndarray:
        """(steps,) int: which steps these are, without the numbers of last states."""
        numbers, starts = np.arange(self.first, self.last), self.trajectory.starts
        return numbers if len(starts) == 1 else numbers[~np.isin(numbers + 1, starts)]

    def starts_of(self, steps: np.ndarray) -> np.ndarray:
        """(N,) steps -> (N,) the first states of their trajectories."""
        starts = self.trajectory.starts
        return starts[np.searchsorted(starts, steps, side="right") - 1]

    @property
    def begin(self) -> float:
        """When the first of the steps begins."""
        return float(self.trajectory.times[self.first])

    def times_at(self, states: np.ndarray) -> np.ndarray:
        """(N,) numbers of states, half steps among them -> (N,) their times."""
        return times_at(self.trajectory, states)

    def states_at(self, states: np.ndarray) -> np.ndarray:
        """(N,) numbers of states, half steps among them -> (N, size); a view where they are consecutive."""
        if len(states) and states[0] >= 0 and states[-1] - states[0] == len(states) - 1:
            return self.states[states[0] - self.origin : states[-1] + 1 - self.origin]
        values = self.states[np.maximum(states, self.origin) - self.origin]
        for n in np.flatnonzero(is_half(states)):
            values[n] = self.trajectory.half_at(start_of_half(int(states[n])))[1]
        return values

    def stage(self, which: np.ndarray, stage: int) -> np.ndarray:
        """(steps, size) one stage of these steps; a view where they are consecutive."""
        assert self.stages is not None, "the stages of this segment were not solved for"
        if which[-1] - which[0] == len(which) - 1:
            return self.stages[which[0] - self.first : which[-1] + 1 - self.first, stage]
        return self.stages[which - self.first, stage]
