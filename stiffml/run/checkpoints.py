"""What a forward run keeps of its states, and how the reverse sweep gets at them, a segment at a time."""

from __future__ import annotations

import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from checkpoint_schedules import Copy, EndReverse, Forward, Move, MultistageCheckpointSchedule, Reverse

from stiffml.discretization.trajectory import Growing, Segment
from stiffml.native.replay import Replay
from stiffml.settings import Discrete, Disk


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
    @abstractmethod
    def end(self) -> np.ndarray | None:
        """(size,) the last state, if it is at hand."""

    @abstractmethod
    def segments(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        """The steps up to ``last``, from the last back to the first, at most ``longest`` at a time.

        May be asked for again.
        """

    @abstractmethod
    def forwards(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        """The same steps from the first on."""


def checkpoints_for(adjoint: Discrete, size: int, history: int, expected_steps: int | None) -> Checkpoints:
    """The store that a setting asks for.

    ``size``: numbers in a state. ``history``: states that the method's steps start from.
    ``expected_steps``: how many there will be, if that is known.
    """
    wanted = adjoint.checkpoints
    if isinstance(wanted, Disk):
        return OnDisk(wanted.folder, size)
    if isinstance(wanted, int):
        return Thinned(max(1, wanted // history), history, expected_steps)
    return InMemory(size, with_stages=wanted == "stages")


class InMemory(Checkpoints):
    """Every state, and on request the stages where the method hands them over."""

    def __init__(self, size: int, with_stages: bool) -> None:
        self._states = Growing((size,))
        self._stages: Growing | None = None
        self._with_stages = with_stages

    @classmethod
    def joined(cls, parts: Sequence[InMemory]) -> InMemory:
        """Those of several runs of one method, numbered as those of ``Trajectories`` are."""
        kept = [part._stages for part in parts if part._stages is not None]
        joined = cls(parts[0].start.size, with_stages=len(kept) == len(parts))
        for number, part in enumerate(parts):
            for state in part._states.rows:
                joined._states.append(state)
            if joined._with_stages:
                joined._stages = joined._stages or Growing(kept[0].rows.shape[1:])
                for stages in kept[number].rows:
                    joined._stages.append(stages)
                joined._stages.append(0.0)  # there is no step from the last state
        return joined

    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        self._states.append(state)
        if stages is not None and self._with_stages:
            if self._stages is None:
                self._stages = Growing(stages.shape)
            self._stages.append(stages)

    @property
    def start(self) -> np.ndarray:
        return self._states.rows[0]

    @property
    def end(self) -> np.ndarray:
        return self._states.rows[-1]

    def segments(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        return self._segments(replay, _windows(last, longest, replay.method.history))

    def forwards(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        return self._segments(replay, reversed(list(_windows(last, longest, replay.method.history))))

    def _segments(self, replay: Replay, windows: Iterable[tuple[int, int, int]]) -> Iterator[Segment]:
        for first, origin, end in windows:
            stages = None if self._stages is None else self._stages.rows[first:end]
            states = self._states.rows[origin : end + 1]
            segment = Segment(replay.trajectory, first, end, origin, states, stages)
            if len(segment.which):  # not only the number of a last state
                yield segment


class OnDisk(Checkpoints):
    """Every state in a file without a name, which the system removes with the last reference to it.

    So nothing is left behind, however the process ends.
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
        # At a given place, so that a process forked from this one does not move ours.
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

    def segments(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        for first, origin, end in _windows(last, longest, replay.method.history):
            yield Segment(replay.trajectory, first, end, origin, self._read(origin, end + 1))

    def forwards(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        for first, origin, end in reversed(list(_windows(last, longest, replay.method.history))):
            yield Segment(replay.trajectory, first, end, origin, self._read(origin, end + 1))

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
    """(first, origin, last) of segments from the end: their steps, and the first state these start from."""
    while last > 0:
        first = max(0, last - longest)
        yield first, max(0, first - history + 1), last
        last = first


class Thinned(Checkpoints):
    """At most ``slots`` snapshots; what lies between is taken again from the snapshot before.

    A snapshot is the state after a number of steps, with the earlier ones that a multistep method needs.
    Where the number of steps is known beforehand they are placed as Revolve places them (Griewank & Walther,
    ACM Trans. Math. Softw. 26 (2000)). Where it is not, or where steps were cut, every second one is dropped
    whenever half of the slots, at first all, are taken: with free slots, gaps are short work backwards.
    Backwards, each gap is scheduled by Revolve with the slots that have become free. This uses up all
    snapshots but that of the initial state, from which another reversal takes all steps again.
    """

    takes_again = True

    def __init__(self, slots: int, history: int, expected_steps: int | None) -> None:
        self._slots, self._history = slots, history
        self._most = max(1, slots // 2)  # snapshots, once there have been as many as slots
        self._expected = expected_steps
        self._planned = set() if expected_steps is None else _positions(expected_steps, slots)
        self._snapshots: dict[int, np.ndarray] = {}
        self._recent: list[np.ndarray] = []
        self._stride = 1
        self._count = 0

    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        self._recent = [*self._recent[-(self._history - 1) :], state] if self._history > 1 else [state]
        n, self._count = self._count, self._count + 1
        if self._expected is not None and n > self._expected + math.isqrt(2 * self._expected):
            # Steps were cut, and how many there will be is not known. With one slot left after the last
            # snapshot, so many more steps take as long as all from the start.
            self._expected = None
            self._thin()
        if self._expected is not None:
            if n in self._planned:
                self._snapshots[n] = np.array(self._recent)
        elif n % self._stride == 0:
            room = self._slots if self._stride == 1 else self._most
            if len(self._snapshots) >= room:
                self._thin()
                room = self._most
            if n % self._stride == 0 and len(self._snapshots) < room:
                self._snapshots[n] = np.array(self._recent)

    def _thin(self) -> None:
        """Keep every second snapshot, or every fourth, …"""
        while True:
            self._stride *= 2
            kept = {m: state for m, state in self._snapshots.items() if m % self._stride == 0}
            if len(kept) < self._most or self._most == 1:
                break
        self._snapshots = kept

    @property
    def start(self) -> np.ndarray:
        return self._snapshots[0][-1]

    @property
    def end(self) -> np.ndarray | None:
        return self._recent[-1] if self._recent else None

    def segments(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        # Where steps lead is known backwards: from the end of the run, or from what later steps began with.
        known = _numbered(self._recent, self._count - 1) if last == self._count - 1 else {}
        self._recent = []
        for begin in sorted(self._snapshots, reverse=True):
            if begin < last:
                yield from self._gap(replay, begin, last, longest, known)
                last, known = begin, _numbered(self._snapshots[begin].copy(), begin)
            if begin > 0:
                del self._snapshots[begin]

    def forwards(self, replay: Replay, last: int, longest: int) -> Iterator[Segment]:
        work = self._snapshots[0]
        for n in range(last):
            segment = replay.step(n, _with_room(work))
            work = segment.states[-self._history :]
            yield segment

    def _gap(
        self, replay: Replay, begin: int, end: int, longest: int, known: dict[int, np.ndarray]
    ) -> Iterator[Segment]:
        """The steps from a snapshot to ``end``, backwards; some of the last states are ``known``.

        States may be large: these and ``work``, with room for the state to come, is all there is besides
        snapshots.
        """
        snapshot = self._snapshots[begin]
        free = self._slots - len(self._snapshots) + 1  # the snapshot itself serves as one
        if end - begin <= min(free * self._history, longest):
            yield self._taken_again(replay, snapshot, begin, end, known)
            return
        stored, work = {begin: snapshot}, _with_room(snapshot)
        segment: Segment | None = None
        for action in _schedule(end - begin, free):
            if isinstance(action, Forward):
                for n in range(begin + action.n0, begin + action.n1):
                    if n == begin + action.n0 and action.write_ics and n not in stored:
                        stored[n] = work[:-1].copy()
                    taken = _step(replay, n, work, known)
                    if action.write_adj_deps:
                        segment = taken
                    else:
                        work = _with_room(taken.states[-self._history :])
                    del taken
            elif isinstance(action, Copy | Move):
                n = begin + action.n
                work = _with_room(stored.pop(n) if isinstance(action, Move) else stored[n])
            elif isinstance(action, Reverse):
                assert segment is not None
                yield segment
                known = _numbered(segment.states[:-1].copy(), segment.first)
                segment, work = None, snapshot
            elif isinstance(action, EndReverse):
                return

    def _taken_again(
        self, replay: Replay, snapshot: np.ndarray, begin: int, end: int, known: dict[int, np.ndarray]
    ) -> Segment:
        """All steps of a gap that is small enough to hold."""
        work, states = snapshot, [*snapshot]
        for n in range(begin, end):
            work = _step(replay, n, _with_room(work), known).states[-self._history :]
            states.append(work[-1])
        return Segment(replay.trajectory, begin, end, begin + 1 - len(snapshot), np.array(states))


def _numbered(states: np.ndarray | list[np.ndarray], last: int) -> dict[int, np.ndarray]:
    """Consecutive states by their numbers, of which the highest is ``last``."""
    return dict(enumerate(states, last + 1 - len(states)))


def _with_room(states: np.ndarray) -> np.ndarray:
    """States and a row for the one to come, which takes no memory before that."""
    room = np.empty((len(states) + 1, *states.shape[1:]))
    room[:-1] = states
    return room


def _step(replay: Replay, step: int, work: np.ndarray, known: dict[int, np.ndarray]) -> Segment:
    """One step, which is only taken again if the state that it leads to is not known."""
    found = known.get(step + 1)
    if found is None:
        return replay.step(step, work)
    work[-1] = found
    return Segment(replay.trajectory, step, step + 1, step + 2 - len(work), work)


def _schedule(steps: int, slots: int) -> MultistageCheckpointSchedule:
    """Revolve's schedule, of the fewest steps that are possible, made action by action as it is followed.

    The binomial formula of Griewank & Walther gives each action by itself; ``checkpoint_schedules.Revolve``,
    which finds the same number of steps by dynamic programming, takes time with the square of it.
    """
    return MultistageCheckpointSchedule(steps, slots, 0)


def _positions(steps: int, slots: int) -> set[int]:
    """Where Revolve takes snapshots on its way forward."""
    positions = set()
    for action in _schedule(max(steps, 1), slots):
        if isinstance(action, Forward) and action.write_ics:
            positions.add(action.n0)
        if isinstance(action, Reverse):
            break
    return positions | {0}
