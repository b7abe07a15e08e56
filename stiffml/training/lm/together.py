"""Solves all intervals of all runs by one Newton iteration, and differentiates them with the same matrix.

For steps that are known and small dense Jacobians. The intervals are several trajectories, each with its own
times, whose rows are one system (:mod:`stiffml.all_at_once`). The checks of a solve are made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from stiffml.all_at_once.guess import interpolated
from stiffml.all_at_once.solve import solve_segment
from stiffml.discretization.equations import Equations
from stiffml.discretization.trajectory import Segment, Trajectories, Trajectory
from stiffml.gradients.adjoints_at_once import reverse_for_many
from stiffml.gradients.directions import Units
from stiffml.gradients.linearized import curvatures_of
from stiffml.gradients.sweep import Pending
from stiffml.gradients.tangent import TangentSweep, linearize_both
from stiffml.interface.solution import Solution
from stiffml.native.replay import Replay
from stiffml.run.record import Run
from stiffml.run.request import Request
from stiffml.run.schedule import scheduled, step_ends
from stiffml.stats import spend
from stiffml.steps import Adaptive

NUMBERS = 4_000_000
"""Largest number of float64 values in the matrix or the tangents of a group of intervals (32 MB)."""

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


class Together:
    """The solver of intervals for one request, whose steps must be known.

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

    def units(self, count: int) -> Units:
        """The directions of all parameters that are fitted, among ``count``."""
        return Units(self._first, count)

    def groups(self, times: Sequence[np.ndarray], columns: int) -> list[Group]:
        """Group intervals with these times (rows,) for ``columns`` tangents, as many as fit into memory."""
        found: list[tuple[list[int], list[Trajectory], list[np.ndarray]]] = []
        room, size = 0, self._system.layout.size
        stages = len(self._method.kept_stages(self._system.form)) + 2
        for number, at in enumerate(times):
            trajectory, rows = self._planned(at)
            numbers = (trajectory.n_steps + 1) * stages * size * max(columns, 3 * stages * size)
            if not found or room < numbers:
                found.append(([], [], []))
                room = NUMBERS
            room -= numbers
            for part, new in zip(found[-1], (number, trajectory, rows), strict=True):
                part.append(new)  # type: ignore[attr-defined]
        return [self._group(*parts) for parts in found]

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

    def _planned(self, times: np.ndarray) -> tuple[Trajectory, np.ndarray]:
        outputs = self._system.direction * times
        steps = self.request.steps
        assert not isinstance(steps, Adaptive)
        fractions = scheduled(steps, outputs, self._method)[0]
        trajectory = Trajectory(outputs).with_steps(step_ends(fractions, outputs)[0])
        if self._method.starts_with_half_step:
            trajectory.half = float(trajectory.times[:2].mean()), np.empty(0)
        return trajectory, np.cumsum([0, *map(len, fractions)])

    @staticmethod
    def _group(which: list[int], parts: list[Trajectory], rows: list[np.ndarray]) -> Group:
        trajectories = Trajectories(parts)
        starts = trajectories.starts.tolist()
        return Group(which, trajectories, [start + own for start, own in zip(starts, rows, strict=True)])

    def solve(
        self,
        groups: Sequence[Group],
        starts: Sequence[np.ndarray],
        paths: Sequence[tuple[np.ndarray, np.ndarray]] | None,
        near: Solved | None = None,
    ) -> Solved:
        """Solve all intervals from ``starts`` (size,).

        ``paths`` has for each interval times (k,) and states (k, size) near the solution. Without, the
        iteration begins from the starts. ``near`` is the solution of these groups that the paths are of, if
        they are: then stages begin from its stages, which are much nearer than the states before them.

        Raises
        ------
        StepsNotConvergedError, Exception
            If the iteration does not converge, or what func raises.
        """
        segments, iterations = [], 0
        steps = sum(group.trajectories.n_steps for group in groups)
        with (
            self._spending(steps),
            torch.inference_mode(False),
            torch.no_grad(),
            np.errstate(all="ignore"),
        ):
            for number, group in enumerate(groups):
                stages = None if near is None else near.segments[number].stages
                segment, needed = self._solve_group(group, starts, paths, stages)
                segments.append(segment)
                iterations += needed
        return Solved(list(groups), segments, iterations)

    def _solve_group(
        self,
        group: Group,
        starts: Sequence[np.ndarray],
        paths: Sequence[tuple[np.ndarray, np.ndarray]] | None,
        stages: np.ndarray | None,
    ) -> tuple[Segment, int]:
        guesses, trajectories = [], group.trajectories
        if self._method.starts_with_half_step:  # which each solution has its own of
            trajectories = Trajectories([part.copy() for part in trajectories.parts])
        for number, part in zip(group.which, trajectories.parts, strict=True):
            if paths is None:
                guess = np.repeat(starts[number][None], part.n_steps + 1, axis=0)
            else:
                guess = interpolated(*paths[number], part.times)
            guess[0] = starts[number]
            guesses.append(guess)
            if part.half is not None:
                part.half = part.half[0], starts[number]
        states = np.concatenate(guesses)
        segment = Segment(trajectories, 0, trajectories.n_steps, 0, states, stages)
        found = solve_segment(
            segment, self._method, self._system, self.request.newton, trusted=paths is not None
        )
        if not np.isfinite(found.states).all():
            raise FloatingPointError("a state is not finite")
        for part, half in zip(trajectories.parts, () if found.halves is None else found.halves, strict=False):
            assert part.half is not None
            part.half = part.half[0], half
        solved = np.concatenate([states[:1], found.states])
        return replace(segment, states=solved, stages=found.stages), found.iterations

    def kept(self, solved: Solved) -> list[dict[str, np.ndarray]]:
        """The vectors of a solution, for :meth:`restored`."""
        found = []
        for segment in solved.segments:
            assert segment.stages is not None
            vectors = {"states": segment.states, "stages": segment.stages}
            vectors |= {f"half {i}": part.half[1] for i, part in enumerate(_parts(segment)) if part.half}
            found.append(vectors)
        return found

    def restored(self, groups: Sequence[Group], kept: Sequence[dict[str, np.ndarray]]) -> Solved:
        """The solution with these vectors."""
        segments = []
        for group, vectors in zip(groups, kept, strict=True):
            trajectories = Trajectories([part.copy() for part in group.trajectories.parts])
            for i, part in enumerate(trajectories.parts):
                if f"half {i}" in vectors and part.half is not None:
                    part.half = part.half[0], vectors[f"half {i}"]
            states, stages = vectors["states"], vectors["stages"]
            segments.append(Segment(trajectories, 0, len(states) - 1, 0, states, stages))
        return Solved(list(groups), segments, 0)

    def assembled(self, groups: Sequence[Group], solutions: Sequence[Solution]) -> Solved | None:
        """Solutions of each interval, step by step, as one of the groups.

        None if stages were not kept, or a step that does not exist was cut.
        """
        vectors = []
        for group in groups:
            runs = [solutions[number].pieces[0].tape.run for number in group.which]
            states = [run.checkpoints.states for run in runs]
            stages = [self._stages_of(run) for run in runs]
            wanted = [part.n_steps for part in group.trajectories.parts]
            cut = wanted != [run.trajectory.n_steps for run in runs]
            if cut or any(own is None for own in (*states, *stages)):
                return None
            # A row of zeros stands between trajectories.
            padded = [np.pad(own, ((0, 1), (0, 0), (0, 0))) for own in stages if own is not None]
            halves = {
                f"half {i}": run.trajectory.half[1] for i, run in enumerate(runs) if run.trajectory.half
            }
            whole = np.concatenate([own for own in states if own is not None])
            vectors.append({"states": whole, "stages": np.concatenate(padded)[:-1], **halves})
        return self.restored(groups, vectors)

    def _stages_of(self, run: Run) -> np.ndarray | None:
        if len(self._method.kept_stages(self._system.form)):
            return run.checkpoints.stages
        return np.zeros((run.trajectory.n_steps, 0, self._system.layout.size))

    def derivatives(self, solved: Solved, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The derivatives (rows, size, P) of the states at the rows of each interval.

        ``starts`` are those of the initial states, (P, size), by all that is fitted: the parameters first.
        By adjoints where they are fewer than the tangents, and there are many of these in long intervals.
        """
        found: dict[int, np.ndarray] = {}
        with self._spending(), torch.inference_mode(False), torch.no_grad():
            for group, segment in zip(solved.groups, solved.segments, strict=True):
                rows, size = max(map(len, group.rows)), segment.states.shape[1]
                few = rows * size < len(starts[0]) and rows * len(starts[0]) >= MANY
                way = self._adjoints if few else self._tangents
                found |= way(group, segment, starts)
        return [found[number] for number in range(len(starts))]

    def _tangents(
        self, group: Group, segment: Segment, starts: Sequence[np.ndarray]
    ) -> dict[int, np.ndarray]:
        at_start = np.concatenate([starts[number] for number in group.which], axis=1)
        replay = Replay(segment.trajectory, self._method, self._system, self.request.solver)
        sweep = TangentSweep(replay, at_start, self.units(len(starts[0])))
        equations = Equations(segment, replay.blocks(segment))
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
        begins = segment.trajectory.starts.tolist()
        for number, part, begin, rows in zip(group.which, _parts(segment), begins, group.rows, strict=True):
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


def _parts(segment: Segment) -> tuple[Trajectory, ...]:
    assert isinstance(segment.trajectory, Trajectories)
    return segment.trajectory.parts


def _segment_of(segment: Segment, part: Trajectory, begin: int) -> Segment:
    """The steps of one trajectory, whose first state has the number ``begin``."""
    assert segment.stages is not None
    steps = part.n_steps
    states, stages = segment.states[begin : begin + steps + 1], segment.stages[begin : begin + steps]
    return Segment(part, 0, steps, 0, states, stages)
