"""Rows of one step of each of K samples, whose Newton iterations end one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from stiffml.discretization.equations import Block
from stiffml.discretization.interpolation import lagrange_rows
from stiffml.discretization.row import Row
from stiffml.discretization.trajectory import Segment
from stiffml.errors import Status
from stiffml.linear.dense.blocks import BlockLU, shift_
from stiffml.linear.non_finite import mended_blocks
from stiffml.native.rounding import ROUNDING_UNITS
from stiffml.native.rows import RowSolver
from stiffml.petsc.formulation import Formulation
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System

SLOW = 0.1
"""The contraction of an iteration from which its Jacobian is evaluated anew."""

Weights = Callable[[np.ndarray], np.ndarray]
"""From iterates (K, size) of all samples to the sizes that their updates may have."""


class SideBySide(RowSolver):
    """Solves the rows of one step of each of K samples; a sample that fails does not stop the others.

    Newton's iteration of a sample goes on until that sample has converged. Its Jacobian is kept over the
    iterations of a step, as long as updates shrink fast. Nothing of a sample depends on the others.

    Parameters
    ----------
    block, segment, system, solver
        As for :class:`RowSolver`.
    limit : int
        Most iterations.
    weights : callable
    left : float
        What an iteration with an earlier Jacobian may leave, in these sizes; with new ones it is 1.

    Attributes
    ----------
    failed : list of Status or None
        (K,) why a sample has no new state.
    iterations, mended : int
        Iterations of all samples, or linear solves of Rosenbrock rows; Jacobians mended by differences.
    update : ndarray
        (K, size) the last updates of Newton's iteration.
    """

    def __init__(
        self,
        block: Block,
        segment: Segment,
        system: System,
        solver: LinearSolver | None,
        limit: int,
        weights: Weights,
        left: float,
    ) -> None:
        super().__init__(block, segment, system, solver, _no_test)
        self._limit, self._weights, self._left = limit, weights, left
        self.failed: list[Status | None] = [None] * block.steps
        self.iterations = self.mended = 0
        self.update = np.zeros((block.steps, segment.states.shape[1]))
        self._ends_with_newton = False
        self._factors_of: tuple[np.ndarray, np.ndarray] | None = None
        self._lu: BlockLU | None = None

    def begin(self, slopes: np.ndarray) -> None:
        """Start from slopes (K, size) at the old states; where they are NaN, f is evaluated."""
        base, slopes = self.pattern.base, slopes.copy()
        rows = np.flatnonzero(np.isnan(slopes).any(axis=1))
        if len(rows):
            s, u = self._times("f", base)[rows], torch.from_numpy(self.x[base][rows])
            slopes[rows] = self.system.f.evaluate_many(s, u).numpy()
        self._values["f", base] = slopes

    def solve(self) -> np.ndarray:
        """Solve for all columns; returns the new states (K, size), without meaning where they failed."""
        for row in self.pattern.step_rows:
            self.x[row.column] = self._solve(row)
        new = self.x[self.pattern.new]
        finite = np.isfinite(new).all(axis=1)
        good = np.flatnonzero(finite & np.array([why is None for why in self.failed]))
        if self._ends_with_newton and len(good):
            # The equation of the new state has f there, of which the last iterate has not been asked.
            s, u = self._times("f", self.pattern.new)[good], torch.from_numpy(new[good])
            finite[good] = np.isfinite(self.system.f.evaluate_many(s, u).numpy()).all(axis=1)
        for k in np.flatnonzero(~finite):
            self.failed[k] = self.failed[k] or Status.NON_FINITE
        return new

    def end_slopes(self) -> np.ndarray:
        """(K, size) f at the new states, as the rows for these have it; NaN if they are explicit."""
        return self._solved_for.get(self.pattern.new, np.full(self.update.shape, np.nan))

    def kept_stages(self) -> np.ndarray:
        """(K, stages, size)"""
        parts = [self.x[c] for c in self.pattern.stages]
        return np.stack(parts, axis=1) if parts else np.empty((self.block.steps, 0, self.update.shape[1]))

    def errors_found(self) -> np.ndarray:
        """(K, size) the estimated errors, after :meth:`solve`, of a block with a row for them."""
        (row,) = self.pattern.output_rows
        return self._solve(row)

    def _newton(
        self, row: Row, alpha: np.ndarray, beta: np.ndarray, known: np.ndarray, origin: np.ndarray | None
    ) -> np.ndarray:
        f, s = self.system.f, self._times("f", row.column)
        x = self._guess(row)
        start = np.abs(x).max(axis=1)
        before = np.full(len(x), np.inf)
        rows = np.array([k for k, failed in enumerate(self.failed) if failed is None], dtype=int)
        fresh = rows if self._changed(alpha, beta) else rows[:0]
        for _ in range(self._limit):
            if not len(rows):
                break
            slopes = np.empty((len(rows), x.shape[1]))
            is_fresh = np.isin(rows, fresh)
            if is_fresh.any():
                slopes[is_fresh] = self._factorise(rows[is_fresh], s, x, alpha, beta)
            if not is_fresh.all():
                old = rows[~is_fresh]
                slopes[~is_fresh] = f.evaluate_many(s[old], torch.from_numpy(x[old])).numpy()
            self.iterations += len(rows)
            with np.errstate(over="ignore", invalid="ignore"):
                moved = x[rows] if origin is None else x[rows] - origin[rows]
                residual = alpha[rows] * self.system.weigh(moved) - beta[rows] * slopes - known[rows]
            update = self._solved(rows, residual)
            x[rows] -= update
            self.update[rows] = update
            with np.errstate(over="ignore", invalid="ignore"):
                size = np.sqrt(np.mean((update / self._weights(x)[rows]) ** 2, axis=1))
                # Of the first update nothing is known.
                contraction = np.where(np.isinf(before[rows]), np.inf, size / before[rows])
                largest = np.maximum(np.abs(x[rows]).max(axis=1), start[rows])
                lost = ROUNDING_UNITS * f.eps * largest
                is_rounding = (contraction > 0.3) & (np.abs(update).max(axis=1) <= lost)
                left = np.where(is_fresh, 1.0, self._left)
                done = (size <= left) | is_rounding
                done |= (contraction < 1) & (size * contraction <= left * (1 - contraction))
            finite = np.isfinite(size)
            for k in rows[~finite]:
                self._fail(int(k), Status.NON_FINITE if not np.isfinite(slopes[rows == k]).all() else None, x)
            before[rows] = size
            fresh = rows[finite & ~done & np.isfinite(contraction) & (contraction > SLOW)]
            rows = rows[finite & ~done]
        for k in rows.tolist():
            self._fail(k, Status.NEWTON_FAILED, x)
        self._note_slope(row, alpha, beta, known, x, origin)
        self._ends_with_newton = row.column == self.pattern.new
        return x

    def _rosenbrock(self, row: Row, alpha: np.ndarray, known: np.ndarray) -> np.ndarray:
        self.iterations += self.failed.count(None)
        return super()._rosenbrock(row, alpha, known)

    def _fail(self, k: int, why: Status | None, x: np.ndarray) -> None:
        """Give up a sample, with a state at which func may still be called."""
        self.failed[k] = self.failed[k] or why or Status.LINEAR_FAILED
        x[k] = self.x[self.pattern.base][k]

    def _guess(self, row: Row) -> np.ndarray:
        """The first iterate: several states continued as a polynomial, or the column before."""
        pattern = self.pattern
        if row.column != pattern.new or pattern.history < 2:
            return np.array(self.x[row.column - 1])
        times = self.block.times.numpy()
        weights = lagrange_rows(times[:, : pattern.history], times[:, pattern.history])
        base, guess = self.x[pattern.base], np.array(self.x[pattern.base])
        for c in range(pattern.history - 1):
            guess += weights[:, c, None] * (self.x[c] - base)
        failed = [k for k, why in enumerate(self.failed) if why is not None]
        guess[failed] = base[failed]
        return guess

    def _changed(self, alpha: np.ndarray, beta: np.ndarray) -> bool:
        """Whether the factors of an earlier stage do not serve these numbers."""
        held = self._factors_of
        self._factors_of = alpha, beta
        return held is None or not (np.array_equal(held[0], alpha) and np.array_equal(held[1], beta))

    def _factorise(
        self, rows: np.ndarray, s: torch.Tensor, x: np.ndarray, alpha: np.ndarray, beta: np.ndarray
    ) -> np.ndarray:
        """Factorise α M − β J at the iterates of some samples; returns f there."""
        f, mass = self.system.f, self.system.mass
        slopes, blocks = f.values_and_blocks(s[rows], torch.from_numpy(x[rows]))
        for k in np.flatnonzero(~np.isfinite(blocks.numpy()).all(axis=(1, 2, 3))).tolist():
            if torch.isfinite(slopes[k]).all():
                self.mended += 1
                at = float(s[rows[k]]), x[rows[k]]
                found = mended_blocks(Formulation(self.system), *at, blocks[k].numpy())
                blocks[k] = torch.from_numpy(found)
        a, b = (torch.from_numpy(numbers[rows])[:, :, None, None] for numbers in (alpha, beta))
        matrices = shift_(blocks.contiguous(), a, None if mass is None else mass.blocks, b)[:, 0]
        lu = BlockLU(matrices)
        for k in rows[np.flatnonzero(lu.info.numpy())].tolist():
            self.failed[k] = Status.LINEAR_FAILED
        if len(rows) == self.block.steps:
            self._lu = lu
        else:
            if self._lu is None:
                width = matrices.shape[-1]
                self._lu = BlockLU(torch.eye(width, dtype=torch.float64).repeat(self.block.steps, 1, 1))
            self._lu.replace(rows, lu)
        return slopes.numpy()

    def _solved(self, rows: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """The updates (rows, size) for residuals (rows, size)."""
        assert self._lu is not None
        return self._lu.at(rows, torch.from_numpy(residual)[:, :, None])[:, :, 0].numpy()


def _no_test(start: np.ndarray):
    raise AssertionError("iterations side by side have tests of their own")
