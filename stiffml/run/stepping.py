"""The roles that a forward run relies on: a stepper, and a solver of recorded steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from stiffml.discretization.dense_output import Queries
from stiffml.discretization.trajectory import Segment, Trajectories, Trajectory
from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.run.watching import Watch
from stiffml.settings import NewtonLimits, Tolerances
from stiffml.system.bounds import Limits
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System
from stiffml.system.trial_memory import PassedTrials


@dataclass(frozen=True)
class Plan:
    """Steps that are known before the run starts.

    Attributes
    ----------
    ends : ndarray
        (steps,) the times at which the steps end.
    is_output : ndarray
        (steps,) bool, whether that is a time on which steps must end.
    ramp_steps : int
        Number of steps that a starting ramp has added to those asked for.
    guess : ndarray or None
        (steps, size) initial guess for the states at these times.
    near : object
        What the solve that the guess is from has kept, see :attr:`Stepper.kept`; None if it is from none.
    trials : PassedTrials or None
        The trials of func that were made for a solve before and not for this one.
    is_differentiated : bool
        Whether gradients may be asked for, and memory spent on them.
    is_asked : bool
        Whether the caller wants them solved for together; else another way may be faster.
    """

    ends: np.ndarray
    is_output: np.ndarray
    ramp_steps: int = 0
    guess: np.ndarray | None = None
    near: object = None
    trials: PassedTrials | None = None
    is_differentiated: bool = False
    is_asked: bool = False


@dataclass(frozen=True)
class Task:
    """The data that a stepper needs for one run.

    Attributes
    ----------
    system : System
    method : Method
    solver : LinearSolver or None
        The solver for linear systems with the Jacobian of f; None for explicit methods.
    s0, u0 : float, ndarray
        Initial time and state (size,).
    tolerances : Tolerances or None
        Error tolerances. None for steps known in advance: then a step that fails is halved, and its error is
        not controlled.
    newton : NewtonLimits
    largest : float
        Largest step size that the error control may suggest.
    last : float
        The end time of the run.
    max_cuts : int
        A step has failed after this many cuts in a row.
    options : mapping
        The caller's PETSc options.
    limits : Limits or None
        Bounds that the states at step ends must satisfy.
    watches_stiffness : bool
        Whether an adaptive explicit method should detect stiffness.
    plan : Plan or None
        The steps of the run, if they are known.
    watch : Watch or None
        Looks at the steps.
    slopes : sequence of ndarray
        For explicit methods f (size,) at the start.
    keeps_stages : bool
        Whether the stages of explicit steps are kept.
    graphs : float
        Bytes of graphs of f that may be kept; 0 for none.
    """

    system: System
    method: Method
    solver: LinearSolver | None
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
    plan: Plan | None = None
    watch: Watch | None = None
    slopes: Sequence[np.ndarray] = ()
    keeps_stages: bool = False
    graphs: float = 0.0

    @property
    def shrink(self) -> float:
        """The factor by which a step is cut when its equations cannot be solved."""
        return 0.25 if self.tolerances else 0.5


@dataclass(frozen=True)
class Counts:
    """Counts of work over all steps so far.

    Attributes
    ----------
    rejected : int
        Attempted steps that were not accepted: their error was too large or their equations could not be
        solved.
    newton_iterations, krylov_iterations : int
    mended_jacobians : int
        Jacobians in which finite differences replaced derivatives that were not finite.
    at_once : int
        Steps that were solved together with others, all at once.
    in_c : int
        Steps that compiled code took by itself.
    """

    rejected: int = 0
    newton_iterations: int = 0
    krylov_iterations: int = 0
    mended_jacobians: int = 0
    at_once: int = 0
    in_c: int = 0


class Stepper(ABC):
    """Takes the steps of one run, one after the other.

    The run asks for a step of a given size. The stepper takes it, or a shorter one if the equations cannot
    be solved or the error is too large. If that fails too, it returns why. Exceptions raised by ``func``
    pass through unchanged.

    Attributes
    ----------
    detail : str
        How the iterations of the last failed step ended, for the message; empty if there is nothing to say.
    cut_by : Status or None
        Why the last step was cut, unless its error or its Newton iteration was the reason.
    """

    detail: str = ""
    cut_by: Status | None = None

    @abstractmethod
    def step(self, size: float) -> Status | None:
        """Take one step of at most ``size``. Return None if one was taken, else why not."""

    @property
    def kept(self) -> object | None:
        """What the reverse sweep can use again of the solution of the last steps; None for nothing."""
        return None

    @property
    def slopes(self) -> list[np.ndarray] | None:
        """For each part f, g its value (size,) at the last state, if the stepper has it."""
        return None

    @property
    def columns(self) -> tuple[np.ndarray, Mapping[int, np.ndarray]] | None:
        """The stages (stages, size) of the last step and f by its columns, if the stepper has them."""
        return None

    def take_ahead(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Take as many of the steps with these ``ends`` (steps,) as are solved for already; by default none.

        Returns their states (taken, size) and stages (taken, stages, size), like :attr:`stages`.
        """
        return np.empty((0, 0)), None

    @property
    @abstractmethod
    def time(self) -> float:
        """The end of the last accepted step."""

    @property
    @abstractmethod
    def state(self) -> np.ndarray:
        """(size,) the state at ``time``; a view that the next step overwrites."""

    @property
    @abstractmethod
    def stages(self) -> np.ndarray | None:
        """(stages, size) the stages of the last step; None if the method has none to keep."""

    @property
    def half(self) -> tuple[float, np.ndarray] | None:
        """Time and state (size,) of the half step with which BDF starts; None if there was none so far."""
        return None

    @property
    @abstractmethod
    def next_size(self) -> float:
        """The size that the error control suggests for the next step.

        After a step was cut for another reason than its error, not more than the size of that step.
        """

    @property
    @abstractmethod
    def counts(self) -> Counts:
        """The work of all steps so far."""

    @property
    @abstractmethod
    def newton_update(self) -> np.ndarray | None:
        """(size,) the last Newton update of a step whose iteration did not converge, else None."""

    @property
    def linear_failures(self) -> int:
        """How many linear systems could not be solved so far."""
        return 0

    @property
    def bad_slope(self) -> np.ndarray | None:
        """(size,) the last value of ``func`` that was not finite; if a step had several, its first."""
        return None

    @abstractmethod
    def set_tolerances(self, tolerances: Tolerances) -> None:
        """Set the error tolerances of the following steps."""

    @abstractmethod
    def why_cut(self) -> tuple[Status, str]:
        """The reason for the last cut that was not due to the error of a step, and how that solve ended."""

    def is_stiff(self, left: float) -> bool:
        """Whether the problem is too stiff for this explicit method.

        It is if stability alone has limited recent steps and many more such steps would be needed. ``left``
        is the remaining time of the run.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Free all memory held. Calling it again has no effect."""


