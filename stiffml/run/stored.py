"""Checkpoints that store every state, in memory or on disk, and the choice among all kinds."""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np

from stiffml.discretization.trajectory import Growing, Segment
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.stepping import StepSolver
from stiffml.run.thinned import Thinned
from stiffml.settings import Discrete, Disk


def checkpoints_for(adjoint: Discrete, size: int, history: int, expected_steps: int | None) -> Checkpoints:
    """The checkpoints that ``adjoint.checkpoints`` asks for.

    Parameters
    ----------
    size : int
        Components of a state.
    history : int
        Number of states that a step of the method starts from.
    expected_steps : int or None
        Number of steps of the run, if known.
    """
    wanted = adjoint.checkpoints
    if isinstance(wanted, Disk):
        return OnDisk(wanted.folder, size)
    if isinstance(wanted, int):
        return Thinned(max(1, wanted // history), history, expected_steps)
    return InMemory(size, with_stages=wanted == "stages")


class _EveryState(Checkpoints):
    """Checkpoints that keep every state, so that segments need no recomputed states."""

    @abstractmethod
    def _segment(self, replay: StepSolver, first: int, origin: int, end: int) -> Segment:
        """The steps ``first`` … ``end`` − 1, with the states ``origin`` … ``end``."""

    def segments(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        return self._with_steps(replay, _windows(last, longest, replay.method.history))

    def forwards(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        return self._with_steps(replay, reversed(list(_windows(last, longest, replay.method.history))))

    def _with_steps(self, replay: StepSolver, windows: Iterable[tuple[int, int, int]]) -> Iterator[Segment]:
        for window in windows:
            segment = self._segment(replay, *window)
            if len(segment.which):  # empty if it has only the last state of a trajectory
                yield segment

    def last_step(self, replay: StepSolver) -> Segment:
        return next(self.segments(replay, replay.trajectory.n_steps, 1))


class InMemory(_EveryState):
    """Keeps every state in memory, and on request the stages of methods that provide them."""

    def __init__(self, size: int, with_stages: bool) -> None:
        self._states = Growing((size,))
        self._stages: Growing | None = None
        self._with_stages = with_stages

    @classmethod
    def of(cls, states: np.ndarray, stages: np.ndarray | None) -> InMemory:
        """All states (states, size) of one run or several, in the numbering of ``Trajectories``.

        ``stages`` (states, stages, size) are those of the steps from each state, if they are kept; those of
        last states have no meaning.
        """
        made = cls(states.shape[1], with_stages=stages is not None)
        made._states.extend(states)
        if stages is not None:
            made._stages = Growing(stages.shape[1:])
            made._stages.extend(stages)
        return made

    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        self._states.append(state)
        if stages is not None and self._with_stages:
            if self._stages is None:
                self._stages = Growing(stages.shape)
            self._stages.append(stages)

    def extend(self, states: np.ndarray, stages: np.ndarray | None) -> None:
        self._states.extend(states)
        if stages is not None and self._with_stages:
            if self._stages is None:
                self._stages = Growing(stages.shape[1:])
            self._stages.extend(stages)

    @property
    def states(self) -> np.ndarray:
        return self._states.rows

    @property
    def stages(self) -> np.ndarray | None:
        """(steps, stages, size) those of all steps, if they are kept; else None."""
        return None if self._stages is None else self._stages.rows

    def segment(self, replay: StepSolver, first: int, last: int) -> Segment:
        """The steps ``first`` … ``last`` − 1 with the states from ``first`` on."""
        return self._segment(replay, first, first, last)

    @property
    def start(self) -> np.ndarray:
        return self._states.rows[0]

    @property
    def end(self) -> np.ndarray:
        return self._states.rows[-1]

    def _segment(self, replay: StepSolver, first: int, origin: int, end: int) -> Segment:
        stages = None if self._stages is None else self._stages.rows[first:end]
        return Segment(replay.trajectory, first, end, origin, self._states.rows[origin : end + 1], stages)


class OnDisk(_EveryState):
    """Keeps every state in a temporary file without a name.

    The operating system deletes it when it is closed, so nothing is left behind however the process ends.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int) -> None:
        self._size, self._count = size, 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed with the object)
        except OSError as error:
            what = f"adjoint=Discrete(checkpoints=Disk({os.fspath(folder)!r})): no file can be made there"
            # Becomes FileNotFoundError, PermissionError and so on.
            raise OSError(error.errno, f"{what} ({error.strerror})", os.fspath(folder)) from error

    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        # Written at an explicit offset: processes forked from this one share the position in the file.
        data, offset = memoryview(np.ascontiguousarray(state).data).cast("B"), self._count * self._size * 8
        while len(data):
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written
        self._count += 1

    @property
    def start(self) -> np.ndarray:
        return self._read(0, 1)[0]

    @property
    def end(self) -> np.ndarray:
        return self._read(self._count - 1, self._count)[0]

    def _segment(self, replay: StepSolver, first: int, origin: int, end: int) -> Segment:
        return Segment(replay.trajectory, first, end, origin, self._read(origin, end + 1))

    def _read(self, first: int, last: int) -> np.ndarray:
        states = np.empty((last - first, self._size))
        data, offset = memoryview(states.data).cast("B"), first * self._size * 8
        while len(data):
            read = os.preadv(self._file.fileno(), [data], offset)
            if not read:
                raise OSError("a checkpoint file has lost its end")
            data, offset = data[read:], offset + read
        return states


def _windows(last: int, longest: int, history: int) -> Iterator[tuple[int, int, int]]:
    """(first, origin, end) of the segments up to state ``last``, from the last back to the first.

    A segment has the steps ``first`` … ``end`` − 1, at most ``longest``. They need the states from ``origin``
    on.
    """
    while last > 0:
        first = max(0, last - longest)
        yield first, max(0, first - history + 1), last
        last = first
