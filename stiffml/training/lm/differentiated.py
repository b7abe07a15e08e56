"""Intervals whose steps are solved all at once, and their derivatives by what is fitted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from stiffml.all_at_once.equations import ordered
from stiffml.all_at_once.structure import structure_of
from stiffml.discretization.equations import Equations
from stiffml.discretization.trajectory import Segment, Trajectories, Trajectory
from stiffml.gradients.adjoints_at_once import reverse_for_many
from stiffml.gradients.directions import Along, Directions, Units
from stiffml.gradients.linearized import curvatures_of
from stiffml.gradients.sweep import Pending
from stiffml.gradients.tangent import TangentSweep, linearize_both
from stiffml.native.replay import Replay
from stiffml.run.request import Request
from stiffml.stats import spend
from stiffml.steps import Adaptive
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics

MANY = 50_000
"""Tangents times rows of an interval from which adjoints are faster: each interval has a sweep of its own."""


@dataclass(frozen=True)
class Group:
    """Intervals that are solved together.

    Attributes
    ----------
    which : list of int
        Their numbers.
    trajectories : Trajectories
    rows : list of ndarray
        For each the numbers of the states at its rows.
    """

    which: list[int]
    trajectories: Trajectories
    rows: list[np.ndarray]


@dataclass(frozen=True)
class Solved:
    """Groups and the segments that solve them.

    ``iterations``: of Newton.
    """

    groups: list[Group]
    segments: list[Segment]
    iterations: int

    @property
    def outputs(self) -> list[np.ndarray]:
        """For each interval the states (rows, size) at its rows."""
        found: dict[int, np.ndarray] = {}
        for group, segment in zip(self.groups, self.segments, strict=True):
            for number, rows in zip(group.which, group.rows, strict=True):
                found[number] = segment.states[rows]
        return [found[number] for number in range(len(found))]

    @property
    def paths(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each interval the times (steps + 1,) and states (steps + 1, size) of all its steps."""
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for group, segment in zip(self.groups, self.segments, strict=True):
            ends = [*group.trajectories.starts[1:].tolist(), len(segment.states)]
            for number, begin, end in zip(group.which, group.trajectories.starts.tolist(), ends, strict=True):
                found[number] = group.trajectories.times[begin:end], segment.states[begin:end]
        return [found[number] for number in range(len(found))]


