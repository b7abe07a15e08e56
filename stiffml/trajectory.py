"""What a forward run leaves behind for the reverse sweep and for the caller."""

from __future__ import annotations

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
    half : tuple of float and ndarray, or None
        Time and state of the half step with which a BDF run of order 2 or more starts.
    """

    def __init__(self, outputs: np.ndarray, u0: np.ndarray) -> None:
        self.outputs = outputs
        self.output_steps = [0]
        self.half: tuple[float, np.ndarray] | None = None
        self._times = [float(outputs[0])]
        self._sizes: list[float] = []
        self._states = np.empty((64, u0.size))
        self._states[0] = u0

    def append(self, time: float, size: float, state: np.ndarray) -> None:
        count = len(self._times)
        if count == len(self._states):
            self._states = np.concatenate([self._states, np.empty_like(self._states)])
        self._states[count] = state
        self._times.append(time)
        self._sizes.append(size)

    def mark_output(self) -> None:
        """The last step ended on the next output time."""
        self.output_steps.append(len(self._sizes))

    @property
    def last_state(self) -> np.ndarray:
        return self._states[len(self._sizes)]

    @property
    def n_steps(self) -> int:
        return len(self._sizes)

    @property
    def times(self) -> np.ndarray:
        """(n_steps + 1,) step ends as PETSc added them up: equal to the outputs within rounding."""
        return np.array(self._times)

    @property
    def sizes(self) -> np.ndarray:
        """(n_steps,)"""
        return np.array(self._sizes)

    @property
    def states(self) -> Tensor:
        """(n_steps + 1, size) float64; a view, not a copy."""
        return torch.from_numpy(self._states[: len(self._times)])

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
