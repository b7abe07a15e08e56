"""Dense output by polynomials through the states of nearby steps.

Only states enter, no slopes. On a stiff problem f multiplies the error that Newton's iteration leaves in a
state by a large eigenvalue, so slopes would be inaccurate. Without slopes it also works with a singular mass
matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.numbering import HALF, output_state
from stiffml.discretization.trajectory import Trajectory, times_at


@dataclass(frozen=True)
class Reading:
    """An output as a combination of states: u = Σ weightsᵢ · u(statesᵢ).

    Attributes
    ----------
    states : ndarray
        (p,) int, the numbers of the states.
    weights : ndarray
        (p,)
    end : int
        The last state that must be known to compute the output.
    s : float or None
        The time of the output, if it lies between step ends.
    times : ndarray or None
        (p,) the times of the states, if the output is interpolated; its time gradient needs them.
    values : ndarray or None
        (p, size) the states themselves, if the output lies between step ends.
    """

    states: np.ndarray
    weights: np.ndarray
    end: int
    s: float | None = None
    times: np.ndarray | None = None
    values: np.ndarray | None = None

    @staticmethod
    @lru_cache(maxsize=4096)
    def of_state(state: int) -> Reading:
        """The reading that is the state with this number."""
        return Reading(np.array([state]), np.ones(1), state)

    @classmethod
    def of_output(cls, number: int, end: int, s: float, value: np.ndarray) -> Reading:
        """The reading of output ``number`` at time ``s``, with value (size,).

        Its equation is a row of the step that ends in state ``end``.
        """
        return cls(np.array([output_state(number)]), np.ones(1), end, s, values=value[None])

    @property
    def value(self) -> np.ndarray:
        """(size,) the output, if it lies between step ends."""
        assert self.values is not None
        return self.weights @ self.values

    def time_gradient(self, cotangent: np.ndarray) -> tuple[np.ndarray, float]:
        """From dL/du (size,) to dL/d(times of the states) (p,) and dL/ds."""
        assert self.s is not None
        assert self.values is not None
        with torch.enable_grad():
            times = torch.from_numpy(self.times).requires_grad_()
            s = torch.tensor(self.s, dtype=torch.float64, requires_grad=True)
            weights = lagrange(times, s)
            wrt_times, wrt_s = torch.autograd.grad(
                weights, [times, s], torch.from_numpy(self.values @ cotangent)
            )
        return wrt_times.numpy(), float(wrt_s)

    def tangent(self, states: dict[int, np.ndarray], times: dict[int, float]) -> np.ndarray:
        """The tangent (size,) of the output.

        ``states`` has the tangents (size,) of states and outputs, ``times`` those of the times of states,
        both by number; missing ones are zero.
        """
        total = np.zeros(self.value.shape)
        for state, weight in zip(self.states.tolist(), self.weights.tolist(), strict=True):
            if state in states:
                total += weight * states[state]
        if self.times is not None:
            moved = torch.tensor(
                [times.get(state, 0.0) for state in self.states.tolist()], dtype=torch.float64
            )
            s = torch.tensor(self.s, dtype=torch.float64)
            at = torch.from_numpy(self.times)
            total += torch.func.jvp(lambda t: lagrange(t, s), (at,), (moved,))[1].numpy() @ self.values
        return total


class StateReadings(Sequence[Reading]):
    """The readings that are states themselves; each is made when it is asked for, as most never are.

    Parameters
    ----------
    states : ndarray
        (readings,) int, the numbers of the states.
    """

    def __init__(self, states: np.ndarray) -> None:
        self.states = states

    def __len__(self) -> int:
        return len(self.states)

    @overload
    def __getitem__(self, number: int) -> Reading: ...

    @overload
    def __getitem__(self, number: slice) -> StateReadings: ...

    def __getitem__(self, number: int | slice) -> Reading | StateReadings:
        if isinstance(number, slice):
            return StateReadings(self.states[number])
        return Reading.of_state(int(self.states[number]))


def lagrange(times: Tensor, s: Tensor) -> Tensor:
    """The values at s of the p Lagrange basis polynomials on ``times``: (p,), () -> (p,)."""
    count = len(times)
    if count == 1:
        return torch.ones_like(times)
    others = torch.stack([times[[j for j in range(count) if j != i]] for i in range(count)])
    return ((s - others) / (times[:, None] - others)).prod(dim=1)


def lagrange_rows(times: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The same on K sets of times, at a time each: (K, p), (K,) -> (K, p)."""
    count = times.shape[1]
    weights = np.ones_like(times)
    for i in range(count):
        for j in range(count):
            if j != i:
                weights[:, i] *= (s - times[:, j]) / (times[:, i] - times[:, j])
    return weights


