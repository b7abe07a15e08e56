"""The stepper that takes steps by a PETSc TS, and cuts steps where PETSc does not."""

from __future__ import annotations

import math

import numpy as np

from stiffml.errors import Status
from stiffml.petsc.library import NOT_FINITE, PETSc
from stiffml.petsc.stages import read_stages
from stiffml.petsc.time_stepper import TimeStepper
from stiffml.run.controller import MUCH_LONGER
from stiffml.run.stepping import Counts, Stepper, Task, updates
from stiffml.settings import Tolerances
from stiffml.system.finite import is_finite

_STEP_REJECTED = PETSc.TS.ConvergedReason.DIVERGED_STEP_REJECTED
_ERR_FP = 72  # PETSC_ERR_FP, raised for an error norm that is infinite or not a number


class PETScStepper(Stepper):
    """Takes steps by a PETSc TS, and cuts them if Newton fails or the error is too large.

    An exception in ``func`` leaves PETSc's vectors locked. The stepper is then closed, and the exception
    passes through unchanged.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._system, self._method, self._limits = task.system, task.method, task.limits
        self._iterates = task.method.newton
        self._kept = task.method.kept_stages(task.system.form)
        self._failed_solves = 0
        self._undone = False
        self._earlier = Counts()  # work of earlier TS objects of this run
        self._earlier_failures = 0, ""  # their linear solver failures, and why the last one failed
        self._taken = math.inf
        self._options_checked = not task.options
        steps = self._steps = TimeStepper(task)
        self._callbacks, self._problem = steps.callbacks, steps.problem
        # A step that does not evaluate f at its end may end where f is not finite: that is checked ahead.
        f, space = task.system.f, task.system.space
        forgets = f.is_large or space.is_distributed or self._callbacks.shares_vectors
        self._looks_ahead = not task.method.evaluates_end(task.system.form) and not forgets
        # For these one-step methods PETSc may leave a failed step half done, so the TS is made anew.
        self._recreates = task.method.implicit and (not task.method.newton or task.system.g is not None)
        self._marks_start = task.method.newton and task.newton.atol is None

    @property
    def time(self) -> float:
        return self._steps.ts.getTime()

    @property
    def state(self) -> np.ndarray:
        values = self._steps.u.array_r
        return self._problem.leave(values) if self._problem.time_is_state else values

    @property
    def stages(self) -> np.ndarray | None:
        return read_stages(self._steps.ts, self._kept, self._problem.size) if self._kept else None

    @property
    def half(self) -> tuple[float, np.ndarray] | None:
        return self._callbacks.half

    @property
    def bad_slope(self) -> np.ndarray | None:
        return self._callbacks.bad_slope

    @property
    def next_size(self) -> float:
        size = self._steps.ts.getTimeStep()
        return size if self.cut_by is None else min(size, self._taken)

    @property
    def counts(self) -> Counts:
        ts, before, implicit = self._steps.ts, self._earlier, self._method.implicit
        matrix = self._steps.matrix
        return Counts(
            ts.getStepRejections() + self._failed_solves,
            before.newton_iterations + (ts.getSNESIterations() if implicit else 0),
            before.krylov_iterations + (ts.getKSPIterations() if implicit else 0),
            before.mended_jacobians + (0 if matrix is None else matrix.mended),
        )

    @property
    def newton_update(self) -> np.ndarray | None:
        if not self._iterates or self._steps.ts.getSNES().getConvergedReason() >= 0:
            return None
        return self._steps.ts.getSNES().getSolutionUpdate().array_r

    def step(self, size: float) -> Status | None:
        ts, callbacks = self._steps.ts, self._callbacks
        rejected = ts.getStepRejections() + self._failed_solves
        self.cut_by = callbacks.first_bad = None
        if self._limits is not None:
            self._limits.begin()
        status = self._guarded_step(size) if self._steps.guards else self._step_with_cuts(size)
        if status is None and self.cut_by is None:
            ts = self._steps.ts  # it may be a new one
            cut = ts.getStepRejections() + self._failed_solves > rejected
            if cut and not self._system.space.every(callbacks.first_bad is None):
                self.cut_by = Status.NON_FINITE  # PETSc cut the step in Newton's iteration
        return status

    def set_tolerances(self, tolerances: Tolerances) -> None:
        self._steps.set_tolerances(tolerances)

    def is_stiff(self, left: float) -> bool:
        stiffness, tolerances = self._steps.stiffness, self._steps.tolerances
        if stiffness is None or tolerances is None:
            return False
        weights = tolerances.atol + tolerances.rtol * np.abs(self.state)
        return stiffness.stepped(self._taken, left, weights)

    def _guarded_step(self, size: float) -> Status | None:
        # PETSc undoes a rejected explicit step by subtracting its increment. If the increment was enormous,
        # the state is lost in rounding. So each attempt starts from a copy of the state.
        before = self.state.copy()
        for _ in range(self._task.max_cuts):
            status = self._try_step(size)
            if status is Status.NON_FINITE or status is Status.OUT_OF_BOUNDS:
                self.cut_by = status
            if status is None:
                return status
            if self._undone:
                self._steps.u.setArray(before)
                size *= self._task.shrink
                if self._is_nothing(size):
                    return status
                continue
            if self._steps.ts.getConvergedReason() != _STEP_REJECTED:
                return status
            self._steps.u.setArray(before)
            self._steps.ts.restartStep()  # the slope that PETSc kept belongs to the rejected step
            size = self._steps.ts.getTimeStep()
        return status

    def _step_with_cuts(self, size: float) -> Status | None:
        """Take a step, and cut it in the cases in which PETSc does not.

        The first case is a step that PETSc accepts but whose end cannot be kept. The second is a step after
        which the TS cannot be used any more: a failed solve of a Rosenbrock method, or a last stage that is
        not finite in a one-step method. The next attempt then uses a new TS.
        """
        if self._recreates:
            start, before = self.time, self.state.copy()
        for _ in range(self._task.max_cuts):
            status = self._try_step(size)
            if status is None:
                return status
            if not self._undone:
                if not self._recreates or (self._iterates and status is not Status.NON_FINITE):
                    return status
                self._recreate(start, before)
            if status is Status.NON_FINITE or status is Status.OUT_OF_BOUNDS:
                self.cut_by = status
            size *= self._task.shrink
            if self._is_nothing(size):
                return status
        return status

    def _is_nothing(self, size: float) -> bool:
        """Whether a step of ``size`` would hardly change time; PETSc divides by differences of times."""
        return size < 4 * np.spacing(abs(self.time))

    def _recreate(self, start: float, before: np.ndarray) -> None:
        self._earlier = self.counts
        self._failed_solves = self._earlier.rejected + 1
        matrix = self._steps.matrix
        if matrix is not None:
            self._earlier_failures = self.linear_failures, matrix.last_failure
        self._steps.release()
        self._steps.create(start, before)
        self._callbacks.start_slope_is_solved_for(0)

    def _try_step(self, size: float) -> Status | None:
        ts, callbacks = self._steps.ts, self._callbacks
        begin = ts.getTime()
        if callbacks.finds_start_slope:
            self._renew_start_slope(size)
        if self._marks_start:
            callbacks.test.step_begins(self._steps.u)
        ts.setTimeStep(size)
        callbacks.met_non_finite = callbacks.noted = self._undone = False
        self.detail = ""
        failure: BaseException | None = None
        try:
            ts.step()
        except BaseException as error:
            failure = callbacks.failure or error
        if isinstance(failure, PETSc.Error):
            if failure.ierr == _ERR_FP:
                return Status.NON_FINITE
            # If Python code called by PETSc raised an exception, it is the cause of PETSc's error.
            failure = failure.__cause__ or failure
        if failure is not None:
            # Raised outside the handler, so that the user's exception keeps its own context.
            self.close()
            raise failure
        if not self._options_checked:
            self._steps.options.check_used()
            self._options_checked = True
        if ts.getConvergedReason() < 0:
            return self._why_not()
        unfit = self._unfit()
        if unfit is not None:
            self._undo()
            return unfit
        self._taken = ts.getTime() - begin
        callbacks.wants_half = False  # only the first step has one
        return None

    def _renew_start_slope(self, size: float) -> None:
        """Before a much longer step, solve for the slope at its start instead of reusing the last slope.

        The last slope is a difference of states divided by the last step size. In a longer step its rounding
        error grows with the ratio of the two sizes.
        """
        if size > MUCH_LONGER * self._taken:
            self._steps.ts.restartStep()
            self._callbacks.start_slope_is_solved_for(self._callbacks.test.solves)

    def _unfit(self) -> Status | None:
        """Why the step that PETSc has taken cannot be kept; None if it can."""
        state = self.state
        # The error estimate need not see a value that replaces a non-finite one: b and b̂ may be close there.
        if self._steps.guards and self._callbacks.met_non_finite:
            return Status.NON_FINITE
        # For a step of given size PETSc does not check its last slope, with which the next step starts.
        stages = self._iterates or self._steps.tolerances is not None or not self._callbacks.noted
        if not self._system.space.every(stages and is_finite(state)):
            return Status.NON_FINITE
        if self._looks_ahead and self.time < self._task.last * (1 - 1e-12) and not self._can_go_on():
            return Status.NON_FINITE
        if self._limits is not None and not self._limits.allows(self._steps.ts.getTime(), state):
            self.detail = self._limits.detail
            return Status.OUT_OF_BOUNDS
        return None

    def _can_go_on(self) -> bool:
        """Whether f and g are finite at the end of the step; their values are cached for the next step."""
        s, vector = self._steps.ts.getTime(), self._steps.u.array_r
        # A Rosenbrock step that starts there needs the Jacobian there too.
        slopes = [self._problem.slope(s, vector, self._callbacks.wants_both and not self._iterates)]
        if self._system.g is not None:
            slopes.append(self._system.g.evaluate(s, vector))
        for slope in slopes:
            if not is_finite(slope):
                self._callbacks.note(slope)
                return False
        return True

    def _undo(self) -> None:
        """Return to the state before the step that PETSc has taken."""
        ts = self._steps.ts
        ts.rollBack()
        self._failed_solves += 1
        self._undone = True
        if ts.getStepNumber() == 0 and not self._method.explicit_first_stage:
            ts.restartStep()  # the only history so far is that of the undone step

    def _why_not(self) -> Status:
        if not self._system.space.every(not self._callbacks.met_non_finite):
            return Status.NON_FINITE
        if self._method.implicit and self._steps.ts.getSNES().getConvergedReason() < 0:
            matrix = self._steps.matrix
            assert matrix is not None
            met_none = self._system.space.every(self._callbacks.first_bad is None)
            if met_none and self._is_lost_in_time():
                return Status.STEP_TOO_SMALL
            known = self._iterates or met_none
            if self._steps.ts.getSNES().getConvergedReason() == NOT_FINITE or not known:
                return Status.NON_FINITE
            self.detail = matrix.failure or self._test_history()
            return Status.LINEAR_FAILED if matrix.failure else Status.NEWTON_FAILED
        return Status.STEP_TOO_SMALL

    def _is_lost_in_time(self) -> bool:
        """Whether the last solve failed because its step is shorter than the resolution of time."""
        ts = self._steps.ts
        begin = ts.getTime()
        if begin + ts.getTimeStep() / 2 != begin or ts.getSNES().getConvergedReason() != NOT_FINITE:
            return False
        # If func is finite, the non-finite numbers come from dividing by the step size.
        return bool(np.isfinite(self._system.f.last_slope).all())

    @property
    def linear_failures(self) -> int:
        matrix = self._steps.matrix
        return self._earlier_failures[0] + (0 if matrix is None else matrix.failures)

    def why_cut(self) -> tuple[Status, str]:
        matrix = self._steps.matrix
        last = (matrix.last_failure if matrix is not None else "") or self._earlier_failures[1]
        if last:
            return Status.LINEAR_FAILED, last
        return Status.NEWTON_FAILED, updates(self._callbacks.test.failed_sizes if self._tests else [])

    def _test_history(self) -> str:
        """A message about the last Newton iteration."""
        return updates(self._callbacks.test.sizes) if self._tests else ""

    @property
    def _tests(self) -> bool:
        """Whether Newton iterations are tested for convergence; those of a constant Jacobian are not."""
        return self._iterates and not self._system.constant_jacobian

    def close(self) -> None:
        self._steps.close()
