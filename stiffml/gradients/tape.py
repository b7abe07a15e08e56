"""The tape of a run: what the forward pass leaves for derivatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stiffml.discretization.interpolation import Reading
from stiffml.gradients.hooks import without_hooks
from stiffml.native.replay import Replay
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.dense_output import with_outputs
from stiffml.run.record import Run
from stiffml.stats import Stats


@dataclass(frozen=True)
class Tape:
    """A run, the equations of its steps, and how its outputs are read from the states.

    Attributes
    ----------
    run : Run
    replay : Replay
        Has the equations of the steps, those of outputs between steps included, and solves them again.
    readings : sequence of Reading
        One for each output. None for the states of the run alone.
    stats : Stats
        Where the cost of derivatives is counted.
    """

    run: Run
    replay: Replay
    readings: Sequence[Reading]
    stats: Stats

    @property
    def checkpoints(self) -> Checkpoints:
        """The states of the run, kept or computed again."""
        return self.run.checkpoints

    def with_outputs(self, readings: Sequence[Reading]) -> Tape:
        """The same run with these outputs in place of any others."""
        steps = Replay(self.run.trajectory, self.replay.method, self.replay.system)
        return dataclasses.replace(self, replay=with_outputs(steps, readings), readings=readings)

    def require_same_func(self) -> None:
        """Raise ReplayError if ``func`` has changed since the run."""
        run, system = self.run, self.replay.system
        if run.before is not None:
            run.before.require_same(system, run.checkpoints.start, find_used=True)
        end = run.checkpoints.end
        if run.after is not None and end is not None:
            run.after.require_same(system, end)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """For later use of the run: func's parameters are those of then, and their hooks are silent."""
        system = self.replay.system
        with system.as_it_was(), without_hooks(system.parameters):
            yield
