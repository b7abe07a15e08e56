"""The functions that PETSc calls during a step: the equations and their Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stiffml.petsc.convergence import NewtonTest
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.matrix import PETScSolver, ShiftedMatrix
from stiffml.petsc.sharing import shared, written
from stiffml.petsc.stiffness import StiffnessTest
from stiffml.run.stepping import Task
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.finite import is_finite

_HUGE = 1e100


class Callbacks:
    """What a TS is given to call.

    Parameters
    ----------
    task : Task
    problem : Formulation
    guards : bool
        Whether values that are enormous or not finite are replaced, as adaptive explicit methods need.
    stiffness : StiffnessTest or None

    Attributes
    ----------
    failure : BaseException or None
        What the user's function raised.
    half : tuple of float and ndarray, or None
        Time and state of the half step with which PETSc's BDF starts, once the first step is taken.
    wants_half : bool
        Whether this is looked for.
    met_non_finite : bool
        Whether ``func`` returned a non-finite or enormous value in the last step of an explicit method.
    noted : bool
        Whether it returned a value that is not finite in the last attempt at a step.
    bad_slope, first_bad : ndarray or None
        What ``func`` returned when it was last not finite, first in that step; and in this step.
    linearised : tuple of float
        Time and shift of the last Jacobian.
    """

    test: NewtonTest
    """Of a method with Newton's iteration."""

    def __init__(
        self, task: Task, problem: Formulation, guards: bool, stiffness: StiffnessTest | None
    ) -> None:
        system, method = task.system, task.method
        self._system, self._problem, self._stiffness = system, problem, stiffness
        self._iterates, self._guards = method.newton, guards
        self._has_mass = system.mass is not None
        self.finds_start_slope = method.explicit_first_stage and system.g is None
        keeps_graphs = isinstance(task.solver, PETScSolver) and task.solver.keeps_graphs
        wants_both = system.layout.width <= NARROW or keeps_graphs
        self.shares_vectors = isinstance(task.solver, PETScSolver) and task.solver.shares_vectors
        self.wants_both = wants_both and not system.constant_jacobian
        self.failure: BaseException | None = None
        self.half: tuple[float, np.ndarray] | None = None
        self.wants_half = method.starts_with_half_step
        self.linearised = task.s0, 0.0
        self.met_non_finite = self.noted = False
        self.bad_slope: np.ndarray | None = None
        self.first_bad: np.ndarray | None = None
        self._replaced = 0
        self._leave_jacobian: Callable[[], None] | None = None
        self._solves_at_start = 0

    def use(self, matrix: ShiftedMatrix, test: NewtonTest | None) -> None:
        """The matrix, and the convergence test, of a TS of an implicit method."""
        self._matrix = matrix
        if test is not None:
            self.test = test
            # Most matrices hold nothing that they would have to let go of.
            does_nothing = type(matrix).release_jacobian is ShiftedMatrix.release_jacobian
            self._leave_jacobian = None if does_nothing else matrix.release_jacobian

    def start_slope_is_solved_for(self, solves: int) -> None:
        """After so many, the next solve is for the slope that an explicit first stage has."""
        self._solves_at_start = solves

    def ifunction(self, ts, s: float, u, udot, residual) -> None:
        try:
            if self.finds_start_slope:
                s = self._right_time(ts, s)
            if self.wants_half and s < ts.getTime() + 0.75 * ts.getTimeStep():
                # The last of these evaluations is at the converged half step.
                self.half = (s, u.array_r.copy())
            if self._leave_jacobian is not None:
                self._leave_jacobian()
            # A Rosenbrock step takes its Jacobian at its start.
            with_jacobian = self.wants_both and (
                self.test.expects_jacobian if self._iterates else s == ts.getTime()
            )
            if self.shares_vectors:
                with written(residual) as into:
                    change, state = shared(udot), shared(u)
                    values = self._system.f.evaluate_shared(s, state, with_jacobian)
                    if not bool(torch.isfinite(values).all()):
                        self.note(values.cpu().numpy())
                    torch.sub(change, values, out=into)
            else:
                slope = self._problem.slope(s, u.array_r, with_jacobian)
                if not is_finite(slope):
                    self.note(slope)
                moved = self._problem.weigh(udot.array_r) if self._has_mass else udot.array_r
                np.subtract(moved, slope, out=residual.array_w)
        except BaseException as error:
            self.failure = error
            raise

    def _right_time(self, ts, s: float) -> float:
        # For the slope with which methods of an explicit first stage start, PETSc solves at a time that was
        # never set.
        return ts.getTime() if self.test.solves == self._solves_at_start else s

    def ijacobian(self, ts, s: float, u, udot, shift: float, mat, pmat) -> None:
        try:
            if self.finds_start_slope:
                s = self._right_time(ts, s)
            vector: Any = shared(u) if self.shares_vectors else u.array_r
            self.linearised = s, shift
            self._matrix.fill(shift, s, vector)
        except BaseException as error:
            self.failure = error
            raise

    def note(self, slope: np.ndarray) -> None:
        """``func`` returned a value that is not finite."""
        self.noted = True
        if self.first_bad is None:
            whole = slope.size == self._problem.size  # and not of g, which knows nothing of time
            self.bad_slope = self.first_bad = (self._problem.leave(slope) if whole else slope).copy()

    def rhsfunction(self, ts, s: float, u, slope) -> None:
        try:
            part = self._system.f if self._system.g is None else self._system.g
            if self.shares_vectors:
                with written(slope) as into:
                    into.copy_(part.evaluate_shared(s, shared(u)))
                return
            state = u.array_r
            values = part.evaluate(s, state)
            if not is_finite(values):
                self.note(values)
            if self._stiffness is not None:
                self._stiffness.evaluated(state, values)
            if self._guards and not np.abs(values).max() <= _HUGE:
                # An infinite error norm, or one whose square overflows, would end the run; an enormous
                # one cuts the step. No two stages get the same: in the error estimate, whose weights
                # add up to zero, equal ones would cancel.
                self.met_non_finite = True
                self._replaced += 1
                huge = _HUGE / (1 + self._replaced % 7)
                values = np.clip(np.nan_to_num(values, nan=huge), -huge, huge)
            slope.setArray(values)
        except BaseException as error:
            self.failure = error
            raise
