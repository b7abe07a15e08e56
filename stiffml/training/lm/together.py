"""Solves all intervals of all runs by one Newton iteration, and differentiates them with the same matrix.

For steps that are known and small dense Jacobians. The intervals are several trajectories, each with its own
times, whose rows are one system (:mod:`stiffml.all_at_once`). The checks of a solve are made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from stiffml.all_at_once.guess import interpolated
from stiffml.all_at_once.solve import solve_segment
from stiffml.discretization.trajectory import Segment, Trajectories, Trajectory
from stiffml.interface.solution import Solution
from stiffml.run.record import Run
from stiffml.run.schedule import scheduled, step_ends
from stiffml.steps import Adaptive
from stiffml.training.lm.differentiated import Differentiated, Group, Solved, parts_of

NUMBERS = 4_000_000
"""Largest number of float64 values in the matrix or the tangents of a group of intervals (32 MB)."""


class Together(Differentiated):
    """The solver of intervals for one request, whose steps must be known."""

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

    def steps_between(self, times: np.ndarray) -> int:
        """How many there are from the first of these times (rows,) to the last."""
        return self._planned(times)[0].n_steps

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
            vectors |= {f"half {i}": part.half[1] for i, part in enumerate(parts_of(segment)) if part.half}
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
