"""Solving the equations of recorded steps again: for stages that were not kept, and for states that were not.

PETSc takes the steps of a run; this takes recorded ones once more, at the same times, side by side where
their states are known. Newton's iteration goes on until only rounding is left, so that what is recomputed
agrees with what the run found to within the run's own Newton tolerance, and with itself exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch

from stiffml.discretization.dense_output import Queries, with_outputs
from stiffml.discretization.equations import HALF, Block, Equations, Row
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.errors import ReplayError
from stiffml.methods import Method
from stiffml.native.rounding import MAX_ITERATIONS, Rounding
from stiffml.system.derivatives.linearization import Factors
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System


class Replay:
    """Takes the recorded steps of a trajectory again."""

    def __init__(
        self,
        trajectory: Trajectory,
        method: Method,
        system: System,
        solver: LinearSolver | None = None,
        queries: Queries | None = None,
    ) -> None:
        self.trajectory, self.method, self.system = trajectory, method, system
        self._solver, self._queries = solver, queries

    @property
    def solver(self) -> LinearSolver:
        """How systems with the Jacobian of f are solved, of an implicit method."""
        assert self._solver is not None
        return self._solver

    @property
    def krylov_iterations(self) -> int:
        """Those of all systems solved at recorded states so far."""
        return 0 if self._solver is None else self._solver.krylov_iterations

    def asked(self, queries: Queries) -> Replay:
        """The same, with outputs that are further equations of their steps."""
        return Replay(self.trajectory, self.method, self.system, self._solver, queries)

    def blocks(self, segment: Segment) -> list[Block]:
        """The equations of a segment."""
        blocks = self.method.blocks(segment, self.system.form)
        if self._queries is None:
            return blocks
        return [part for block in blocks for part in self._with_outputs(block, self._queries)]

    def _with_outputs(self, block: Block, queries: Queries) -> Iterator[Block]:
        """The block in parts with the same number of outputs a step."""
        dense = self.method.dense(self.system.form)
        assert dense is not None
        begin = 0
        for count, steps in groupby(queries.counts(block.first, block.steps)):
            end = begin + len(list(steps))
            first, known, times = block.first + begin, block.known[begin:end], block.times[begin:end].numpy()
            begin = end
            if count == 0:
                yield Block(block.scheme, first, known, times)
                continue
            asked = np.array([queries.by_step[first + k] for k in range(len(known))])  # (steps, count, 2)
            scheme = with_outputs(block.scheme, dense, count)
            times = np.concatenate([times, asked[:, :, 1]], axis=1)
            yield Block(scheme, first, known, times, asked[:, :, 0].astype(int))

    def outputs(self, segment: Segment) -> dict[int, np.ndarray]:
        """The outputs in the steps of a segment, by their numbers."""
        segment = self.with_stages(segment)
        found: dict[int, np.ndarray] = {}
        for block in self.blocks(segment):
            if block.pattern.outputs:
                found.update(_BlockSolver(block, segment, self.system, self._solver).outputs())
        return found

    def with_stages(self, segment: Segment) -> Segment:
        """The segment with the stages of its steps, solved for side by side unless they were kept."""
        blocks = self.blocks(segment)
        if segment.stages is not None or not any(block.pattern.stages for block in blocks):
            return segment
        solved = [_BlockSolver(block, segment, self.system, self._solver).stages() for block in blocks]
        return dataclasses.replace(segment, stages=np.concatenate(solved))

    def step(self, step: int, states: np.ndarray, with_half: bool = False) -> Segment:
        """One step, as a segment, which takes ``states`` (N + 1, size): those before it that it starts from,
        and room for the new one.

        ``with_half``: the half step of a BDF start is taken again as well, and the trajectory keeps it.
        """
        segment = Segment(self.trajectory, step, step + 1, step + 2 - len(states), states)
        (block,) = self.blocks(segment)
        solver = _BlockSolver(block, segment, self.system, self._solver)
        if with_half and block.pattern.keeps_half:
            self.trajectory.half = (float(segment.times.mean()), solver.solve_half())
        segment.states[-1] = solver.new_state()
        return dataclasses.replace(segment, stages=solver.stages())


class _BlockSolver:
    """Solves the rows of K steps of one pattern, one row after the other."""

    def __init__(self, block: Block, segment: Segment, system: System, solver: LinearSolver | None) -> None:
        self.block, self.pattern, self.segment, self.system = block, block.pattern, segment, system
        self._solver = solver
        self.numbers = block.numbers
        self.x: dict[int, np.ndarray] = {
            c: segment.states_at(block.known[:, c]) for c in range(self.pattern.history)
        }
        self._values: dict[tuple[str, int], np.ndarray] = {}
        self._base: tuple[Factors, np.ndarray] | None = None

    def stages(self) -> np.ndarray:
        """(K, stages, size)"""
        stages = self.pattern.stages
        if self.pattern.keeps_half:
            self.x[self.pattern.history] = self._half()
        for row in self.pattern.step_rows:
            if row.column in stages and row.column not in self.x:
                self.x[row.column] = self._solve(row)
        parts = [self.x[c] for c in stages]
        return (
            np.stack(parts, axis=1)
            if parts
            else np.empty((self.block.steps, 0, self.segment.states.shape[1]))
        )

    def new_state(self) -> np.ndarray:
        """(size,) for a single step."""
        for row in self.pattern.step_rows:
            half = self.pattern.keeps_half and row.index == 0
            self.x[row.column] = self._half() if half else self._solve(row)
        return self.x[self.pattern.new][0]

    def outputs(self) -> Iterator[tuple[int, np.ndarray]]:
        """Of each output its number and its value (size,), from a segment that has its stages."""
        equations = Equations(self.segment, [self.block])
        for c in (*self.pattern.stages, self.pattern.new):
            self.x[c] = equations.column(self.block, c)
        for row, numbers in zip(self.pattern.output_rows, self.block.outputs.T, strict=True):
            yield from zip(numbers.tolist(), self._solve(row), strict=True)

    def solve_half(self) -> np.ndarray:
        """(size,) the half step."""
        # Newton's iteration starts from the column before, which is the old state.
        return self._solve(self.pattern.rows[0])[0]

    def _half(self) -> np.ndarray:
        return self.segment.states_at(np.full(self.block.steps, HALF))

    def _times(self, name: str, c: int) -> torch.Tensor:
        states = self.block.state_of(c)
        if states is not None:
            if states[0] == HALF and self.pattern.keeps_half:
                return torch.from_numpy(self.segment.times.mean(keepdims=True))
            return torch.from_numpy(np.array(self.segment.times_at(states)))
        return getattr(self.numbers, f"s_{name}")[:, c]

    def _value(self, name: str, c: int) -> np.ndarray:
        """f or g at a column, (K, size)."""
        found = self._values.get((name, c))
        if found is None:
            part = getattr(self.system, name)
            u = torch.from_numpy(np.ascontiguousarray(self.x[c]))
            found = part.evaluate_many(self._times(name, c), u).numpy()
            if len(self.pattern.rows) > 1:  # others may need it as well
                self._values[name, c] = found
        return found

    def _solve(self, row: Row) -> np.ndarray:
        alpha, beta, epsilon = (
            values[:, row.index].numpy()[:, :, None]
            for values in (self.numbers.alpha, self.numbers.beta, self.numbers.epsilon)
        )
        size = self.segment.states.shape[1]
        known = np.zeros((self.block.steps, size))
        # Where only differences of columns enter, these lose less to rounding than the columns do.
        origin = self.x[self.pattern.base] if self.pattern.differences else None
        for c in row.alpha:
            known -= alpha[:, c] * (self.x[c] if origin is None else self.x[c] - origin)
        if row.weighted:
            known = self.system.weigh(known)
        for c in row.beta:
            known += beta[:, c] * self._value("f", c)
        for c in row.epsilon:
            known += epsilon[:, c] * self._value("g", c)
        if row.output:
            return known
        own = alpha[:, row.column]
        if row.solves:
            return self._newton(row, own, beta[:, row.column], known, origin)
        if row.rosenbrock:
            return self._rosenbrock(row, own, known)
        return known / own

    def _newton(
        self, row: Row, alpha: np.ndarray, beta: np.ndarray, known: np.ndarray, origin: np.ndarray | None
    ) -> np.ndarray:
        """The x of α M (x − origin) − β f(s, x) = known, started from the vector before."""
        f, s = self.system.f, self._times("f", row.column)
        x = np.array(self.x[row.column - 1])
        solver, factors = self._solver, None
        assert solver is not None
        rounding = Rounding(self.system, x, solver.contraction, solver.enough)
        for _ in range(MAX_ITERATIONS):
            u = torch.from_numpy(x)
            if not rounding.keeps_jacobian:
                factors = None
                solver.release_jacobian()  # large systems need the room
            slope = solver.evaluate(f, s, u) if factors is None else f.evaluate_many(s, u)
            residual = slope.numpy() * -beta
            del slope
            residual += alpha * self.system.weigh(x if origin is None else x - origin)
            residual -= known
            if factors is None:
                factors = self._factors(s, u, alpha, beta)
            update = factors.correct(residual, rounding.rtol)
            del residual
            x = x - update
            try:
                if rounding.reached(update, x):
                    return x
            except FloatingPointError:
                break
            del update
        where = float(self.segment.times[0])
        raise ReplayError(
            f"a step recorded near t = {self.system.direction * where:.10g} could not be repeated: Newton's "
            "iteration did not converge. Try: Discrete(checkpoints='stages'), which repeats nothing, or "
            "steps=Adaptive() with a smaller rtol"
        )

    def _rosenbrock(self, row: Row, alpha: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The y of (α M − J) y = known + τ ∂f/∂s, with J and ∂f/∂s at the old state."""
        f = self.system.f
        if self._base is None:
            u = torch.from_numpy(np.ascontiguousarray(self.x[self.pattern.base]))
            s = self._times("f", self.pattern.base)
            # All stages have the same α, that of the constant γ.
            factors = self._factors(s, u, alpha, np.ones_like(alpha))
            self._base = factors, f.time_derivative(s, u).numpy()
        factors, wrt_time = self._base
        known = known + self.numbers.tau[:, row.index].numpy()[:, None] * wrt_time
        return factors.solve(known)

    def _factors(self, s: torch.Tensor, u: torch.Tensor, a: np.ndarray, b: np.ndarray) -> Factors:
        """Of a·M − b·J at the states; a and b are (K, 1)."""
        assert self._solver is not None
        return self._solver.linearize(self.system.f, s, u, self.system.mass).factorise(a, b)
