"""What a forward run keeps of its states, and how the reverse sweep gets at them, a segment at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from stiffml.trajectory import Growing, Segment, Trajectory


class Checkpoints(ABC):
    """The states of a run, kept or recomputable."""

    @abstractmethod
    def start(self, state: np.ndarray) -> None:
        """Keep the initial state."""

    @abstractmethod
    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        """A step was accepted: its end, and the stages (stages, size) it determined on its way."""

    @abstractmethod
    def segments(self, trajectory: Trajectory, last: int, longest: int, history: int) -> Iterator[Segment]:
        """The steps up to ``last``, from the last back to the first, ``longest`` steps at a time.

        ``history`` is the number of states the method's steps start from. May be iterated again.
        """


class InMemory(Checkpoints):
    """Every state, and the stages where the method hands them over."""

    def __init__(self, size: int) -> None:
        self._states = Growing((size,))
        self._stages: Growing | None = None

    def start(self, state: np.ndarray) -> None:
        self._states.append(state)

    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        self._states.append(state)
        if stages is not None:
            if self._stages is None:
                self._stages = Growing(stages.shape)
            self._stages.append(stages)

    def segments(self, trajectory: Trajectory, last: int, longest: int, history: int) -> Iterator[Segment]:
        while last > 0:
            first = max(0, last - longest)
            origin = max(0, first - history + 1)
            stages = None if self._stages is None else self._stages.rows[first:last]
            yield Segment(trajectory, first, last, origin, self._states.rows[origin : last + 1], stages)
            last = first
