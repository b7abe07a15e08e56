"""Solves the rows of steps that share a pattern; implicit rows by Newton's iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Block, Equations
from stiffml.discretization.numbering import half_step, is_half
from stiffml.discretization.row import Phi, Row
from stiffml.discretization.trajectory import Segment
from stiffml.native.phi import multiplied
from stiffml.run.kept_jacobian import KeptJacobian
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Factors, Linearization
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System


class StoppingTest(Protocol):
    """Decides when a Newton iteration has converged. It has failed after ``limit`` updates."""

    limit: int

    @property
    def keeps_jacobian(self) -> bool:
        """Whether the next update should use the Jacobian of the last one."""

    @property
    def rtol(self) -> float:
        """The relative tolerance for the next update, if the linear solver is iterative."""

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the new iterate ``x`` (…, size) is good enough; ``update`` (…, size) is its last change.

        Raises
        ------
        FloatingPointError
            If the iteration has diverged.
        """


@dataclass
class LastJacobian:
    """The Jacobian that Newton's iterations of many steps, taken one by one, go on with while it serves."""

    use: KeptJacobian
    jacobian: Linearization | None = None


class NotConvergedError(ArithmeticError):
    """Newton's iteration for a row did not converge.

    Attributes
    ----------
    s, u : Tensor, ndarray
        (K,) times and (K, size) iterates of the last linearisation.
    update : ndarray or None
        (K, size) the last update, if it is still held.
    """

    def __init__(self, s: torch.Tensor, u: np.ndarray, update: np.ndarray | None) -> None:
        super().__init__("Newton's iteration did not converge")
        self.s, self.u, self.update = s, u, update