Stencil = Callable[[int, int | None], list[int]]
"""(step, last state of the run) -> the states whose polynomial gives outputs in that step.

The second argument is None while the run has not ended.
"""


class Reader(ABC):
    """Takes the states of a run one by one and computes the outputs between step ends."""

    @abstractmethod
    def read(
        self,
        state: int,
        value: np.ndarray,
        stages: np.ndarray | None = None,
        slopes: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Take state number ``state``, with ``value`` (size,) and the stages of the step to it if known.

        ``slopes``: f (size,) by the columns of that step, as far as it is known.

        The trajectory must contain that step already.
        """

    @abstractmethod
    def finish(self) -> list[Reading]:
        """The readings in the order in which their times were given; those not reached are left out."""


class NothingToRead(Reader):
    """Of a run without outputs between step ends."""

    def read(
        self,
        state: int,
        value: np.ndarray,
        stages: np.ndarray | None = None,
        slopes: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        pass

    def finish(self) -> list[Reading]:
        return []


class Interpolator(Reader):
    """Computes outputs by polynomials through the states of nearby steps.

    Parameters
    ----------
    s : ndarray
        (Q,) output times in solver time, in any order.
    stencil : Stencil
        Which states to interpolate.
    trajectory : Trajectory
        Has the times of the steps read so far.
    """

    def __init__(self, s: np.ndarray, stencil: Stencil, trajectory: Trajectory) -> None:
        self._s, self._stencil, self._trajectory = s, stencil, trajectory
        self._waiting = list(np.argsort(s, kind="stable"))
        self._found: dict[int, Reading] = {}
        self._window: dict[int, np.ndarray] = {}

    def read(
        self,
        state: int,
        value: np.ndarray,
        stages: np.ndarray | None = None,
        slopes: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        if not self._waiting:
            self._window.clear()
            return
        self._window[state] = value
        if state == 1 and self._trajectory.half is not None:
            self._window[HALF] = self._trajectory.half[1]
        while self._waiting and state > 0:
            stencil = self._states_for(self._waiting[0], None)
            if stencil is None or max(stencil) > state:
                break
            self._interpolate(stencil)
        self._forget(state)

    def finish(self) -> list[Reading]:
        last = self._trajectory.n_steps
        while self._waiting:
            stencil = self._states_for(self._waiting[0], last)
            if stencil is None:
                break
            self._interpolate(stencil)
        return [self._found[q] for q in sorted(self._found)]

    def _states_for(self, query: int, last: int | None) -> list[int] | None:
        times, s = self._trajectory.times, self._s[query]
        # By rounding, the last step may end slightly before an output time at the end of the run.
        tolerance = 1e-12 * abs(times[-1] - times[0])
        if s > times[-1] + (tolerance if last is not None else 0):
            return None
        step = min(max(int(np.searchsorted(times, s)) - 1, 0), max(len(times) - 2, 0))
        return self._stencil(step, last)

    def _interpolate(self, stencil: list[int]) -> None:
        query = self._waiting.pop(0)
        states = np.array(stencil)
        times = times_at(self._trajectory, states)
        s = float(self._s[query])
        weights = lagrange(torch.from_numpy(times), torch.tensor(s, dtype=torch.float64)).numpy()
        values = np.stack([self._window[m] for m in stencil])
        self._found[query] = Reading(states, weights, max(stencil), s, times, values)

    def _forget(self, state: int) -> None:
        # Stencils are narrower than STENCIL_BOUND, and only the first steps of a BDF run use the half step.
        for old in [m for m in self._window if m != HALF and m < state - STENCIL_BOUND]:
            del self._window[old]
        if state > STENCIL_BOUND:
            self._window.pop(HALF, None)


STENCIL_BOUND = 8
"""An upper bound on the number of states in a stencil."""


def centred(points: int) -> Stencil:
    """The stencil of ``points`` states around a step; near the ends of a run, the nearest ones."""

    def stencil(step: int, last: int | None) -> list[int]:
        first = step + 1 - points // 2
        if last is not None:
            first = min(first, last + 1 - points)
        first = max(0, first)
        end = first + points if last is None else min(first + points, last + 1)
        return list(range(first, end))

    return stencil
