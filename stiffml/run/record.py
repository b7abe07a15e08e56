"""The result of a forward run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stiffml.discretization.interpolation import Reading, StateReadings
from stiffml.discretization.trajectory import Trajectory
from stiffml.errors import Status
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.same_function import Values


@dataclass
class Failure:
    """Why a run stopped early.

    Attributes
    ----------
    status : Status
    s : float
        The last accepted time, in solver time.
    size : float
        The step size that failed.
    component : int or None
        The flat index of the component that the failure points to.
    detail : str
        Further words for the message.
    """

    status: Status
    s: float
    size: float
    component: int | None
    detail: str = ""


@dataclass
class Run:
    """The result of a forward run: its steps, states and outputs, how it ended and what it cost.

    Attributes
    ----------
    trajectory : Trajectory
        The accepted steps.
    checkpoints : Checkpoints
        The states.
    returned : ndarray
        (n_ends,) bool: which of the times that steps must end on are output times.
    between : list of Reading
        The readings of outputs between step ends.
    before : Values or None
        Values of f and g at the start of the run; None if they are not finite or were not needed.
    find_after : callable or None
        Finds the values at its end when :attr:`after` is first asked for.
    failure : Failure or None
        Why the run stopped early, if it did.
    event : float or None
        The time of the event that ended the run, in solver time.
    event_number : int
        Which event that was.
    stopped : bool
        Whether the callback ended the run.
    ramp_steps : int
        Steps that a starting ramp has added.
    counts : dict of str to int
        The counts of the stepper, see :class:`stiffml.run.stepping.Counts`.
    given_up : str
        Why the steps had to be taken one by one, from the start, after all; empty if they had not.
    wall_s : float
        Wall time, seconds.
    kept : object or None
        See :attr:`stiffml.run.stepping.Stepper.kept`.
    """

    trajectory: Trajectory
    checkpoints: Checkpoints
    returned: np.ndarray
    between: list[Reading] = field(default_factory=list)
    before: Values | None = None
    find_after: Callable[[], Values | None] | None = None
    failure: Failure | None = None
    event: float | None = None
    event_number: int = 0
    stopped: bool = False
    ramp_steps: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    given_up: str = ""
    wall_s: float = 0.0
    kept: object | None = None

    @cached_property
    def after(self) -> Values | None:
        """Values of f and g at the end of the run, as ``before``."""
        return None if self.find_after is None else self.find_after()

    @property
    def readings(self) -> Sequence[Reading]:
        """The readings of all outputs: first those at step ends, then those between, then the event."""
        marked = np.array(self.trajectory.output_steps, dtype=int)
        steps = StateReadings(marked[self.returned[: len(marked)]])
        if not self.between and self.event is None:
            return steps
        at_event = [] if self.event is None else [self.trajectory.n_steps]
        return [*steps, *self.between, *map(Reading.of_state, at_event)]

    @property
    def in_time(self) -> list[int]:
        """The positions in ``readings`` ordered by time, without the event."""
        reached = len(self.trajectory.output_steps)
        ends = self.trajectory.outputs[:reached][self.returned[:reached]]
        times = [*ends.tolist(), *(reading.s for reading in self.between)]
        return sorted(range(len(times)), key=times.__getitem__)

    def in_order(self, on_steps: np.ndarray) -> np.ndarray:
        """(n, size) the outputs in the order of ``readings``.

        ``on_steps`` are the outputs at step ends, followed by the state at the event if there is one.
        """
        count = int(self.returned[: len(self.trajectory.output_steps)].sum())
        between = [reading.value[None] for reading in self.between]
        return np.concatenate([on_steps[:count], *between, on_steps[count:]])
