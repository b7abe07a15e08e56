"""Solving the rows of steps of one pattern: by Newton's iteration where f is implicit in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from stiffml.discretization.equations import Block, Equations, Row
from stiffml.discretization.numbering import half_step, is_half
from stiffml.discretization.trajectory import Segment
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Factors
from stiffml.system.system import System


class StoppingTest(Protocol):
    """When one Newton iteration has converged. It has failed after ``limit`` updates."""

    limit: int

    @property
    def keeps_jacobian(self) -> bool:
        """Whether the next update is to be found with the Jacobian of the last one."""

    @property
    def rtol(self) -> float:
        """How well the next update should be solved for, if that is done iteratively."""

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the iterate ``x`` (…, size) that ``update`` led to is good enough.

        Raises
        ------
        FloatingPointError
            If none ever will be.
        """


class NotConvergedError(ArithmeticError):
    """Newton's iteration for a row did not converge.

    ``s`` (K,), ``u`` (K, size): where its last update was found; ``update`` (K, size) this one, if held.
    """

    def __init__(self, s: torch.Tensor, u: np.ndarray, update: np.ndarray | None) -> None:
        super().__init__("Newton's iteration did not converge")
        self.s, self.u, self.update = s, u, update


class RowSolver:
    """Solves the rows of K steps of one pattern, one row after the other.

    Parameters
    ----------
    block : Block
    segment : Segment
    system : System
    test : callable
        From where a Newton iteration starts, (K, size), to the test that stops it.
    linearized : Dynamics, optional
        Whose Jacobians Newton's iteration takes; by default those of f.
    """

    def __init__(
        self,
        block: Block,
        segment: Segment,
        system: System,
        test: Callable[[np.ndarray], StoppingTest],
        linearized: Dynamics | None = None,
    ) -> None:
        self._test = test
        self._linearized = system.f if linearized is None else linearized
        self.block, self.pattern, self.segment, self.system = block, block.pattern, segment, system
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

    def output(self, row: Row) -> np.ndarray:
        """(size,) that of one more row, for a single step whose new state was solved for."""
        return self._solve(row)[0]

    def solve_half(self) -> np.ndarray:
        """(size,) the half step."""
        # Newton's iteration starts from the column before, which is the old state.
        return self._solve(self.pattern.rows[0])[0]

    def _half(self) -> np.ndarray:
        return self.segment.states_at(half_step(self.block.known[:, self.pattern.base]))

    def _times(self, name: str, c: int) -> torch.Tensor:
        states = self.block.state_of(c)
        if states is not None:
            if self.pattern.keeps_half and is_half(states).all():
                return self.block.times.mean(dim=1)  # the half step may not be known yet
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
        solver, factors = self.system.solver, None
        test = self._test(x)
        for _ in range(test.limit):
            u = torch.from_numpy(x)
            if not test.keeps_jacobian:
                factors = None
                solver.let_go()  # large systems need the room
            residual = f.evaluate_many(s, u, with_jacobian=factors is None).numpy() * -beta
            residual += alpha * self.system.weigh(x if origin is None else x - origin)
            residual -= known
            if factors is None:
                factors = self._factors(s, u, alpha, beta)
            update = factors.correct(residual, test.rtol)
            del residual
            x = x - update
            try:
                if test.reached(update, x):
                    return x
            except FloatingPointError:
                raise NotConvergedError(s, u.numpy(), update) from None
            del update
        raise NotConvergedError(s, u.numpy(), None)

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
        system = self.system
        return system.solver.linearize(self._linearized, s, u, system.mass).factorise(a, b)
