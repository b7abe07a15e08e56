"""The functions that PETSc calls during a step: the equations and their Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stiffml.petsc.convergence import SNESTest
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.matrix import PETScSolver, ShiftedMatrix
from stiffml.petsc.sharing import shared, written
from stiffml.petsc.stiffness import StiffnessTest
from stiffml.run.kept_jacobian import KeptJacobian
from stiffml.run.stepping import Task
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.finite import is_finite

_HUGE = 1e100


class Callbacks:
    """The residual, Jacobian and right-hand side functions that a TS calls.

    Parameters
    ----------
    task : Task
    problem : Formulation
    guards : bool
        Whether enormous and non-finite values are replaced, which adaptive explicit methods need.
    stiffness : StiffnessTest or None

    Attributes
    ----------
    failure : BaseException or None
        The exception that the user's function raised.
    half : tuple of float and ndarray, or None
        Time and state (size,) of the half step with which PETSc's BDF starts, after the first step.
    wants_half : bool
        Whether ``half`` is recorded.
    met_non_finite : bool
        Whether ``func`` returned a non-finite or enormous value in the last step of an explicit method.
    noted : bool
        Whether ``func`` returned a non-finite value in the last attempt at a step.
    bad_slope, first_bad : ndarray or None
        (size,) the first non-finite value of ``func`` in the last step that had one, and in the current step.
    linearised : tuple of float
        Time and shift of the last matrix.
    """

    test: SNESTest
    """The convergence test; only for methods with Newton's iteration."""

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
        self._keeping: KeptJacobian | None = None
        self._solves_at_start = 0

    def use(self, matrix: ShiftedMatrix, test: SNESTest | None) -> None:
        """Set the matrix and the convergence test of an implicit method."""
        self._matrix = matrix
        if test is not None:
            self.test, self._keeping = test, test.keeping
            # Most matrices do not override this method: then the calls in ``ifunction`` are skipped.
            does_nothing = type(matrix).release_jacobian is ShiftedMatrix.release_jacobian
            self._leave_jacobian = None if does_nothing else matrix.release_jacobian

    def start_slope_is_solved_for(self, solves: int) -> None:
        """Announce that the solve after ``solves`` solves is for the slope of an explicit first stage."""
        self._solves_at_start = solves

    def ifunction(self, ts, s: float, u, udot, residual) -> None:
        """The residual M u' − f(s, u)."""
        try:
            if self.finds_start_slope:
                s = self._right_time(ts, s)
            if self.wants_half and s < ts.getTime() + 0.75 * ts.getTimeStep():
                # The last evaluation in the first half of the step is at the converged half step.
                self.half = (s, u.array_r.copy())
            if self._leave_jacobian is not None:
                self._leave_jacobian()
            # A Rosenbrock step needs its Jacobian only at its start.
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
        # PETSc solves for the first slope of methods with an explicit first stage at a time it never set.
        return ts.getTime() if self.test.solves == self._solves_at_start else s

    def ijacobian(self, ts, s: float, u, udot, shift: float, mat, pmat) -> None:
        """The Jacobian shift·M − J of the residual."""
        try:
            if self.finds_start_slope:
                s = self._right_time(ts, s)
            self.linearised = s, shift
            keeping = self._keeping
            if keeping is not None and not keeping.wants_new:
                keeping.is_used()
                self._matrix.follow(shift)
                return
            vector: Any = shared(u) if self.shares_vectors else u.array_r
            self._matrix.fill(shift, s, vector)
            if keeping is not None:
                keeping.is_renewed()
        except BaseException as error:
            self.failure = error
            raise

    def note(self, slope: np.ndarray) -> None:
        """Record that ``func`` returned the non-finite value ``slope``."""
        self.noted = True
        if self.first_bad is None:
            whole = slope.size == self._problem.size  # a value of g has no component for time
            self.bad_slope = self.first_bad = (self._problem.leave(slope) if whole else slope).copy()

    def rhsfunction(self, ts, s: float, u, slope) -> None:
        """The explicit part: g of a split problem, f of an explicit method."""
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
                # An infinite error norm, or one whose square overflows, would end the run. An enormous but
                # finite one cuts the step. Stages get different values: the weights of the error estimate
                # sum to zero, so equal values would cancel.
                self.met_non_finite = True
                self._replaced += 1
                huge = _HUGE / (1 + self._replaced % 7)
                values = np.clip(np.nan_to_num(values, nan=huge), -huge, huge)
            slope.setArray(values)
        except BaseException as error:
            self.failure = error
            raise
