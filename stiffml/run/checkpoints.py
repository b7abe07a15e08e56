"""What a forward run keeps of its states, and how the reverse sweep gets at them, a segment at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from stiffml.discretization.trajectory import Segment
from stiffml.run.stepping import StepSolver


class Checkpoints(ABC):
    """The states of a run, kept or recomputable.

    ``takes_again``: whether some of them have to be computed again.
    """

    takes_again = False

    @abstractmethod
    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        """Keep the initial state, or the end of a step and the stages (stages, size) on its way.

        Raises
        ------
        OSError
            If there is no room; what was kept before is still good.
        """

    @property
    @abstractmethod
    def start(self) -> np.ndarray:
        """(size,) the initial state."""

    @property
    def states(self) -> np.ndarray | None:
        """(states, size) all of them, if they are in memory."""
        return None

    @property
    @abstractmethod
    def end(self) -> np.ndarray | None:
        """(size,) the last state, if it is at hand."""

    @abstractmethod
    def segments(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        """The steps up to ``last``, from the last back to the first, at most ``longest`` at a time.

        May be asked for again; what is not kept is then computed from the start.
        """

    @abstractmethod
    def forwards(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        """The same steps from the first on."""

    @abstractmethod
    def last_step(self, replay: StepSolver) -> Segment:
        """The last step alone; what is kept stays as it is."""