def updates(sizes: list[float]) -> str:
    """A message about a failed Newton iteration: the norms of its last updates, relative to tolerance."""
    last = ", ".join(f"{size:.2e}" for size in sizes[-5:])
    return f"last updates, as multiples of its tolerance: {last}" if last else ""


S = TypeVar("S", bound="StepSolver")


class StepSolver(ABC):
    """Solves recorded steps of a trajectory again, for dense output and for states that were not kept.

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
        """The trajectory, if there is only one."""
        assert isinstance(self.trajectory, Trajectory), "this needs one trajectory at a time"
        return self.trajectory

    @abstractmethod
    def asked(self: S, queries: Queries) -> S:
        """A copy of this solver whose steps have the outputs of ``queries`` as additional rows."""

    @abstractmethod
    def step(self, step: int, states: np.ndarray, with_half: bool = False) -> Segment:
        """Solve one step again and return it as a segment with its stages.

        Parameters
        ----------
        step : int
            The number of the step.
        states : ndarray
            (N + 1, size) the N states up to the start of the step, and a last row for the new state, which is
            overwritten. The segment holds this array.
        with_half : bool
            Whether to solve the half step of a BDF start again too, and store it in the trajectory.
        """

    @abstractmethod
    def between(self, segment: Segment, steps: np.ndarray, s: np.ndarray) -> np.ndarray:
        """The states (Q, size) at times ``s`` (Q,) in some ``steps`` (Q,), by the method's interpolant."""

    @abstractmethod
    def outputs(self, segment: Segment) -> dict[int, np.ndarray]:
        """The outputs (size,) inside the steps of a segment, by number."""
