"""What a run asks of others: to take its steps, and to take recorded ones again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from stiffml.discretization.dense_output import Queries
from stiffml.discretization.trajectory import Segment, Trajectories, Trajectory
from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.settings import NewtonLimits, Tolerances
from stiffml.system.bounds import Limits
from stiffml.system.system import System


@dataclass(frozen=True)
class Task:
    """What a stepper is made for.

    Attributes
    ----------
    s0, u0 : float, ndarray
        Initial time and state.
    tolerances : Tolerances or None
        None for steps known beforehand: then only a Newton failure cuts a step, in halves.
    newton : NewtonLimits
    largest : float
        Largest step size the error estimate may suggest.
    last : float
        Where the run ends.
    max_cuts : int
        Cuts of one step in a row before the step has failed.
    options : mapping
        The caller's PETSc options.
    limits : Limits or None
        Where steps may end.
    watches_stiffness : bool
        Whether an adaptive explicit method is to notice that the problem is stiff.
    """

    system: System
    method: Method
    s0: float
    u0: np.ndarray
    tolerances: Tolerances | None
    newton: NewtonLimits
    largest: float
    last: float
    max_cuts: int
    options: Mapping[str, object]
    limits: Limits | None = None
    watches_stiffness: bool = False

    @property
    def shrink(self) -> float:
        """By what a step is cut when it cannot be solved for."""
        return 0.25 if self.tolerances else 0.5


@dataclass(frozen=True)
class Counts:
    """What the steps so far have cost.

    ``rejected``: steps tried and not accepted, because their error was too large or their equations could not
    be solved. ``newton_iterations``, ``krylov_iterations``: of all solves. ``mended_jacobians``: those that
    took differences where derivatives were not finite.
    """

    rejected: int = 0
    newton_iterations: int = 0
    krylov_iterations: int = 0
    mended_jacobians: int = 0


class Stepper(ABC):
    """Takes the steps of one run, one after the other.

    A run asks for a step of some size. The stepper takes it, or a shorter one where the equations cannot be
    solved or the error is too large, or says why it cannot. An exception in ``func`` goes on unchanged.

    Attributes
    ----------
    detail : str
        Of the last step that failed: how its iterations ended.
    cut_by : Status or None
        Why the last step was cut, if neither for its error nor by Newton's iteration.
    """

    detail: str = ""
    cut_by: Status | None = None

    @abstractmethod
    def step(self, size: float) -> Status | None:
        """Take one step of at most ``size``; None if one was taken, else why not."""

    @property
    @abstractmethod
    def time(self) -> float:
        """The end of the last accepted step."""

    @property
    @abstractmethod
    def state(self) -> np.ndarray:
        """(size,) the state there; a view that the next step overwrites."""

    @property
    @abstractmethod
    def stages(self) -> np.ndarray | None:
        """(stages, size) the stages of the last step; None where they follow from the states."""

    @property
    def half(self) -> tuple[float, np.ndarray] | None:
        """Time and state of the hidden half step with which a multistep method starts, once it was taken."""
        return None

    @property
    @abstractmethod
    def next_size(self) -> float:
        """What the error estimate suggests for the next step; no more than the last after a cut by others."""

    @property
    @abstractmethod
    def counts(self) -> Counts:
        """What the steps so far have cost."""

    @property
    @abstractmethod
    def newton_update(self) -> np.ndarray | None:
        """(size,) the last update of Newton's iteration, if that did not converge."""

    @property
    def linear_failures(self) -> int:
        """Linear systems that could not be solved so far."""
        return 0

    @property
    def bad_slope(self) -> np.ndarray | None:
        """What ``func`` returned when it was last not finite, first in that step."""
        return None

    @abstractmethod
    def set_tolerances(self, tolerances: Tolerances) -> None:
        """Those of the steps to come."""

    @abstractmethod
    def why_cut(self) -> tuple[Status, str]:
        """Why steps were cut that were not too long for their error, and how the last solve for one ended."""

    def is_stiff(self, left: float) -> bool:
        """Whether the last step was short for stability alone, as those before, and many are to come.

        ``left`` is the time that is left.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Free what is held; may be called again."""


def updates(sizes: list[float]) -> str:
    """How a Newton iteration ended, in words: its last updates, relative to what is allowed."""
    last = ", ".join(f"{size:.2e}" for size in sizes[-5:])
    return f"last updates, as multiples of its tolerance: {last}" if last else ""


S = TypeVar("S", bound="StepSolver")


class StepSolver(ABC):
    """Solves recorded steps of a trajectory again: for outputs in them, and for states that were not kept.

    Attributes
    ----------
    trajectory : Trajectory or Trajectories
    method : Method
    system : System
    """

    trajectory: Trajectory | Trajectories
    method: Method
    system: System

    @property
    def single(self) -> Trajectory:
        """The trajectory, where there is one only."""
        assert isinstance(self.trajectory, Trajectory), "this needs one trajectory at a time"
        return self.trajectory

    @abstractmethod
    def asked(self: S, queries: Queries) -> S:
        """The same, with outputs that are further equations of their steps."""

    @abstractmethod
    def step(self, step: int, states: np.ndarray, with_half: bool = False) -> Segment:
        """One step, as a segment, which takes ``states`` (N + 1, size): those before it that it starts from,
        and room for the new one.

        ``with_half``: the half step of a BDF start is taken again as well, and the trajectory keeps it.
        """

    @abstractmethod
    def outputs(self, segment: Segment) -> dict[int, np.ndarray]:
        """The outputs in the steps of a segment, by their numbers."""


class Solvers(NamedTuple):
    """Who takes the steps of a run, and who takes recorded ones again."""

    stepper: Callable[[Task], Stepper]
    again: Callable[[Trajectory, Method, System], StepSolver]