class Differentiated:
    """Derivatives of intervals of one request, whose steps must be known.

    Parameters
    ----------
    request : Request
        Of a solve with the same function, method and steps.
    wanted : sequence of int
        The positions of the parameters of the system that are fitted, in their order.
    """

    def __init__(self, request: Request, wanted: Sequence[int]) -> None:
        assert not isinstance(request.steps, Adaptive)
        self.request, self._system, self._method = request, request.system, request.method
        sizes = [request.system.parameters[position].numel() for position in wanted]
        firsts = np.cumsum([0, *sizes]).tolist()
        self._first = dict(zip(wanted, firsts, strict=False))
        self.count = firsts[-1]

    def expect(self, states: int) -> None:
        """Hear at how many states at once values will be wanted, before they are."""
        for part in self._system.parts:
            part.expect(states, self.count)

    def renew(self) -> None:
        """Notice that parameters have other values."""
        for part in self._system.parts:
            part.renew()

    def confirm(self) -> None:
        """Raise ReplayError if func is compiled, and its value is not that of the code."""
        for part in self._system.parts:
            part.confirm()

    def units(self, count: int) -> Units:
        """The directions of all parameters that are fitted, among ``count``."""
        return Units(self._first, count)

    @contextmanager
    def _spending(self, steps: int = 0) -> Iterator[None]:
        """Counts what the block costs."""
        system = self._system
        before = system.rhs_evals, system.f.jacobians
        try:
            yield
        finally:
            evaluations, jacobians = system.rhs_evals - before[0], system.f.jacobians - before[1]
            spend(accepted=steps, rhs_evals=evaluations, jacobians=jacobians)

    def derivatives(self, solved: Solved, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The derivatives (rows, size, P) of the states at the rows of each interval.

        ``starts`` are those of the initial states, (P, size), by all that is fitted: the parameters first.
        By adjoints where they are fewer than the tangents, and there are many of these in long intervals.

        Raises
        ------
        ReplayError
            If func is compiled, and its value is not that of the code.
        """
        found: dict[int, np.ndarray] = {}
        with self._spending(), torch.inference_mode(False), torch.no_grad():
            for group, segment in zip(solved.groups, solved.segments, strict=True):
                rows, size = max(map(len, group.rows)), segment.states.shape[1]
                few = rows * size < len(starts[0]) and rows * len(starts[0]) >= MANY
                way = self._adjoints if few else self._tangents
                found |= way(group, segment, starts)
            self.confirm()
        return [found[number] for number in range(len(starts))]

    def _tangents(
        self, group: Group, segment: Segment, starts: Sequence[np.ndarray]
    ) -> dict[int, np.ndarray]:
        at_start = np.concatenate([starts[number] for number in group.which], axis=1)
        return self._swept(group, segment, at_start, self.units(len(starts[0])))

    def _swept(
        self, group: Group, segment: Segment, at_start: np.ndarray, directions: Directions
    ) -> dict[int, np.ndarray]:
        replay = Replay(segment.trajectory, self._method, self._system, self.request.solver)
        sweep = TangentSweep(replay, at_start, directions)
        structure = structure_of(self._method, segment, self._system.form)
        equations = ordered(structure, segment) or Equations(segment, list(structure.blocks))
        f, g = linearize_both(equations, replay)
        sweep.segment(equations, f, g, curvatures_of(equations, self._system.f))
        found = {}
        for number, rows in zip(group.which, group.rows, strict=True):
            found[number] = np.stack([sweep.states[row].T for row in rows.tolist()])
        return found

    def _adjoints(
        self, group: Group, segment: Segment, starts: Sequence[np.ndarray]
    ) -> dict[int, np.ndarray]:
        found, units = {}, self.units(len(starts[0]))
        for number, part, begin, rows in self._intervals(group, segment):
            own, size = _segment_of(segment, part, begin), segment.states.shape[1]
            replay = Replay(part, self._method, self._system, self.request.solver)
            count = len(rows) * size
            pending = Pending()
            for k, state in enumerate((rows - begin).tolist()):
                pending.add(state, np.eye(size, count, k * size))
            by_parameters = np.zeros((count, len(starts[number])))
            equations = Equations(own, replay.blocks(own))
            is_small = reverse_for_many(equations, replay, pending, units, by_parameters)
            assert is_small, "steps are solved together where Jacobians are small dense blocks"
            at_start = pending.pop(0, np.zeros((size, count)))
            total = by_parameters + at_start.T @ starts[number].T
            found[number] = total.reshape(len(rows), size, -1)
        return found

    def along(self, solved: Solved, v: np.ndarray, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The derivatives (rows, size) of each interval along ``v`` (count,) and ``starts``, (size,) each."""
        direction: list[torch.Tensor | None] = [None] * len(self._system.parameters)
        for position, first in self._first.items():
            p = self._system.parameters[position]
            direction[position] = torch.from_numpy(v[first : first + p.numel()]).view_as(p).to(p)
        found: dict[int, np.ndarray] = {}
        with self._spending(), torch.inference_mode(False), torch.no_grad():
            for group, segment in zip(solved.groups, solved.segments, strict=True):
                at_start = np.concatenate([starts[number] for number in group.which])[None]
                found |= self._swept(group, segment, at_start, Along([direction]))
            self.confirm()
        return [found[number][:, :, 0] for number in range(len(starts))]

    def back(self, solved: Solved, cotangents: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """The gradients (count,) of Σ ⟨cotangent, outputs⟩, and (size,) of each interval by its start."""
        found, by_start = np.zeros((1, self.count)), dict[int, np.ndarray]()
        one = One(self._first, self.count)
        with self._spending(), torch.inference_mode(False), torch.no_grad():
            for group, segment in zip(solved.groups, solved.segments, strict=True):
                for number, part, begin, rows in self._intervals(group, segment):
                    own, size = _segment_of(segment, part, begin), segment.states.shape[1]
                    replay = Replay(part, self._method, self._system, self.request.solver)
                    pending = Pending()
                    for state, cotangent in zip((rows - begin).tolist(), cotangents[number], strict=True):
                        pending.add(state, cotangent[:, None])
                    equations = Equations(own, replay.blocks(own))
                    is_small = reverse_for_many(equations, replay, pending, one, found)
                    assert is_small, "steps are solved together where Jacobians are small dense blocks"
                    by_start[number] = pending.pop(0, np.zeros((size, 1)))[:, 0]
            self.confirm()
        return found[0], [by_start[number] for number in range(len(cotangents))]

    @staticmethod
    def _intervals(group: Group, segment: Segment) -> Iterator[tuple[int, Trajectory, int, np.ndarray]]:
        """The number, trajectory, first state and rows of each interval."""
        begins = segment.trajectory.starts.tolist()
        yield from zip(group.which, parts_of(segment), begins, group.rows, strict=True)


class One(Units):
    """The parameters of a single adjoint, whose gradients are products: no derivative of its own for each."""

    @property
    def moved(self) -> int:
        return sys.maxsize

    def jacobian(self, dynamics: Dynamics, s: torch.Tensor, u: torch.Tensor) -> None:
        return None

    def jacobian_of_brackets(self, curvature: Curvature) -> None:
        return None


def parts_of(segment: Segment) -> tuple[Trajectory, ...]:
    assert isinstance(segment.trajectory, Trajectories)
    return segment.trajectory.parts


def _segment_of(segment: Segment, part: Trajectory, begin: int) -> Segment:
    """The steps of one trajectory, whose first state has the number ``begin``."""
    assert segment.stages is not None
    steps = part.n_steps
    states, stages = segment.states[begin : begin + steps + 1], segment.stages[begin : begin + steps]
    return Segment(part, 0, steps, 0, states, stages)
