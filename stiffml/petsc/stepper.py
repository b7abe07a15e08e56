"""Takes one step of a PETSc TS at a time, and the cuts that PETSc does not make by itself."""

from __future__ import annotations

import numpy as np

from stiffml.errors import Status
from stiffml.petsc.library import PETSc
from stiffml.petsc.time_stepper import TimeStepper
from stiffml.system.derivatives.infinite_entries import describe_derivative, infinite_derivative
from stiffml.system.finite import is_finite

_STEP_REJECTED = PETSc.TS.ConvergedReason.DIVERGED_STEP_REJECTED
_NOT_FINITE = PETSc.SNES.ConvergedReason.DIVERGED_FUNCTION_NANORINF
_ERR_FP = 72  # PETSC_ERR_FP, raised for an error norm that is infinite or not a number


class Stepper(TimeStepper):
    """Takes the steps asked for, cutting those at which Newton fails or the error is too large.

    A user exception in ``func`` leaves PETSc's vectors locked, so it ends the stepper: it is destroyed,
    and the exception goes on unchanged. Parameters are those of :class:`TimeStepper`.

    Attributes
    ----------
    cut_by : Status or None
        Why the last step was cut, if not for its error.
    detail : str
        Of the last step that failed: how its iterations ended.
    """

    @property
    def next_size(self) -> float:
        """What the error estimate suggests for the next step; no more than the last after a cut by others."""
        size = self._ts.getTimeStep()
        return size if self.cut_by is None else min(size, self._taken)

    @property
    def rejected(self) -> int:
        return self._ts.getStepRejections() + self._failed_solves

    @property
    def newton_iterations(self) -> int:
        return self._earlier_iterations[0] + (self._ts.getSNESIterations() if self._method.implicit else 0)

    @property
    def krylov_iterations(self) -> int:
        return self._earlier_iterations[1] + (self._ts.getKSPIterations() if self._method.implicit else 0)

    @property
    def newton_update(self) -> np.ndarray | None:
        """The last update of Newton's iteration, if that did not converge."""
        if not self._method.newton or self._ts.getSNES().getConvergedReason() >= 0:
            return None
        return self._ts.getSNES().getSolutionUpdate().array_r

    def step(self, size: float) -> Status | None:
        """Take one step of at most ``size``; None if one was taken, else why not."""
        self.cut_by, self._first_bad, rejected = None, None, self.rejected
        if self._limits is not None:
            self._limits.begin()
        status = self._guarded_step(size) if self._guard else self._step_with_cuts(size)
        cut = status is None and self.cut_by is None and self.rejected > rejected
        if cut and not self._system.space.every(self._first_bad is None):
            self.cut_by = Status.NON_FINITE  # by PETSc, in Newton's iteration
        return status

    def is_stiff(self, left: float) -> bool:
        """Whether the last step was short for stability alone, as those before, and many are to come.

        ``left`` is the time that is left.
        """
        if self._stiffness is None:
            return False
        assert self._tolerances is not None
        weights = self._tolerances.atol + self._tolerances.rtol * np.abs(self.state)
        return self._stiffness.stepped(self._taken, left, weights)

    def _guarded_step(self, size: float) -> Status | None:
        # PETSc undoes a rejected explicit step by subtracting its increment, which leaves nothing of the
        # state where that was enormous; so each attempt is begun here, from a copy.
        before = self.state.copy()
        for _ in range(self._max_cuts):
            status = self._try_step(size)
            if status is Status.NON_FINITE or status is Status.OUT_OF_BOUNDS:
                self.cut_by = status
            if status is None:
                return status
            if status is Status.OUT_OF_BOUNDS:
                size *= self._shrink
                if self._is_nothing(size):
                    return status
                continue
            if self._ts.getConvergedReason() != _STEP_REJECTED:
                return status
            self._u.setArray(before)
            self._ts.restartStep()  # the slope kept from the stage before is the rejected one's
            size = self._ts.getTimeStep()
        return status

    def _step_with_cuts(self, size: float) -> Status | None:
        """With the cuts that PETSc does not make by itself: where the end of the step is not fit to be kept.

        And where it leaves a TS that is of no use any more: Rosenbrock methods do after a failed solve, and
        one-step methods whose last stage need not be finite for PETSc to go on to the error norm. The next
        attempt then gets a fresh one.
        """
        if self._recreates:
            start, before = self.time, self.state.copy()
        for _ in range(self._max_cuts):
            status = self._try_step(size)
            if status is None:
                return status
            if not self._undone:
                if not self._recreates or (self._method.newton and status is not Status.NON_FINITE):
                    return status
                self._recreate(start, before)
            if status is Status.NON_FINITE or status is Status.OUT_OF_BOUNDS:
                self.cut_by = status
            size *= self._shrink
            if self._is_nothing(size):
                return status
        return status

    def _is_nothing(self, size: float) -> bool:
        """Whether time would hardly change; PETSc's formulas divide by differences of times."""
        return size < 4 * np.spacing(abs(self.time))

    def _recreate(self, start: float, before: np.ndarray) -> None:
        self._failed_solves += 1 + self._ts.getStepRejections()
        self._earlier_iterations = self.newton_iterations, self.krylov_iterations
        self._ts.destroy()
        if self._matrix is not None:
            self._earlier = self.linear_failures, self._matrix.last_failure
            self._earlier_mended = self.mended_jacobians
            self._matrix.close()
        self._create(start, before)
        self._solves_at_start = 0

    def _try_step(self, size: float) -> Status | None:
        ts = self._ts
        begin = ts.getTime()
        self._renew_start_slope(size)
        if self._method.newton and self._newton.atol is None:
            self._test.step_begins(self._u)
        ts.setTimeStep(size)
        self.met_non_finite, self.detail, self._undone, self._noted = False, "", False, False
        failure: BaseException | None = None
        try:
            ts.step()
        except BaseException as error:
            failure = self._failure or error
        if isinstance(failure, PETSc.Error):
            if failure.ierr == _ERR_FP:
                return Status.NON_FINITE
            # What Python code called by PETSc raised is the cause of PETSc's own error.
            failure = failure.__cause__ or failure
        if failure is not None:
            # Outside the handler, so that the caller's exception keeps its own context.
            self.close()
            raise failure
        if not self._options_checked:
            self._options.check_used()
            self._options_checked = True
        if ts.getConvergedReason() < 0:
            return self._why_not()
        unfit = self._unfit()
        if unfit is not None:
            self._undo()
            return unfit
        self._taken = ts.getTime() - begin
        self._wants_half = False  # only the first step has one
        return None

    def _unfit(self) -> Status | None:
        """Why the step that PETSc has taken is not kept."""
        state = self.state
        # PETSc does not look at the last slope of a step asked for, with which the next one begins.
        stages = self._method.newton or self._tolerances is not None or not self._noted
        if not self._system.space.every(stages and is_finite(state)):
            return Status.NON_FINITE
        if self._looks_ahead and self._ts.getTime() < self._last * (1 - 1e-12) and not self._can_go_on():
            return Status.NON_FINITE
        if self._limits is not None and not self._limits.allows(self._ts.getTime(), state):
            self.detail = self._limits.detail
            return Status.OUT_OF_BOUNDS
        return None

    def _can_go_on(self) -> bool:
        """Whether f and g are finite where the step ended; they remember it for the next one."""
        s, vector = self._ts.getTime(), self._u.array_r
        # A Rosenbrock step takes its Jacobian there too.
        slopes = [self._problem.slope(s, vector, self._wants_both and not self._method.newton)]
        if self._system.g is not None:
            slopes.append(self._system.g.evaluate(s, vector))
        for slope in slopes:
            if not is_finite(slope):
                self._note(slope)
                return False
        return True

    def _undo(self) -> None:
        """Go back to before the step that PETSc has taken."""
        ts = self._ts
        ts.rollBack()
        self._failed_solves += 1
        self._undone = True
        if ts.getStepNumber() == 0 and not self._method.explicit_first_stage:
            ts.restartStep()  # there is no history yet, but for that of the step undone

    def _why_not(self) -> Status:
        if not self._system.space.every(not self.met_non_finite):
            return Status.NON_FINITE
        if self._method.implicit and self._ts.getSNES().getConvergedReason() < 0:
            assert self._matrix is not None
            if self._is_lost_in_time():
                return Status.STEP_TOO_SMALL
            known = self._method.newton or self._system.space.every(self._first_bad is None)
            if self._ts.getSNES().getConvergedReason() == _NOT_FINITE or not known:
                return Status.NON_FINITE
            self.detail = self._matrix.failure or self._test_history()
            return Status.LINEAR_FAILED if self._matrix.failure else Status.NEWTON_FAILED
        return Status.STEP_TOO_SMALL

    def _is_lost_in_time(self) -> bool:
        """Whether the last solve failed only because its step was cut to less than time resolves."""
        ts = self._ts
        begin = ts.getTime()
        if begin + ts.getTimeStep() / 2 != begin or ts.getSNES().getConvergedReason() != _NOT_FINITE:
            return False
        # What is not finite is what was divided by the step, unless func's value is not.
        return bool(np.isfinite(self._system.f.last_slope).all())

    @property
    def mended_jacobians(self) -> int:
        """Jacobians so far that took differences where derivatives were not finite."""
        return self._earlier_mended + (0 if self._matrix is None else self._matrix.mended)

    def infinite_derivative(self) -> str:
        """Where ∂f/∂y is not finite at the state the last step began with, in words; empty if it is."""
        if not self._method.implicit or self._system.space.is_distributed:
            return ""
        f, s = self._system.f, self.time
        where = infinite_derivative(f, s, self.state.copy())
        return "" if where is None else describe_derivative(f, s, where)

    @property
    def linear_failures(self) -> int:
        """Linear systems that could not be solved so far."""
        return self._earlier[0] + (0 if self._matrix is None else self._matrix.failures)

    def why_cut(self, cut_by: Status | None = None) -> tuple[Status, str]:
        """Why steps were cut that were not too long for their error, and how the last solve for one ended.

        ``cut_by``: what it was if not Newton's iteration.
        """
        if cut_by is not None:
            limits = self._limits if cut_by is Status.OUT_OF_BOUNDS else None
            return cut_by, "" if limits is None else limits.detail
        last = (self._matrix.last_failure if self._matrix is not None else "") or self._earlier[1]
        if last:
            return Status.LINEAR_FAILED, last
        tested = self._method.newton and not self._system.constant_jacobian
        failed = self._test.failed_sizes if tested else []
        return Status.NEWTON_FAILED, _updates(failed)

    def _test_history(self) -> str:
        """How Newton's iteration went."""
        return (
            _updates(self._test.sizes) if self._method.newton and not self._system.constant_jacobian else ""
        )


def _updates(sizes: list[float]) -> str:
    last = ", ".join(f"{size:.2e}" for size in sizes[-5:])
    return f"last updates, as multiples of its tolerance: {last}" if last else ""
