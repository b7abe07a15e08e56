"""Checkpoints: stores the states of a forward run and returns them segment by segment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from stiffml.discretization.trajectory import Segment
from stiffml.run.stepping import StepSolver


class Checkpoints(ABC):
    """The states of a run, stored or recomputed from stored ones.

    Attributes
    ----------
    takes_again : bool
        Whether some states have to be recomputed.
    """

    takes_again = False

    @abstractmethod
    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        """Add the initial state (size,), or the state at the end of a step and its stages (stages, size).

        Raises
        ------
        OSError
            If there is no room. Earlier states are still valid.
        """

    def extend(self, states: np.ndarray, stages: np.ndarray | None) -> None:
        """Add the states (K, size) at the ends of K steps and their stages (K, stages, size)."""
        for number, state in enumerate(states):
            self.append(state, None if stages is None else stages[number])

    @property
    @abstractmethod
    def start(self) -> np.ndarray:
        """(size,) the initial state."""

    @property
    def states(self) -> np.ndarray | None:
        """(states, size) all states, if they are in memory; else None."""
        return None

    @property
    def stages(self) -> np.ndarray | None:
        """(steps, stages, size) those of all steps, if they are kept in memory; else None."""
        return None

    @property
    @abstractmethod
    def end(self) -> np.ndarray | None:
        """(size,) the last state; None if it would have to be recomputed."""

    @abstractmethod
    def segments(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        """The steps up to state ``last``, from the last back to the first, at most ``longest`` a segment.

        Can be called again. States that were dropped by then are recomputed from the initial state.
        """

    @abstractmethod
    def forwards(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        """The same steps, from the first to the last."""

    @abstractmethod
    def last_step(self, replay: StepSolver) -> Segment:
        """The last step alone. The stored states do not change."""
