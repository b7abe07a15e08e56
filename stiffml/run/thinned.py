"""Checkpoints that keep few states and recompute the others by Revolve's schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from checkpoint_schedules import Copy, EndReverse, Forward, Move, MultistageCheckpointSchedule, Reverse

from stiffml.discretization.trajectory import Segment
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.stepping import StepSolver


class Thinned(Checkpoints):
    """Keeps at most ``slots`` snapshots and recomputes the steps between them.

    A snapshot is a state together with the earlier states that a multistep method needs.

    Forward: if the number of steps is known, snapshots are placed where Revolve places them (Griewank &
    Walther, ACM Trans. Math. Softw. 26 (2000)). Otherwise, or if steps were cut, every second snapshot is
    dropped when all slots are full, and from then on whenever half of them are. The free slots make the
    reverse sweep cheaper.

    Backward: the gap after each snapshot is reversed by a Revolve schedule with the slots that are free by
    then. A reversal consumes all snapshots except that of the initial state. A second reversal recomputes
    all steps from there.

    Parameters
    ----------
    slots : int
        Largest number of snapshots.
    history : int
        Number of states in a snapshot.
    expected_steps : int or None
        Number of steps of the run, if known.
    """

    takes_again = True

    def __init__(self, slots: int, history: int, expected_steps: int | None) -> None:
        self._slots, self._history = slots, history
        self._most = max(1, slots // 2)  # largest number of snapshots after the first thinning
        self._expected = expected_steps
        self._planned = set() if expected_steps is None else _positions(expected_steps, slots)
        self._snapshots: dict[int, np.ndarray] = {}
        # The states of a snapshot, and one more: the reversal begins with the last step, where that begins.
        self._recent: list[np.ndarray] = []
        self._stride = 1
        self._count = 0

    def append(self, state: np.ndarray, stages: np.ndarray | None) -> None:
        self._recent = [*self._recent[-self._history :], state]
        n, self._count = self._count, self._count + 1
        if self._expected is not None and n > self._expected + math.isqrt(2 * self._expected):
            # Steps were cut, so their number is unknown now. One slot after the last planned snapshot is
            # enough for about sqrt(2 n) more steps: reversing these costs about n steps, as much as the run.
            self._expected = None
            self._thin()
        if self._expected is not None:
            if n in self._planned:
                self._snapshots[n] = self._snapshot()
        elif n % self._stride == 0:
            room = self._slots if self._stride == 1 else self._most
            if len(self._snapshots) >= room:
                self._thin()
                room = self._most
            if n % self._stride == 0 and len(self._snapshots) < room:
                self._snapshots[n] = self._snapshot()

    def _snapshot(self) -> np.ndarray:
        """The last states, from which the next step starts."""
        return np.array(self._recent[-self._history :])

    def _thin(self) -> None:
        """Double the distance of snapshots until fewer than ``_most`` are left."""
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
        # The last states of the run are still at hand, so the steps to them need not be solved again.
        known = _by_number(self._recent, self._count - 1) if last == self._count - 1 else {}
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
        """The steps before state ``last``, from the last back to the first.

        ``snapshots`` are removed one by one as they are used. ``known`` has states by number that need not
        be recomputed.
        """
        while snapshots:
            free = self._slots - len(snapshots) + 1  # the last snapshot itself serves as one
            begin = max(snapshots)
            snapshot = snapshots.pop(begin)
            if begin < last:
                yield from self._gap(replay, begin, snapshot, free, last, longest, known)
                last, known = begin, _by_number(snapshot.copy(), begin)

    def last_step(self, replay: StepSolver) -> Segment:
        last = self._count - 1
        begin = max(n for n in self._snapshots if n < last)
        work = self._snapshots[begin]
        known = _by_number(self._recent, last)
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
        """The steps from a snapshot at ``begin`` to state ``end``, from the last back to the first.

        At most ``free`` more snapshots are kept. ``known`` has the last states by number. Since states may
        be large, nothing else is held except ``work``: the states that the next step starts from, and a row
        for its result.
        """
        if end - begin <= min(free * self._history, longest):
            yield self._taken_again(replay, snapshot, begin, end, known)
            return
        stored, work = {begin: snapshot}, _with_room(snapshot)
        segment: Segment | None = None
        for action in _schedule(end - begin, free):
            if isinstance(action, Forward):
                first, target = begin + action.n0, begin + action.n1
                if action.write_ics and first not in stored:
                    stored[first] = work[:-1].copy()
                if action.write_adj_deps:
                    segment = _step(replay, first, work, known)  # of one step, as in every such schedule
                else:
                    work = self._advanced(replay, work, first, target, known)
            elif isinstance(action, Copy | Move):
                n = begin + action.n
                work = _with_room(stored.pop(n) if isinstance(action, Move) else stored[n])
            elif isinstance(action, Reverse):
                assert segment is not None
                yield segment
                known = _by_number(segment.states[:-1].copy(), segment.first)
                segment, work = None, snapshot
            elif isinstance(action, EndReverse):
                return

    def _advanced(
        self, replay: StepSolver, work: np.ndarray, first: int, target: int, known: dict[int, np.ndarray]
    ) -> np.ndarray:
        """``work``, as in :meth:`_gap`, after the steps from ``first`` to ``target``, if they are needed."""
        ahead = [known.get(n) for n in range(target + 1 - self._history, target + 1)]
        there = [state for state in ahead if state is not None]
        if len(there) == len(ahead):
            return _with_room(np.array(there))
        for n in range(first, target):
            work = _with_room(_step(replay, n, work, known).states[-self._history :])
        return work

    def _taken_again(
        self, replay: StepSolver, snapshot: np.ndarray, begin: int, end: int, known: dict[int, np.ndarray]
    ) -> Segment:
        """All steps of a gap as one segment, for gaps small enough to keep all states."""
        work, states = snapshot, [*snapshot]
        for n in range(begin, end):
            work = _step(replay, n, _with_room(work), known).states[-self._history :]
            states.append(work[-1])
        return Segment(replay.trajectory, begin, end, begin + 1 - len(snapshot), np.array(states))


def _by_number(states: np.ndarray | list[np.ndarray], last: int) -> dict[int, np.ndarray]:
    """Consecutive states by number; the number of the last one is ``last``."""
    return dict(enumerate(states, last + 1 - len(states)))


def _with_room(states: np.ndarray) -> np.ndarray:
    """(N, size) -> (N + 1, size): a copy of the states with one uninitialised row for the next state."""
    room = np.empty((len(states) + 1, *states.shape[1:]))
    room[:-1] = states
    return room


def _step(replay: StepSolver, step: int, work: np.ndarray, known: dict[int, np.ndarray]) -> Segment:
    """One step as a segment; it is solved again only if its new state is not ``known``."""
    found = known.get(step + 1)
    if found is None:
        return replay.step(step, work)
    work[-1] = found
    return Segment(replay.trajectory, step, step + 1, step + 2 - len(work), work)


def _schedule(steps: int, slots: int) -> MultistageCheckpointSchedule:
    """Revolve's schedule, which recomputes the fewest steps possible, generated action by action.

    It uses the binomial formula of Griewank & Walther. ``checkpoint_schedules.Revolve`` needs the same number
    of recomputed steps, but finds it by dynamic programming, in time quadratic in the number of steps.
    """
    return MultistageCheckpointSchedule(steps, slots, 0)


def _positions(steps: int, slots: int) -> set[int]:
    """The numbers of the states that Revolve stores during the forward run."""
    positions = set()
    for action in _schedule(max(steps, 1), slots):
        if isinstance(action, Forward) and action.write_ics:
            positions.add(action.n0)
        if isinstance(action, Reverse):
            break
    return positions | {0}
