"""The tape of a run: the record of a forward run that its derivatives need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from stiffml.discretization.interpolation import Reading
from stiffml.gradients.hooks import without_hooks
from stiffml.native.replay import Replay
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.dense_output import with_read_outputs
from stiffml.run.record import Run
from stiffml.stats import Stats
from stiffml.system.function.precision import without_autocast


@dataclass(frozen=True)
class Tape:
    """A forward run, the equations of its steps, and the readings of its outputs.

    Attributes
    ----------
    run : Run
    replay : Replay
        Has the equations of the steps, with rows for outputs inside steps, and can solve them again.
    readings : sequence of Reading
        How each output follows from the states. Empty if only the states are of interest.
    stats : Stats
        Counts the work of derivatives.
    """

    run: Run
    replay: Replay
    readings: Sequence[Reading]
    stats: Stats

    @property
    def checkpoints(self) -> Checkpoints:
        """The states of the run, kept or computed again."""
        return self.run.checkpoints

    def with_readings(self, readings: Sequence[Reading]) -> Tape:
        """The tape of the same run with these outputs. This tape must have none."""
        assert not self.readings
        return dataclasses.replace(self, replay=with_read_outputs(self.replay, readings), readings=readings)

    def read_later(self, readings: Callable[[], Sequence[Reading]]) -> Tape:
        """As :meth:`with_readings`, but the readings are made when derivatives first ask for them."""
        return _ReadLater(self, readings)

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
        """While active, func has the parameters and the precision of the run, and no hooks are called."""
        system = self.replay.system
        with system.as_it_was(), without_hooks(system.parameters), without_autocast():
            yield


class _ReadLater(Tape):
    """A tape whose readings, and the rows of its steps for these, are made when first asked for."""

    def __init__(self, tape: Tape, readings: Callable[[], Sequence[Reading]]) -> None:
        vars(self).update(run=tape.run, stats=tape.stats, _tape=tape, _read=readings)

    @cached_property
    def _whole(self) -> Tape:
        made: Tape = vars(self)["_tape"].with_readings(vars(self)["_read"]())
        return made

    @property
    def replay(self) -> Replay:  # type: ignore[override]
        return self._whole.replay

    @property
    def readings(self) -> Sequence[Reading]:  # type: ignore[override]
        return self._whole.readings
