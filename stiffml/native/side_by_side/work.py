"""What is to be integrated of several samples, and what was taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import TypeVar

import numpy as np

from stiffml.discretization.estimates import scaled
from stiffml.discretization.trajectory import Trajectories
from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.run.kept_jacobian import EXACT
from stiffml.run.record import Failure
from stiffml.run.stepping import Counts
from stiffml.settings import NewtonLimits, Tolerances
from stiffml.steps import Adaptive
from stiffml.system.finite import first_not_finite
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """What is to be integrated: the samples, and how.

    Attributes
    ----------
    system : System
        On the states of one sample.
    method : Method
    solver : LinearSolver or None
    outputs : sequence of ndarray
        For each sample the times that steps end on, in solver time.
    u0 : ndarray
        (samples, width)
    steps : Adaptive, or sequence of ndarray
        Adaptive steps, or for each sample the ends of all its steps.
    tolerances, newton
        Of all samples; each is a number or (samples, width).
    """

    system: System
    method: Method
    solver: LinearSolver | None
    outputs: Sequence[np.ndarray]
    u0: np.ndarray
    steps: Adaptive | Sequence[np.ndarray]
    tolerances: Tolerances
    newton: NewtonLimits

    @property
    def left(self) -> float:
        """What Newton's iteration with an earlier Jacobian may leave, in its weights.

        Those of known steps are near rounding, those of adaptive ones are a part of their tolerances.
        """
        return EXACT if isinstance(self.steps, Adaptive) else 1.0

    def of(self, samples: Sequence[int]) -> Work:
        """The same for some of the samples."""
        which = np.array(samples, dtype=int)
        return replace(
            self,
            outputs=[self.outputs[i] for i in samples],
            u0=self.u0[which],
            steps=self.steps if isinstance(self.steps, Adaptive) else [self.steps[i] for i in samples],
            tolerances=self.tolerances_of(which),
            newton=replace(self.newton, atol=of_samples(self.newton.atol, which)),
        )

    def tolerances_of(self, samples: np.ndarray) -> Tolerances:
        """The tolerances of some samples (K,)."""
        given = self.tolerances
        return Tolerances(of_samples(given.rtol, samples), of_samples(given.atol, samples))

    def component(
        self, why: Status, sample: int, begin: float, state: np.ndarray, found: np.ndarray
    ) -> int | None:
        """The component to name in the message about a sample that failed, or None.

        ``state`` (width,) is that at ``begin``. ``found`` (width,) is the new state if that is not finite,
        the scaled errors if they are too large, else the last update of Newton's iteration.
        """
        if why is Status.NON_FINITE:
            slopes = [part.evaluate(begin, state) for part in self.system.parts]
            first = (first_not_finite(values) for values in (*slopes, found))
            return next((component for component in first if component is not None), None)
        off = np.abs(found)
        if why is not Status.STEP_TOO_SMALL:
            off = np.abs(
                scaled(found[None], state[None], state[None], self.tolerances_of(np.array([sample])))[0]
            )
        return int(np.argmax(off)) if np.isfinite(off).all() else None


@dataclass
class Taken:
    """The steps that were taken.

    Attributes
    ----------
    trajectories : Trajectories
        One for each sample.
    states : ndarray
        (states, width) of all of them, in the numbering of ``trajectories``.
    stages : ndarray or None
        (states, stages, width) the stages of the step from each state, for methods that keep stages.
    failures : dict of int to Failure
        By sample.
    counts : Counts
    """

    trajectories: Trajectories
    states: np.ndarray
    stages: np.ndarray | None
    failures: dict[int, Failure]
    counts: Counts

    def with_others(self, which: Sequence[int], others: Taken) -> Taken:
        """The same with some of the samples as ``others`` has them, whose work is added.

        Work that was done on the replaced samples remains; steps of them must not be among the counted ones.
        """
        parts = list(self.trajectories.parts)
        states, more = _split(self.states, self), _split(others.states, others)
        for k, i in enumerate(which):
            parts[i], states[i] = others.trajectories.parts[k], more[k]
        failures = {i: failure for i, failure in self.failures.items() if i not in which}
        failures |= {which[k]: failure for k, failure in others.failures.items()}
        both = zip(astuple(self.counts), astuple(others.counts), strict=True)
        joined = None
        if self.stages is not None:
            # Samples that took no step have no stages.
            none = np.zeros((len(others.states), *self.stages.shape[1:]))
            stages = _split(self.stages, self)
            for i, own in zip(
                which, _split(none if others.stages is None else others.stages, others), strict=True
            ):
                stages[i] = own
            joined = np.concatenate(stages)
        return Taken(
            Trajectories(parts), np.concatenate(states), joined, failures, Counts(*(a + b for a, b in both))
        )


def _split(rows: np.ndarray, taken: Taken) -> list[np.ndarray]:
    """(states, …) of all samples, sample by sample."""
    return np.split(rows, taken.trajectories.starts[1:])


def of_samples(value: T, samples: np.ndarray) -> T:
    """A number or None, or the rows of some samples."""
    return value[samples] if isinstance(value, np.ndarray) else value
