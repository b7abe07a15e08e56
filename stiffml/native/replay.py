"""Replay: solves the equations of recorded steps again, for stages and states that were not kept.

Steps are repeated at their recorded times. Steps whose states are known are solved side by side. Newton's
iteration runs down to rounding error. So recomputed vectors agree with those of the run to the run's Newton
tolerance, and repeated replays agree exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

import numpy as np

from stiffml.discretization.dense_output import Queries, with_outputs
from stiffml.discretization.equations import Block, Equations
from stiffml.discretization.trajectory import Segment, Trajectories, Trajectory
from stiffml.errors import ReplayError
from stiffml.methods import Method, RungeKutta
from stiffml.native.explicit_step import explicit_step
from stiffml.native.rounding import Rounding
from stiffml.native.rows import NotConvergedError, RowSolver
from stiffml.run.stepping import StepSolver
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System


class Replay(StepSolver):
    """Solves the recorded steps of a trajectory again.

    Parameters
    ----------
    trajectory : Trajectory or Trajectories
    method : Method
    system : System
    solver : LinearSolver or None
        None for explicit methods.
    queries : Queries, optional
        Outputs inside steps, added to the steps as rows.
    """

    def __init__(
        self,
        trajectory: Trajectory | Trajectories,
        method: Method,
        system: System,
        solver: LinearSolver | None,
        queries: Queries | None = None,
    ) -> None:
        self.trajectory, self.method, self.system = trajectory, method, system
        self._solver, self._queries = solver, queries

    @property
    def solver(self) -> LinearSolver:
        """The solver for linear systems with the Jacobian of f; for implicit methods only."""
        assert self._solver is not None
        return self._solver

    @property
    def has_queries(self) -> bool:
        """Whether steps have rows for outputs inside them."""
        return self._queries is not None

    @property
    def krylov_iterations(self) -> int:
        """Krylov iterations of the linear solver so far."""
        return 0 if self._solver is None else self._solver.krylov_iterations

    def asked(self, queries: Queries) -> Replay:
        return Replay(self.trajectory, self.method, self.system, self._solver, queries)

    def blocks(self, segment: Segment) -> list[Block]:
        """The equations of a segment, with rows for the outputs inside its steps."""
        blocks = self.method.blocks(segment, self.system.form)
        if self._queries is None:
            return blocks
        return [part for block in blocks for part in self._with_outputs(block, self._queries)]

    def _with_outputs(self, block: Block, queries: Queries) -> Iterator[Block]:
        """Split a block into blocks whose steps have the same number of outputs, and add these as rows."""
        dense = self.method.dense(self.system.form)
        assert dense is not None
        begin = 0
        for count, steps in groupby(queries.counts(block.which)):
            end = begin + len(list(steps))
            which, known, times = (a[begin:end] for a in (block.which, block.known, block.times.numpy()))
            begin = end
            if count == 0:
                yield Block(block.scheme, which, known, times)
                continue
            asked = np.array([queries.by_step[n] for n in which.tolist()])  # (steps, count, 2)
            scheme = with_outputs(block.scheme, dense, count)
            times = np.concatenate([times, asked[:, :, 1]], axis=1)
            yield Block(scheme, which, known, times, asked[:, :, 0].astype(int))

    def outputs(self, segment: Segment) -> dict[int, np.ndarray]:
        equations, found = self.equations(segment), dict[int, np.ndarray]()
        for block in equations.blocks:
            if block.pattern.outputs:
                found.update(self._rows(block, equations.segment).outputs())
        return found

    def between(self, segment: Segment, steps: np.ndarray, s: np.ndarray) -> np.ndarray:
        dense = self.method.dense(self.system.form)
        assert dense is not None
        found = np.empty((len(s), segment.states.shape[1]))
        for block in self.method.blocks(segment, self.system.form):
            mine = np.flatnonzero(np.isin(steps, block.which))
            which, row = np.unique(steps[mine], return_inverse=True)
            if len(which):
                of_block = np.searchsorted(block.which, which)
                part = Block(block.scheme, which, block.known[of_block], block.times.numpy()[of_block])
                with self._repeating(segment):
                    found[mine] = self._rows(part, segment).between(dense, row, s[mine])
        return found

    def errors(self, segment: Segment) -> np.ndarray:
        """The estimated errors (steps, size) of the steps of a segment; NaN for steps without an estimate.

        All steps of one kind are evaluated side by side, from the states and stages that they have.
        """
        estimates = self.method.estimates(segment, self.system.form)
        if any(block.pattern.stages for block, _ in estimates):
            segment = self.equations(segment).segment
        found = np.full((segment.last - segment.first, segment.states.shape[1]), np.nan)
        for block, _ in estimates:
            found[block.which - segment.first] = self._rows(block, segment).errors()
        return found

    def equations(self, segment: Segment) -> Equations:
        """The equations of a segment, with its stages. Unless kept, these are solved for side by side."""
        blocks = self.blocks(segment)
        if segment.stages is not None or not any(block.pattern.stages for block in blocks):
            return Equations(segment, blocks)
        with self._repeating(segment):
            solved = [self._rows(block, segment).stages() for block in blocks]
        if len(solved) == 1 and len(solved[0]) == segment.last - segment.first:
            return Equations(dataclasses.replace(segment, stages=solved[0]), blocks)
        stages = np.empty((segment.last - segment.first, *solved[0].shape[1:]))
        for block, found in zip(blocks, solved, strict=True):
            stages[block.which - segment.first] = found
        return Equations(dataclasses.replace(segment, stages=stages), blocks)

    def step(self, step: int, states: np.ndarray, with_half: bool = False) -> Segment:
        segment = Segment(self.trajectory, step, step + 1, step + 2 - len(states), states)
        if isinstance(self.method, RungeKutta):
            begin, end = self.trajectory.times[step : step + 2].tolist()
            again = explicit_step(self.method).again
            stages, states[-1] = again(self.system.f, begin, states[-2], end - begin)
            return dataclasses.replace(segment, stages=stages[None])
        (block,) = self.blocks(segment)
        rows = self._rows(block, segment)
        with self._repeating(segment):
            if with_half and block.pattern.keeps_half:
                self.single.half = (float(block.times.mean()), rows.solve_half())
            segment.states[-1] = rows.new_state()
        return dataclasses.replace(segment, stages=rows.stages())

    def _rows(self, block: Block, segment: Segment) -> RowSolver:
        return RowSolver(block, segment, self.system, self._solver, self._test)

    def _test(self, start: np.ndarray) -> Rounding:
        solver = self.solver
        return Rounding(self.system, start, solver.contraction, solver.enough)

    @contextmanager
    def _repeating(self, segment: Segment) -> Iterator[None]:
        try:
            yield
        except NotConvergedError:
            where = self.system.direction * segment.begin
            raise ReplayError(
                f"a step recorded near t = {where:.10g} could not be repeated: Newton's iteration did not "
                "converge. Try: Discrete(checkpoints='stages'), which repeats nothing, or steps=Adaptive() "
                "with a smaller rtol"
            ) from None
