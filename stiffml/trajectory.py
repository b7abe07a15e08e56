"""What a forward run leaves behind for the reverse sweep and for the caller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.steps import Recorded


class Trajectory:
    """The accepted steps of one run: times and states at their ends, and where the outputs lie.

    Attributes
    ----------
    outputs : ndarray
        Output times in solver time, the first one the start.
    output_steps : list of int
        For each output reached so far, the number of steps taken to it.
    n_steps : int
        Steps accepted.
    half : tuple of float and ndarray, or None
        Time and state of the half step with which a BDF run of order 2 or more starts.
    """

    def __init__(self, outputs: np.ndarray, u0: np.ndarray) -> None:
        self.outputs = outputs
        self.output_steps = [0]
        self.half: tuple[float, np.ndarray] | None = None
        self.n_steps = 0
        self._times = np.empty(64)
        self._sizes = np.empty(64)
        self._states = np.empty((64, u0.size))
        self._times[0], self._states[0] = outputs[0], u0

    def append(self, time: float, size: float, state: np.ndarray) -> None:
        if self.n_steps + 1 == len(self._times):
            self._times, self._sizes, self._states = (
                np.concatenate([kept, np.empty_like(kept)])
                for kept in (self._times, self._sizes, self._states)
            )
        self._sizes[self.n_steps] = size
        self.n_steps += 1
        self._times[self.n_steps], self._states[self.n_steps] = time, state

    def mark_output(self) -> None:
        """The last step ended on the next output time."""
        self.output_steps.append(self.n_steps)

    @property
    def last_state(self) -> np.ndarray:
        return self._states[self.n_steps]

    @property
    def times(self) -> np.ndarray:
        """(n_steps + 1,) step ends as PETSc added them up: equal to the outputs within rounding."""
        return self._times[: self.n_steps + 1]

    @property
    def sizes(self) -> np.ndarray:
        """(n_steps,)"""
        return self._sizes[: self.n_steps]

    @property
    def states(self) -> Tensor:
        """(n_steps + 1, size) float64; a view, not a copy."""
        return torch.from_numpy(self._states[: self.n_steps + 1])

    def recorded(self) -> Recorded:
        """The steps of every interval that was completed, for taking them again."""
        sizes = self.sizes
        ends = []
        for first, last in zip(self.output_steps[:-1], self.output_steps[1:], strict=True):
            fractions = np.cumsum(sizes[first:last])
            fractions /= fractions[-1]
            fractions[-1] = 1.0
            ends.append(fractions)
        return Recorded(tuple(ends))

    def output_gradient(self, boundaries: np.ndarray) -> np.ndarray:
        """dL/d(step ends) -> dL/d(output times): steps keep their fraction of their interval."""
        gradient = np.zeros(len(self.outputs))
        gradient[0] = boundaries[0]
        intervals = zip(self.output_steps[:-1], self.output_steps[1:], strict=True)
        for j, ((first, last), ends) in enumerate(zip(intervals, self.recorded().ends, strict=True)):
            inside = boundaries[first + 1 : last + 1]
            gradient[j] += inside @ (1 - ends)
            gradient[j + 1] += inside @ ends
        return gradient


@dataclass(frozen=True)
class Segment:
    """The steps ``first`` … ``last`` − 1 of a trajectory, which are differentiated together."""

    trajectory: Trajectory
    first: int
    last: int

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

    @property
    def states(self) -> Tensor:
        """(steps + 1, size) states at ``times``."""
        return self.trajectory.states[self.first : self.last + 1]

    @property
    def half(self) -> tuple[float, np.ndarray] | None:
        """The starting half step, if it belongs to the first step of this segment."""
        return self.trajectory.half if self.first == 0 else None
