"""The states of a finished run between its steps: all points of a segment together.

They are those of the readings that :func:`stiffml.run.dense_output.reader_for` makes one by one, which only
derivatives need.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stiffml.discretization.interpolation import STENCIL_BOUND, Stencil, lagrange_rows
from stiffml.discretization.numbering import HALF
from stiffml.discretization.trajectory import Segment, Trajectory, times_at
from stiffml.run.checkpoints import Checkpoints
from stiffml.run.stepping import StepSolver


def states_between(s: np.ndarray, replay: StepSolver, checkpoints: Checkpoints, longest: int) -> np.ndarray:
    """The states (Q, size) at times ``s`` (Q,) within a run, in solver time and in any order.

    By the method's own interpolant, or a polynomial through nearby states where the method has none.
    """
    trajectory, start = replay.single, checkpoints.start
    found = np.empty((len(s), len(start)))
    # By rounding, the last step may end slightly before the last time.
    steps = np.clip(np.searchsorted(trajectory.times, s) - 1, 0, trajectory.n_steps - 1)
    order = np.argsort(steps, kind="stable")
    segments = checkpoints.forwards(replay, trajectory.n_steps, longest)
    if replay.method.dense(replay.system.form) is None:
        polynomials = _Polynomials(trajectory, replay.method.interpolation, np.unique(steps))
        for which, states in polynomials.through(start, segments, s, steps, order):
            found[which] = states
        return found
    done = 0
    for segment in segments:
        end = int(np.searchsorted(steps[order], segment.last))
        which, done = order[done:end], end
        if len(which):
            found[which] = replay.between(segment, steps[which], s[which])
        if done == len(s):
            break
    return found


class _Polynomials:
    """Polynomials through the states around some of the steps, ``wanted`` (W,), in order."""

    def __init__(self, trajectory: Trajectory, stencil: Stencil, wanted: np.ndarray) -> None:
        self._trajectory, self._wanted, last = trajectory, wanted, trajectory.n_steps
        self._stencils = [stencil(step, None) for step in wanted.tolist()]
        for k, step in enumerate(wanted.tolist()):
            if max(self._stencils[k]) > last:
                self._stencils[k] = stencil(step, last)
        self._ends = np.array([max(states) for states in self._stencils], dtype=int)  # these ascend
        self._lengths = np.array([len(states) for states in self._stencils], dtype=int)

    def through(
        self,
        start: np.ndarray,
        segments: Iterator[Segment],
        s: np.ndarray,
        steps: np.ndarray,
        order: np.ndarray,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The numbers of points (q,) and the states there (q, size), until all have been there.

        ``s`` (Q,) are the times of all points, in the ``steps`` (Q,), which ascend in this ``order`` (Q,).
        """
        held, first, done, wanted = start[None], 0, 0, np.searchsorted(self._wanted, steps[order])
        for segment in segments:
            new = segment.states[len(segment.states) - (segment.last - segment.first) :]
            kept = held[-STENCIL_BOUND:]
            held, first = np.concatenate([kept, new]), segment.first + 1 - len(kept)
            until = int(np.searchsorted(self._ends, segment.last, side="right"))
            begin, end = np.searchsorted(wanted, [done, until])
            lengths = self._lengths[wanted[begin:end]]
            for length in np.unique(lengths).tolist():
                mine = begin + np.flatnonzero(lengths == length)
                yield order[mine], self._states(wanted[mine], s[order[mine]], held, first)
            done = until
            if done == len(self._wanted):
                return

    def _states(self, which: np.ndarray, s: np.ndarray, held: np.ndarray, first: int) -> np.ndarray:
        """(q, size) at times ``s`` (q,) in steps, by their numbers among those wanted, (q,), which ascend.

        Their stencils have the same length. ``held`` are the states from ``first`` on.
        """
        chosen, at = np.unique(which, return_inverse=True)
        numbers = np.array([self._stencils[k] for k in chosen])
        times = times_at(self._trajectory, numbers.ravel()).reshape(numbers.shape)
        rows = numbers - first
        if (numbers == HALF).any():
            assert self._trajectory.half is not None
            held = np.concatenate([held, self._trajectory.half[1][None]])
            rows = np.where(numbers == HALF, len(held) - 1, rows)
        found = np.zeros((len(s), held.shape[1]))
        for row, weight in zip(rows.T, lagrange_rows(times[at], s).T, strict=True):
            found += weight[:, None] * np.take(held, row[at], axis=0)
        return found
