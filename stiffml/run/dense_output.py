"""Dense output: outputs between step ends, computed during a run and again for its derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stiffml.discretization.dense_output import Queries
from stiffml.discretization.interpolation import (
    Interpolator,
    NothingToRead,
    Reader,
    Reading,
    StateReadings,
)
from stiffml.discretization.numbering import is_output, output_of
from stiffml.discretization.trajectory import Segment
from stiffml.run.stepping import S, StepSolver


def reader_for(s: np.ndarray, replay: StepSolver) -> Reader:
    """The reader for outputs at the times ``s`` (Q,), in solver time.

    It uses the method's own interpolant, or a polynomial through nearby states where the method has none.
    """
    if not len(s):
        return NothingToRead()
    if replay.method.dense(replay.system.form) is None:
        return Interpolator(s, replay.method.interpolation, replay.single)
    return StepReader(s, replay)


def with_read_outputs(replay: S, readings: Sequence[Reading]) -> S:
    """The replay of a finished run, with those of its outputs added that are rows of a step."""
    if isinstance(readings, StateReadings):
        return replay
    firsts = [(int(reading.states[0]), reading) for reading in readings if reading.s is not None]
    asked = [(output_of(n), r.end - 1, r.s) for n, r in firsts if is_output(n)]
    if not asked:
        return replay
    numbers, steps, s = (np.array(values) for values in zip(*asked, strict=True))
    return replay.asked(Queries(s, steps, numbers))


class StepReader(Reader):
    """Computes outputs by the method's own interpolant, one step at a time.

    Parameters
    ----------
    s : ndarray
        (Q,) output times in solver time, in any order.
    replay : StepSolver
    """

    def __init__(self, s: np.ndarray, replay: StepSolver) -> None:
        self._s, self._replay = s, replay
        self._waiting = np.argsort(s, kind="stable")
        self._found: dict[int, Reading] = {}
        self._before = np.empty(0)
        self._last: Segment | None = None

    def read(
        self,
        state: int,
        value: np.ndarray,
        stages: np.ndarray | None = None,
        slopes: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        before, self._before = self._before, value
        if state > 0 and len(self._waiting):
            states = np.stack([before, value])
            kept = None if stages is None else stages[None]
            self._last = Segment(self._replay.trajectory, state - 1, state, state - 1, states, kept, slopes)
            self._take(self._last, float(self._replay.trajectory.times[state]))

    def finish(self) -> list[Reading]:
        times = self._replay.trajectory.times
        if self._last is not None:
            # By rounding, the last step may end slightly before an output time at the end of the run.
            self._take(self._last, float(times[-1] + 1e-12 * abs(times[-1] - times[0])))
        return [self._found[q] for q in sorted(self._found)]

    def _take(self, segment: Segment, until: float) -> None:
        count = int(np.searchsorted(self._s[self._waiting], until, side="right"))
        numbers, self._waiting = self._waiting[:count], self._waiting[count:]
        if count:
            times = self._replay.trajectory.times[: segment.last + 1]
            values = self._replay.asked(Queries.at(self._s[numbers], times, numbers)).outputs(segment)
            for q, u in values.items():
                self._found[q] = Reading.of_output(q, segment.last, float(self._s[q]), u)