class RowSolver:
    """Solves the rows of K steps that share a pattern, one row after the other for all steps together.

    Parameters
    ----------
    block : Block
        The steps.
    segment : Segment
        Has the states that the steps start from.
    system : System
    solver : LinearSolver or None
        None for explicit methods.
    test : callable
        Takes the size (K, size) of what a Newton iteration begins with and returns its stopping test.
    linearized : Dynamics, optional
        Supplies the Jacobians for Newton's iteration. Default f.
    last : LastJacobian, optional
        Set for a single step whose iteration may go on with an earlier Jacobian; ``test`` then judges that.
    """

    def __init__(
        self,
        block: Block,
        segment: Segment,
        system: System,
        solver: LinearSolver | None,
        test: Callable[[np.ndarray], StoppingTest],
        linearized: Dynamics | None = None,
        last: LastJacobian | None = None,
    ) -> None:
        self._last = last
        self._test, self._solver = test, solver
        self._linearized = system.f if linearized is None else linearized
        self.block, self.pattern, self.segment, self.system = block, block.pattern, segment, system
        self.numbers = block.numbers
        self._coefficients = [values.numpy() for values in block.numbers[:3]]  # α, β and ε
        self._constant: Linearization | None = None
        self.x: dict[int, np.ndarray] = {
            c: segment.states_at(block.known[:, c]) for c in range(self.pattern.history)
        }
        self._values: dict[tuple[str, int], np.ndarray] = {}
        self._solved_for: dict[int, np.ndarray] = {}  # f at columns, as their rows have it
        for column, slope in (segment.slopes or {}).items():
            self._values["f", column] = slope[None]
        self._base: tuple[Factors, np.ndarray] | None = None

    def stages(self) -> np.ndarray:
        """Solve for the stages, (K, stages, size); states and half steps are taken from the segment."""
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
        """Solve a single step: its new state (size,)."""
        for row in self.pattern.step_rows:
            half = self.pattern.keeps_half and row.index == 0
            self.x[row.column] = self._half() if half else self._solve(row)
        return self.x[self.pattern.new][0]

    def outputs(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number and the value (size,) of each output; the segment must have its stages."""
        self._recall()
        for row, numbers in zip(self.pattern.output_rows, self.block.outputs.T, strict=True):
            yield from zip(numbers.tolist(), self._solve(row), strict=True)

    def between(self, dense: Dense, row: np.ndarray, s: np.ndarray) -> np.ndarray:
        """(Q, size) the interpolant at times ``s`` (Q,) in the steps ``row`` (Q,) of the block.

        Stages that the segment does not have are solved for.
        """
        pattern, times = self.pattern, self.block.times.numpy()
        if self.segment.stages is None and len(pattern.stages):
            self.stages()
            self.x[pattern.new] = Equations(self.segment, [self.block]).column(self.block, pattern.new)
        else:
            self._recall()
        begin, end = times[row, pattern.base], times[row, pattern.history]
        theta = (s - begin) / (end - begin)
        powers = np.stack([theta**j for j in range(1, len(dense.alpha) + 1)], axis=-1)
        alpha, beta, epsilon = (powers @ values for values in (dense.alpha, dense.beta, dense.epsilon))
        alpha[:, pattern.base] -= 1
        found = np.zeros((len(s), self.segment.states.shape[1]))
        for c in np.flatnonzero(alpha.any(axis=0)).tolist():
            found -= alpha[:, c, None] * np.take(self.x[c], row, axis=0)
        for name, values in (("f", beta), ("g", epsilon)):
            for c in np.flatnonzero(values.any(axis=0)).tolist():
                slopes = np.take(self._value(name, c), row, axis=0)
                found += ((end - begin) * values[:, c])[:, None] * slopes
        return found

    def errors(self) -> np.ndarray:
        """The estimated errors (K, size) of the steps of an estimate; the segment must have its stages."""
        self._recall()
        (row,) = self.pattern.output_rows
        return self._solve(row)

    def _recall(self) -> None:
        """Take all columns from the segment."""
        equations = Equations(self.segment, [self.block])
        for c in range(self.pattern.history, self.pattern.new + 1):
            self.x[c] = equations.column(self.block, c)

    def output(self, row: Row) -> np.ndarray:
        """The value (size,) of an output row, for a single step after :meth:`new_state`."""
        return self._solve(row)[0]

    def solve_half(self) -> np.ndarray:
        """Solve a single step for its half step (size,)."""
        # Newton's iteration starts from the previous column, here the old state.
        return self._solve(self.pattern.rows[0])[0]

    def _half(self) -> np.ndarray:
        return self.segment.states_at(half_step(self.block.known[:, self.pattern.base]))

    def _times(self, name: str, c: int) -> torch.Tensor:
        states = self.block.state_of(c)
        if states is not None:
            if self.pattern.keeps_half and is_half(states).all():
                # The trajectory may not have the half step yet. Times beyond these two are of outputs.
                return self.block.times[:, :2].mean(dim=1)
            return torch.from_numpy(np.array(self.segment.times_at(states)))
        return getattr(self.numbers, f"s_{name}")[:, c]

    def _value(self, name: str, c: int) -> np.ndarray:
        """f or g at a column, (K, size); kept if other rows may use it too."""
        found = self._values.get((name, c))
        if found is None:
            part = getattr(self.system, name)
            u = torch.from_numpy(np.ascontiguousarray(self.x[c]))
            found = part.evaluate_many(self._times(name, c), u).numpy()
            if name == "f" and c in self._solved_for:
                found = np.where(np.isfinite(found), self._solved_for[c], found)
            if len(self.pattern.rows) > 1:  # another row may use it too
                self._values[name, c] = found
        return found

    def _solve(self, row: Row) -> np.ndarray:
        alpha, beta, epsilon = (values[:, row.index, :, None] for values in self._coefficients)
        size = self.segment.states.shape[1]
        known = np.zeros((self.block.steps, size))
        # If only differences of columns enter, sums of differences lose less to rounding.
        origin = self.x[self.pattern.base] if self.pattern.differences else None
        slopes = [(beta[:, c], self._value("f", c)) for c in row.beta]
        slopes += [(epsilon[:, c], self._value("g", c)) for c in row.epsilon]
        with np.errstate(over="ignore", invalid="ignore"):  # samples that fail are left where they ended
            for c in row.alpha:
                known -= alpha[:, c] * (self.x[c] if origin is None else self.x[c] - origin)
            if row.weighted:
                known = self.system.weigh(known)
            for c in row.phi:
                known -= alpha[:, c] * self._multiplied(row.phi[c], self.x[c])
            for factor, slope in slopes:
                known += factor * slope
        if row.output:
            return known
        own = alpha[:, row.column]
        if row.solves:
            return self._newton(row, own, beta[:, row.column], known, origin)
        if row.rosenbrock:
            return self._rosenbrock(row, own, known)
        return known / own

    def _multiplied(self, phi: Phi, x: np.ndarray) -> np.ndarray:
        """φ x of each step, (K, size), with the constant Jacobian of f."""
        if self._constant is None:
            assert self._solver is not None
            s = self._times("f", self.pattern.base)
            u = torch.from_numpy(np.ascontiguousarray(self.x[self.pattern.base]))
            self._constant = self._solver.linearize(self.system.f, s, u, self.system.mass, constant=True)
        return multiplied(self._constant, self.block, phi, x)

    def _newton(
        self, row: Row, alpha: np.ndarray, beta: np.ndarray, known: np.ndarray, origin: np.ndarray | None
    ) -> np.ndarray:
        """Solve α M (x − origin) − β f(s, x) = known for x (K, size), starting from the previous column."""
        f, s = self.system.f, self._times("f", row.column)
        x = start = np.array(self.x[row.column - 1])
        solver, last, factors = self._solver, self._last, None
        assert solver is not None
        test = self._test(self._largest_of(row, x))
        if last is not None and last.jacobian is not None:
            factors = last.jacobian.factors(alpha, beta)
        for _ in range(test.limit):
            u = torch.from_numpy(x)
            if not test.keeps_jacobian:
                factors = None
                solver.release_jacobian()  # frees memory before the next Jacobian of a large system
            slope = solver.evaluate(f, s, u) if factors is None else f.evaluate_many(s, u)
            residual = slope.numpy() * -beta
            del slope
            residual += alpha * self.system.weigh(x if origin is None else x - origin)
            residual -= known
            if last is not None and factors is not None:
                last.use.is_used()
            if factors is None:
                factors = self._factors(s, u, alpha, beta, last)
            update = factors.correct(residual, test.rtol)
            del residual
            x = x - update
            try:
                if test.reached(update, x):
                    self._note_slope(row, alpha, beta, known, x, origin)
                    return x
            except FloatingPointError:
                if last is None or not last.use.may_repeat():
                    raise NotConvergedError(s, u.numpy(), update) from None
                x = start
            del update
        raise NotConvergedError(s, u.numpy(), None)

    def _note_slope(
        self,
        row: Row,
        alpha: np.ndarray,
        beta: np.ndarray,
        known: np.ndarray,
        x: np.ndarray,
        origin: np.ndarray | None,
    ) -> None:
        """f at the unknown of an implicit row as the row has it, for others: (α M (x − origin) − known) / β.

        An evaluation has the rounding errors of x times J, which the stages of a stiff system may amplify. It
        only shows whether f is finite.
        """
        if len(self.pattern.rows) > 1:
            with np.errstate(over="ignore", invalid="ignore"):
                moved = x if origin is None else x - origin
                self._solved_for[row.column] = (alpha * self.system.weigh(moved) - known) / beta

    def _largest_of(self, row: Row, start: np.ndarray) -> np.ndarray:
        """(K, size) the largest |x| among ``start`` and the columns that a row begins with.

        Their rounding errors remain in its solution, also where that is zero.
        """
        largest = np.abs(start)
        for c in {self.pattern.base, *row.alpha} if self.pattern.differences else row.alpha:
            np.maximum(largest, np.abs(self.x[c]), out=largest)
        return largest

    def _rosenbrock(self, row: Row, alpha: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Solve (α M − J) y = known + τ ∂f/∂s for y (K, size), with J and ∂f/∂s at the old state."""
        f = self.system.f
        if self._base is None:
            u = torch.from_numpy(np.ascontiguousarray(self.x[self.pattern.base]))
            s = self._times("f", self.pattern.base)
            # All stages have the same γ, hence the same α and the same factors.
            factors = self._factors(s, u, alpha, np.ones_like(alpha))
            self._base = factors, f.time_derivative(s, u).numpy()
        factors, wrt_time = self._base
        known = known + self.numbers.tau[:, row.index].numpy()[:, None] * wrt_time
        return factors.solve(known)

    def _factors(
        self, s: torch.Tensor, u: torch.Tensor, a: np.ndarray, b: np.ndarray, last: LastJacobian | None = None
    ) -> Factors:
        """The factors of a·M − b·J at K times (K,) and states (K, size); a and b are (K, 1).

        J is kept in ``last``, if that is given.
        """
        assert self._solver is not None
        if last is not None:
            last.jacobian = None  # frees its memory
        jacobian = self._solver.linearize(self._linearized, s, u, self.system.mass)
        if last is None:
            return jacobian.factorise(a, b)
        last.jacobian = jacobian
        last.use.is_renewed()
        return jacobian.factors(a, b)
