"""What the next steps of several samples start from, and these steps as equations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stiffml.discretization.equations import Block, Form
from stiffml.discretization.trajectory import Segment, Trajectories
from stiffml.methods import Method
from stiffml.run.controller import MUCH_LONGER


class Past:
    """The last states of every sample, newest last, and its half step.

    Attributes
    ----------
    times, states : ndarray
        (samples, history) and (samples, history, width); the last ``count`` of each are known.
    count : ndarray
        (samples,) int.
    half_times, halves : ndarray
        (samples,) and (samples, width): the half steps that BDF starts with, once known.
    slopes : ndarray
        (samples, width) f at the last states, as the last steps have solved for it. NaN at the start.
    sizes : ndarray
        (samples,) of the last steps.
    """

    def __init__(self, history: int, s: np.ndarray, u: np.ndarray) -> None:
        samples, width = u.shape
        self.times = np.zeros((samples, history))
        self.states = np.zeros((samples, history, width))
        self.times[:, -1], self.states[:, -1] = s, u
        self.count = np.ones(samples, dtype=int)
        self.half_times, self.halves = np.zeros(samples), np.zeros((samples, width))
        self.slopes, self.sizes = np.full((samples, width), np.nan), np.zeros(samples)

    def append(self, samples: np.ndarray, ends: np.ndarray, states: np.ndarray, slopes: np.ndarray) -> None:
        """Add the ends (K,) of a step of some samples (K,), with states and slopes (K, width)."""
        self.slopes[samples], self.sizes[samples] = slopes, ends - self.times[samples, -1]
        self.times[samples, :-1] = self.times[samples, 1:]
        self.states[samples, :-1] = self.states[samples, 1:]
        self.times[samples, -1], self.states[samples, -1] = ends, states
        self.count[samples] = np.minimum(self.count[samples] + 1, self.times.shape[1])

    def slopes_for(self, samples: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(K, width) f at the last states of some samples, for steps of ``sizes`` (K,); NaN if to be found.

        The slope that a step has solved for is a difference of states divided by its size. In a much longer
        step its rounding errors would grow with the ratio of the two sizes.
        """
        much_longer = sizes > MUCH_LONGER * self.sizes[samples]
        return np.where(much_longer[:, None], np.nan, self.slopes[samples])


class _Windows(Trajectories):
    """K short trajectories: the states that a step of each of K samples starts from, and its end."""

    def __init__(self, times: np.ndarray, half_times: np.ndarray, halves: np.ndarray) -> None:
        self.parts = ()
        count, self._length = times.shape
        self.starts = np.arange(count) * self._length
        self.times = times.ravel()
        self.sizes = np.diff(self.times)
        self._half_times, self._halves = half_times, halves

    def half_at(self, start: int) -> tuple[float, np.ndarray]:
        k = start // self._length
        return float(self._half_times[k]), self._halves[k]


@dataclass(frozen=True)
class Attempts(Segment):
    """The last step of each of K short trajectories."""

    @property
    def which(self) -> np.ndarray:
        starts = self.trajectory.starts
        return np.append(starts[1:], len(self.states)) - 2


class Attempt(NamedTuple):
    """A step of some samples.

    Attributes
    ----------
    positions : ndarray
        (K,) which of the samples that were asked for.
    segment : Attempts
    block : Block
    order : int
        The power of h that the error of a step is proportional to, if its block has an error row; else 0.
    """

    positions: np.ndarray
    segment: Attempts
    block: Block
    order: int


def attempts(
    past: Past, samples: np.ndarray, ends: np.ndarray, method: Method, form: Form, with_errors: bool
) -> Iterator[Attempt]:
    """The equations of a step of some samples (K,) that ends at ``ends`` (K,).

    Samples with the same number of known states have a block in common, which holds for all after the first
    few steps. ``with_errors``: with their local errors as output rows.
    """
    counts = past.count[samples]
    for count in np.unique(counts).tolist():
        mine = np.flatnonzero(counts == count)
        which = samples[mine]
        times = np.concatenate([past.times[which, -count:], ends[mine, None]], axis=1)
        states = np.concatenate([past.states[which, -count:], past.states[which, -1:]], axis=1)
        windows = _Windows(times, past.half_times[which], past.halves[which])
        flat = states.reshape(-1, states.shape[2])
        segment = Attempts(windows, 0, len(flat) - 1, 0, flat)
        estimates = method.estimates(segment, form) if with_errors else []
        block, order = estimates[0] if estimates else (method.blocks(segment, form)[0], 0)
        yield Attempt(mine, segment, block, order)
