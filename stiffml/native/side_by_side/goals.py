"""Where the steps of several samples end: chosen by error control, or known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from stiffml.errors import Status
from stiffml.methods.growth import Growth
from stiffml.steps import Adaptive

LEAST_SPACINGS = 16
"""A step shorter than this many spacings between floating-point times is lost in rounding."""

NOTHING = 4
"""An attempt at a step of fewer spacings would hardly change time."""

MOST_CUTS = {True: 40, False: 16}
"""After so many cuts in a row a sample has failed, with adaptive steps and with others."""


class Goals(ABC):
    """Says where the next step of each sample ends, and takes in how it went.

    Parameters
    ----------
    outputs : sequence of ndarray
        For each sample the times that steps end on, in solver time. The first is the start.

    Attributes
    ----------
    passed : ndarray
        (samples,) int: how many of them each sample has reached.
    was_long : ndarray
        (samples,) bool: whether an earlier attempt at the next step had too large an error.
    """

    def __init__(self, outputs: Sequence[np.ndarray]) -> None:
        self.passed = np.ones(len(outputs), dtype=int)
        self._lengths = np.array([len(times) for times in outputs])
        self._outputs = np.full((len(outputs), self._lengths.max()), np.inf)
        for row, times in zip(self._outputs, outputs, strict=True):
            row[: len(times)] = times
        self.cuts = np.zeros(len(outputs), dtype=int)
        self.was_long, self._was_bad = np.zeros((2, len(outputs)), dtype=bool)
        self._tried = np.zeros(len(outputs))  # the sizes of steps before their ends were rounded

    @property
    def last(self) -> np.ndarray:
        """(samples,) the last times."""
        return self._outputs[np.arange(len(self._lengths)), self._lengths - 1]

    @property
    def ended(self) -> np.ndarray:
        """(samples,) bool"""
        return self.passed == self._lengths

    def next_output(self, samples: np.ndarray) -> np.ndarray:
        return self._outputs[samples, self.passed[samples]]

    @abstractmethod
    def ends(self, samples: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """(K,) where the next step of some samples (K,) is to end, which begins at ``begins`` (K,)."""

    @abstractmethod
    def took(
        self, samples: np.ndarray, ends: np.ndarray, sizes: np.ndarray, factors: np.ndarray
    ) -> np.ndarray:
        """Steps of some samples were accepted; ``factors`` (K,) are those of the error control.

        Returns (K,) bool: whether the next step would be too short.
        """

    @abstractmethod
    def cut(self, sample: int, begin: float, end: float, factor: float, why: Status) -> Status | None:
        """The step of a sample failed and is to be ``factor`` times as long; returns why it cannot be."""


class Chosen(Goals):
    """Adaptive steps; each sample as :meth:`stiffml.run.drive.Drive.adaptively` takes them."""

    def __init__(
        self,
        outputs: Sequence[np.ndarray],
        steps: Adaptive,
        growth: Growth,
        first: np.ndarray,
    ) -> None:
        super().__init__(outputs)
        self._growth, self._minimum = growth, steps.minimum or 0.0
        largest = self.last - self._outputs[:, 0]
        self._largest = largest if steps.maximum is None else np.minimum(largest, steps.maximum)
        self.proposals = np.minimum(first, steps.maximum or np.inf)

    def ends(self, samples: np.ndarray, begins: np.ndarray) -> np.ndarray:
        target, proposal = self.next_output(samples), self.proposals[samples]
        left = target - begins
        lands = proposal >= left * (1 - 1e-9)
        # Two even steps rather than a full step and a tiny one, unless that is the rest of a longer one.
        size = np.where(self.cuts[samples] > 0, proposal, np.minimum(proposal, left / 2))
        self._tried[samples] = np.where(lands, left, size)
        return np.where(lands, target, begins + size)

    def took(
        self, samples: np.ndarray, ends: np.ndarray, sizes: np.ndarray, factors: np.ndarray
    ) -> np.ndarray:
        grows = np.where(self._was_bad[samples], 1.0, np.inf)
        suggestion = np.minimum(self._largest[samples], sizes * np.minimum(grows, factors))
        # A step that was shortened only to land on an output: the longer proposal is still good.
        before = self.proposals[samples]
        suggestion = np.where(self._tried[samples] < before, np.maximum(suggestion, before), suggestion)
        was_cut = self.cuts[samples] > 0
        self.proposals[samples] = self._growth.after(samples, sizes, suggestion, was_cut)
        least = np.maximum(self._minimum, LEAST_SPACINGS * np.spacing(np.abs(ends)))
        stuck = (ends != self.next_output(samples)) & (np.where(was_cut, sizes, suggestion) < least)
        self.cuts[samples] = 0
        self.was_long[samples] = self._was_bad[samples] = False
        return stuck

    def cut(self, sample: int, begin: float, end: float, factor: float, why: Status) -> Status | None:
        size = (end - begin) * factor
        self.proposals[sample] = size
        self.cuts[sample] += 1
        self._was_bad[sample] |= why is Status.NON_FINITE
        self.was_long[sample] |= why is Status.STEP_TOO_SMALL
        if size < NOTHING * float(np.spacing(abs(begin))) or self.cuts[sample] >= MOST_CUTS[True]:
            return Status.STEP_TOO_SMALL
        return None


class Known(Goals):
    """Steps that are known; one that fails is halved, as :meth:`stiffml.run.drive.Drive.on_schedule` does.

    ``ends`` are for each sample the ends of its steps, among which its outputs are.
    """

    def __init__(self, outputs: Sequence[np.ndarray], ends: Sequence[np.ndarray]) -> None:
        super().__init__(outputs)
        self._waiting = [times[::-1].tolist() for times in ends]
        self._size = np.zeros(len(outputs))  # of the step that is being taken in parts

    def ends(self, samples: np.ndarray, begins: np.ndarray) -> np.ndarray:
        return np.array([self._waiting[i][-1] for i in samples.tolist()])

    def took(
        self, samples: np.ndarray, ends: np.ndarray, sizes: np.ndarray, factors: np.ndarray
    ) -> np.ndarray:
        for i in samples.tolist():
            self._waiting[i].pop()
        self.cuts[samples] = 0
        return np.zeros(len(samples), dtype=bool)

    def cut(self, sample: int, begin: float, end: float, factor: float, why: Status) -> Status | None:
        self.cuts[sample] += 1
        self._waiting[sample].append(begin + (end - begin) / 2)
        if self.cuts[sample] > MOST_CUTS[False] or end - begin < 8 * np.spacing(abs(begin)):
            return Status.STEP_TOO_SMALL
        return None
