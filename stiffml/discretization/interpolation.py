"""Outputs between steps: polynomials through the states of nearby steps.

Only states enter, no slopes: on a stiff problem f multiplies what Newton's iteration leaves in a state by an
eigenvalue. It serves problems with a mass matrix for the same reason.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.numbering import HALF, output_state
from stiffml.discretization.trajectory import Trajectory, times_at


@dataclass(frozen=True)
class Reading:
    """How an output was read: u = Σ weightsᵢ · u(statesᵢ).

    ``states`` (p,) int, ``weights`` (p,), and ``end``, the last state that is needed to find these. One that
    is interpolated between states also has its time ``s``, and the ``times`` (p,) and ``values`` (p, size)
    of these, which its derivative with respect to times takes.
    """

    states: np.ndarray
    weights: np.ndarray
    end: int
    s: float | None = None
    times: np.ndarray | None = None
    values: np.ndarray | None = None

    @classmethod
    def of_state(cls, state: int) -> Reading:
        """The state after a number of steps, as it is."""
        return cls(np.array([state]), np.ones(1), state)

    @classmethod
    def of_output(cls, number: int, end: int, s: float, value: np.ndarray) -> Reading:
        """The output at ``s`` that is an equation of the step to state ``end``; ``value`` is (size,)."""
        return cls(np.array([output_state(number)]), np.ones(1), end, s, values=value[None])

    @property
    def value(self) -> np.ndarray:
        assert self.values is not None
        return self.weights @ self.values

    def time_gradient(self, cotangent: np.ndarray) -> tuple[np.ndarray, float]:
        """dL/d(times of the states), (p,), and dL/ds, from dL/du."""
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
        """The tangent (size,) of the output from those of states and outputs, and of times of states."""
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


def lagrange(times: Tensor, s: Tensor) -> Tensor:
    """The Lagrange basis on p times at s: (p,), () -> (p,)."""
    count = len(times)
    if count == 1:
        return torch.ones_like(times)
    others = torch.stack([times[[j for j in range(count) if j != i]] for i in range(count)])
    return ((s - others) / (times[:, None] - others)).prod(dim=1)


Stencil = Callable[[int, int | None], list[int]]
"""The states to interpolate between in step n; the second argument is the last state, once known."""


class Reader(ABC):
    """Reads the states of a run as they come, and finds the outputs between steps."""

    @abstractmethod
    def read(self, state: int, value: np.ndarray, stages: np.ndarray | None = None) -> None:
        """The next state, and the stages of the step to it if known; the trajectory has the step."""

    @abstractmethod
    def finish(self) -> list[Reading]:
        """The readings in the order of the times; fewer if the run did not reach them all."""


class Interpolator(Reader):
    """A polynomial through the states of nearby steps.

    Parameters
    ----------
    s : ndarray
        (Q,) times in solver time, in any order.
    stencil : Stencil
    trajectory : Trajectory
        Times of the steps that have been read.
    """

    def __init__(self, s: np.ndarray, stencil: Stencil, trajectory: Trajectory) -> None:
        self._s, self._stencil, self._trajectory = s, stencil, trajectory
        self._waiting = list(np.argsort(s, kind="stable"))
        self._found: dict[int, Reading] = {}
        self._window: dict[int, np.ndarray] = {}

    def read(self, state: int, value: np.ndarray, stages: np.ndarray | None = None) -> None:
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
        # Rounding may leave the end of the last step a little short of an output there.
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
        # No stencil is wider, and only a BDF run's first steps look back at the half step.
        for old in [m for m in self._window if m != HALF and m < state - WIDEST]:
            del self._window[old]
        if state > WIDEST:
            self._window.pop(HALF, None)


WIDEST = 8
"""More states than any stencil has."""


def centred(points: int) -> Stencil:
    """The ``points`` states around a step, or those nearest to it at the ends of a run."""

    def stencil(step: int, last: int | None) -> list[int]:
        first = step + 1 - points // 2
        if last is not None:
            first = min(first, last + 1 - points)
        first = max(0, first)
        end = first + points if last is None else min(first + points, last + 1)
        return list(range(first, end))

    return stencil
