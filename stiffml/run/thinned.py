"""Checkpoints of few states, from which the others are computed again by Revolve's schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from checkpoint_schedules import Copy, EndReverse, Forward, Move, MultistageCheckpointSchedule, Reverse

from stiffml.discretization.trajectory import Segment
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.stepping import StepSolver


class Thinned(Checkpoints):
    """At most ``slots`` snapshots; what lies between is taken again from the snapshot before.

    A snapshot is the state after a number of steps, with the earlier ones that a multistep method needs.
    Where the number of steps is known beforehand they are placed as Revolve places them (Griewank & Walther,
    ACM Trans. Math. Softw. 26 (2000)). Where it is not, or where steps were cut, every second one is dropped
    whenever half of the slots, at first all, are taken: with free slots, gaps are short work backwards.
    Backwards, each gap is scheduled by Revolve with the slots that have become free. A reversal takes all
    snapshots over but that of the initial state, from which another one computes all steps again.
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

    def segments(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        # Where steps lead is known backwards: from the end of the run, or from what later steps began with.
        known = _numbered(self._recent, self._count - 1) if last == self._count - 1 else {}
        snapshots, self._snapshots, self._recent = self._snapshots, {0: self._snapshots[0]}, []
        return self._reversal(replay, snapshots, last, longest, known)

    def _reversal(
        self,
        replay: StepSolver,
        snapshots: dict[int, np.ndarray],
        last: int,
        longest: int,
        known: dict[int, np.ndarray],
    ) -> Iterator[Segment]:
        """The steps up to ``last``, backwards, by snapshots that are let go of one after the other."""
        while snapshots:
            free = self._slots - len(snapshots) + 1  # the last snapshot itself serves as one
            begin = max(snapshots)
            snapshot = snapshots.pop(begin)
            if begin < last:
                yield from self._gap(replay, begin, snapshot, free, last, longest, known)
                last, known = begin, _numbered(snapshot.copy(), begin)

    def last_step(self, replay: StepSolver) -> Segment:
        last = self._count - 1
        begin = max(n for n in self._snapshots if n < last)
        work = self._snapshots[begin]
        known = _numbered(self._recent, last)
        for n in range(begin, last):
            segment = _step(replay, n, _with_room(work), known)
            work = segment.states[-self._history :]
        return segment

    def forwards(self, replay: StepSolver, last: int, longest: int) -> Iterator[Segment]:
        work = self._snapshots[0]
        for n in range(last):
            segment = replay.step(n, _with_room(work))
            work = segment.states[-self._history :]
            yield segment

    def _gap(
        self,
        replay: StepSolver,
        begin: int,
        snapshot: np.ndarray,
        free: int,
        end: int,
        longest: int,
        known: dict[int, np.ndarray],
    ) -> Iterator[Segment]:
        """The steps from a snapshot to ``end``, backwards; some of the last states are ``known``.

        States may be large: these and ``work``, with room for the state to come, is all there is besides
        snapshots, of which ``free`` more may be kept.
        """
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
        self, replay: StepSolver, snapshot: np.ndarray, begin: int, end: int, known: dict[int, np.ndarray]
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


def _step(replay: StepSolver, step: int, work: np.ndarray, known: dict[int, np.ndarray]) -> Segment:
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
