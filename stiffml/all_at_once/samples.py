"""Known steps of samples that have times of their own: windows of many samples are one system each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stiffml.all_at_once.solve import Kept, solve_segment
from stiffml.all_at_once.stepper import SHORTEST, fitting
from stiffml.discretization.trajectory import Segment, Trajectories, Trajectory
from stiffml.native.side_by_side.work import Taken, Work
from stiffml.run.stepping import Counts
from stiffml.steps import Adaptive


def taken_at_once(
    work: Work, otherwise: Callable[[Work], Taken], guess: Sequence[np.ndarray] | None = None
) -> tuple[Taken, Kept | None]:
    """Take known steps of samples all at once, and what is known of their equations if one window held all.

    No equation has vectors of two samples. So the iterates of a sample are those that it has alone; the
    others only decide how many there are, since the iteration ends when all have converged.

    If a window does not converge, a quarter of its steps is tried, and so on; then half of the samples. A
    sample whose shortest window fails by itself is left to ``otherwise``, from its start.

    Parameters
    ----------
    work : Work
        With known steps.
    otherwise : callable
        Takes the steps of the samples that are left.
    guess : sequence of ndarray, optional
        For each sample (steps, width), states at the ends of its steps near the solution. Default: the last
        state before a window.
    """
    samples = _Samples(work, guess)
    samples.advance(np.flatnonzero(samples.left))
    if len(samples.given_up) == len(work.u0):
        return otherwise(work), None
    taken = samples.taken()
    if not samples.given_up:
        return taken, samples.kept
    which = sorted(samples.given_up)
    return taken.with_others(which, otherwise(work.of(which))), None


@dataclass(frozen=True)
class _Window(Segment):
    """Some steps of several trajectories: those with the numbers ``numbers``, in increasing order."""

    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))

    @property
    def which(self) -> np.ndarray:
        return self.numbers


class _Samples:
    """The planned steps of all samples, and their solution as far as it is known.

    Attributes
    ----------
    left : ndarray
        (samples,) int: how many steps of each are not solved.
    given_up : list of int
        The samples that are left to others.
    kept : Kept or None
        What is known of the equations, if one window held all steps.
    """

    def __init__(self, work: Work, guess: Sequence[np.ndarray] | None) -> None:
        assert not isinstance(work.steps, Adaptive)
        self._work, self._guessed = work, guess is not None
        parts = [
            _planned(work, outputs, ends, u0)
            for outputs, ends, u0 in zip(work.outputs, work.steps, work.u0, strict=True)
        ]
        self._trajectories = Trajectories(parts)
        self._lengths = np.array([part.n_steps for part in parts])
        self.left = self._lengths.copy()
        self._states = np.repeat(work.u0, self._lengths + 1, axis=0)
        for start, own in zip(self._trajectories.starts.tolist(), guess or (), strict=False):
            self._states[start + 1 : start + 1 + len(own)] = own
        kept = len(work.method.kept_stages(work.system.form))
        self._stages = np.zeros((len(self._states), kept, work.u0.shape[1])) if kept else None
        self._fitting = fitting(work.system, work.method)
        self._iterations = 0
        self.given_up: list[int] = []
        self.kept: Kept | None = None

    def advance(self, samples: np.ndarray, length: int | None = None) -> None:
        """Solve all steps that are left of some samples (K,), at first up to ``length`` of each at once."""
        longest = self._fitting // max(1, len(samples))
        if longest < SHORTEST and len(samples) > 1:
            self._advance_halves(samples, length)
            return
        longest = max(SHORTEST, longest)
        length = longest if length is None else min(length, longest)
        while len(samples := samples[self.left[samples] > 0]):
            if self._solve(samples, length):
                length = min(longest, 2 * length)
            elif (tried := min(length, int(self.left[samples].max()))) > SHORTEST:
                length = max(SHORTEST, tried // 4)
            elif len(samples) > 1:
                self._advance_halves(samples, SHORTEST)
                return
            else:
                self.given_up.append(int(samples[0]))
                return

    def _advance_halves(self, samples: np.ndarray, length: int | None) -> None:
        for half in np.array_split(samples, 2):
            self.advance(half, length)

    def _solve(self, samples: np.ndarray, length: int) -> bool:
        """Solve up to ``length`` steps of each of these samples (K,); whether it converged."""
        work, trajectories, parts = self._work, self._trajectories, self._trajectories.parts
        counts = np.minimum(self.left[samples], length)
        begins = trajectories.starts[samples] + self._lengths[samples] - self.left[samples]
        numbers = np.concatenate(
            [np.arange(n, n + count) for n, count in zip(begins.tolist(), counts.tolist(), strict=True)]
        )
        if not self._guessed:
            self._states[numbers + 1] = np.repeat(self._states[begins], counts, axis=0)
        window = _Window(trajectories, 0, trajectories.n_steps, 0, self._states, None, numbers=numbers)
        try:
            with np.errstate(all="ignore"):  # iterates may be anywhere
                found = solve_segment(window, work.method, work.system, work.newton, self._guessed)
        except Exception:
            # func may raise far from the solution. If it raises near it, ``otherwise`` does too.
            return False
        if not np.isfinite(found.states[numbers]).all():
            return False
        self._states[numbers + 1] = found.states[numbers]
        if self._stages is not None:
            self._stages[numbers] = found.stages[numbers]
        if found.halves is not None:
            firsts = samples[self.left[samples] == self._lengths[samples]]
            for sample, state in zip(firsts.tolist(), found.halves, strict=True):
                half = parts[sample].half
                assert half is not None
                parts[sample].half = half[0], state
        self._iterations += found.iterations
        self.left[samples] -= counts
        self.kept = found.kept if len(numbers) == self._lengths.sum() else None
        return True

    def taken(self) -> Taken:
        """What was taken; of samples that were given up, nothing that counts."""
        solved = np.delete(self._lengths, self.given_up)
        counts = Counts(newton_iterations=self._iterations, at_once=int(solved.sum()))
        return Taken(self._trajectories, self._states, self._stages, {}, counts)


def _planned(work: Work, outputs: np.ndarray, ends: np.ndarray, u0: np.ndarray) -> Trajectory:
    """The trajectory of the planned steps of a sample, with a half step at its start if there is one."""
    marks = np.searchsorted(ends, outputs[1:]) + 1
    half = None
    if work.method.starts_with_half_step and len(ends):
        half = float(outputs[0] + ends[0]) / 2, u0
    return Trajectory.of_steps(outputs, ends, [0, *marks.tolist()], half)
