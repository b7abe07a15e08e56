"""What a forward run leaves, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stiffml.discretization.interpolation import Reading
from stiffml.discretization.trajectory import Trajectory
from stiffml.errors import Status
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.same_function import Values


@dataclass
class Failure:
    """Why a run stopped: the last accepted time, the size that failed, the flat component to look at."""

    status: Status
    s: float
    size: float
    component: int | None
    detail: str = ""


@dataclass
class Run:
    """A forward run: what it leaves, how it ended, what it cost.

    ``returned`` (n_ends,) bool says which of the times that steps are to end on are those of outputs;
    ``between`` has the readings of outputs between steps; ``event`` is the time of the event that ended it.
    ``before`` and ``after`` are the values of f, and of g if there is one, at its start and its end, where
    they are finite.
    """

    trajectory: Trajectory
    checkpoints: Checkpoints
    returned: np.ndarray
    between: list[Reading] = field(default_factory=list)
    before: Values | None = None
    after: Values | None = None
    failure: Failure | None = None
    event: float | None = None
    ramp_steps: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def readings(self) -> list[Reading]:
        """Of all outputs: those that steps ended on, those between steps, the event."""
        at_event = [] if self.event is None else [self.trajectory.n_steps]
        marked = zip(self.trajectory.output_steps, self.returned, strict=False)
        steps = (Reading.of_state(n) for n, is_returned in marked if is_returned)
        return [*steps, *self.between, *map(Reading.of_state, at_event)]

    @property
    def in_time(self) -> list[int]:
        """The numbers of the readings but the event's, ordered by time."""
        reached = len(self.trajectory.output_steps)
        ends = self.trajectory.outputs[:reached][self.returned[:reached]]
        times = [*ends.tolist(), *(reading.s for reading in self.between)]
        return sorted(range(len(times)), key=times.__getitem__)

    def in_order(self, on_steps: np.ndarray) -> np.ndarray:
        """(n, size) the outputs in the order of the readings; ``on_steps`` are those that steps ended on."""
        count = int(self.returned[: len(self.trajectory.output_steps)].sum())
        between = [reading.value[None] for reading in self.between]
        return np.concatenate([on_steps[:count], *between, on_steps[count:]])
