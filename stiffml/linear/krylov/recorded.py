"""Krylov solves at recorded states: transposed systems of the adjoint, and steps taken again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from stiffml.errors import LINEAR_HINT, LinearSolveError
from stiffml.linear.krylov.failures import describe_failure
from stiffml.linear.operator import ShiftedOperator
from stiffml.petsc.library import PETSc
from stiffml.petsc.options import ScopedOptions
from stiffml.system.derivatives.dynamics import Dynamics

_ERR_SUP = 56  # PETSC_ERR_SUP: not supported

DIVERGED, DIVERGED_FROM_GUESS = 1e5, 1e30
"""How many times the right-hand side a residual may become. What a guess leaves is no sign of divergence:
cotangents change by orders of magnitude where step sizes or the outputs do."""


class RecordedSystems:
    """A KSP of its own for the systems of recorded steps.

    Parameters
    ----------
    operator : ShiftedOperator
        Of the system to be solved; the caller sets it before each solve.
    options : ScopedOptions
        Of the KSP and the preconditioner; taken back at the end.
    set_up : callable
        Sets up a KSP to solve with the operator.
    dynamics : Dynamics
    adjoint_rtol : float
        Relative residual of transposed systems.
    shares_vectors : bool
        Whether PETSc's vectors lie on the device of ``func``.

    Attributes
    ----------
    iterations : int
        So far.
    renew : callable or None
        Sets the operator once more, where an approximate inverse was too weak for a solve.
    is_closed : bool
        A failed solve closes it, because PETSc's vectors stay locked.
    """

    def __init__(
        self,
        operator: ShiftedOperator,
        options: ScopedOptions,
        set_up: Callable[[Any], None],
        dynamics: Dynamics,
        adjoint_rtol: float,
        shares_vectors: bool,
    ) -> None:
        self._take_options_back = weakref.finalize(self, options.remove)
        self.operator, self._dynamics = operator, dynamics
        self._adjoint_rtol, self._shares_vectors = adjoint_rtol, shares_vectors
        self.iterations, self.is_closed = 0, False
        comm = dynamics.space.communicator
        ksp = self._ksp = PETSc.KSP().create(comm=PETSc.COMM_SELF if comm is None else comm)
        ksp.setOptionsPrefix(options.prefix)
        set_up(ksp)
        ksp.setFromOptions()
        self._may_guess = ksp.getType() != PETSc.KSP.Type.PREONLY
        self._x, self._b = operator.mat.createVecs()
        self._before: dict[int, list[np.ndarray]] = {}
        self.renew: Callable[[], None] | None = None

    def close(self) -> None:
        """Free what PETSc holds."""
        if self.is_closed:
            return
        self.is_closed = True
        self._take_options_back()
        self.operator.close()
        for held in (self._ksp, self._x, self._b):
            held.destroy()

    def solve_next(self, v: np.ndarray, s: float, row: int) -> np.ndarray:
        """A transposed system, begun from an extrapolation of the last two solutions of the same row.

        The KSP judges the guess in its own norm. The norm of the plain residual would not do. Where rows
        differ in size, as those of algebraic equations and of short steps do, it accepts guesses in which a
        small component is all wrong, step after step in the same direction.
        """
        before = self._before.setdefault(row, [])
        guess = None
        if before and self._may_guess and self._dynamics.space.sum(float(v @ v)) > 0:
            guess = before[-1] if len(before) == 1 else 2 * before[-1] - before[-2]
        x = self.solve(v, True, s, guess=guess)
        # Large ones are kept in single precision: as a guess that is as good.
        self._before[row] = [*before[-1:], x.astype(np.float32) if self._dynamics.is_large else x]
        return x

    def correct(self, residual: np.ndarray, s: float, rtol: float) -> np.ndarray:
        """The update of a Newton iteration."""
        return self.solve(residual, False, s, rtol=max(rtol, self._adjoint_rtol))

    def solve(
        self,
        v: np.ndarray,
        transpose: bool,
        s: float,
        rtol: float | None = None,
        guess: np.ndarray | None = None,
    ) -> np.ndarray:
        """The x of (a·M − b·J) x = v, or of the transposed system; ``s`` is for messages.

        Raises
        ------
        LinearSolveError
            If the iteration fails, or the preconditioner has no transpose.
        """
        ksp = self._ksp
        ksp.setTolerances(
            rtol=self._adjoint_rtol if rtol is None else rtol,
            divtol=DIVERGED if guess is None else DIVERGED_FROM_GUESS,
        )
        ksp.setInitialGuessNonzero(guess is not None)
        found = np.zeros(v.shape) if guess is None else guess.astype(float)
        if self._shares_vectors:
            self._b.setArray(v)
            self._x.setArray(found)
        else:  # in the arrays at hand: states may be large
            self._b.placeArray(v)
            self._x.placeArray(found)
        failure: BaseException | None = None
        try:
            (ksp.solveTranspose if transpose else ksp.solve)(self._b, self._x)
        except PETSc.Error as error:
            failure = error.__cause__ or error
        if failure is not None:
            # Outside the handler, so that the caller's exception keeps its own context.
            self.close()
            if isinstance(failure, PETSc.Error) and failure.ierr == _ERR_SUP:
                raise LinearSolveError(
                    "the preconditioner has no transpose, which the backward pass needs. Try: another one; "
                    "for gamg smoothers such as options={'mg_levels_pc_type': 'jacobi'}"
                ) from failure
            raise failure
        if self._shares_vectors:
            found[:] = self._x.array_r
        else:
            for vector in (self._b, self._x):
                vector.resetArray()
        iterations = ksp.getIterationNumber()
        self.iterations += iterations
        is_another = self.operator.took(iterations)
        if ksp.getConvergedReason() < 0:
            if is_another and self.renew is not None:
                self.renew()
                return self.solve(v, transpose, s, rtol)
            t = self._dynamics.direction * s
            what = "a transposed system of the backward pass" if transpose else "a system of a recorded step"
            raise LinearSolveError(
                f"{what} at t = {t:.10g} could not be solved: {describe_failure(ksp)}. Try: {LINEAR_HINT}"
            )
        return found
