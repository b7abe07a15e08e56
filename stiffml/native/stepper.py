"""A stepper that solves the rows of each step itself, for methods that PETSc does not have."""

from __future__ import annotations

import math
from collections import deque
from typing import cast

import numpy as np

from stiffml.discretization.estimates import scaled
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.errors import LinearSolveError, Status
from stiffml.native.mended import MendedJacobians
from stiffml.native.newton import NewtonTest
from stiffml.native.rows import LastJacobian, NotConvergedError, RowSolver
from stiffml.run.controller import Controller
from stiffml.run.kept_jacobian import KeptJacobian, may_keep
from stiffml.run.stepping import Counts, Stepper, Task, updates
from stiffml.settings import Tolerances
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.finite import is_finite


class NativeStepper(Stepper):
    """Solves the rows of one step after the other.

    Adaptive steps are controlled by the method's estimates of their errors. A step without one is accepted,
    and the next has the same size.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._tolerances = task, task.tolerances
        adaptive = task.tolerances is not None
        if adaptive and not task.method.has_estimates(task.system.form):
            raise ValueError(f"{task.method} has no error estimate of its own; use steps=Fixed(h) or Grid()")
        mends = task.solver is not None and task.solver.uses_blocks
        self._mended = MendedJacobians(task.system) if mends else None
        is_direct = task.solver is not None and task.solver.contraction == 0
        self._last = LastJacobian(KeptJacobian()) if adaptive and is_direct and may_keep(task) else None
        self._keeps_stages = bool(task.method.kept_stages(task.system.form))
        self._trajectory = Trajectory(np.array([task.s0, task.last]))
        held = task.method.estimate_history if adaptive else task.method.history
        self._states = deque([task.u0], maxlen=held)
        self._stages: np.ndarray | None = None
        self._next_size = task.largest
        self._rejected = self._iterations = self._linear_failures = 0
        self._krylov_before = self._krylov_iterations
        self._test: NewtonTest | None = None
        self._newton_atol: float | np.ndarray = 0.0
        self._update: np.ndarray | None = None
        self._bad_slope: np.ndarray | None = None
        self._last_failure = Status.NEWTON_FAILED, ""

    @property
    def _krylov_iterations(self) -> int:
        """Krylov iterations of the solver so far, including those from before this run."""
        return 0 if self._task.solver is None else self._task.solver.krylov_iterations

    @property
    def time(self) -> float:
        return float(self._trajectory.times[-1])

    @property
    def state(self) -> np.ndarray:
        return self._states[-1]

    @property
    def stages(self) -> np.ndarray | None:
        return self._stages

    @property
    def half(self) -> tuple[float, np.ndarray] | None:
        return self._trajectory.half

    @property
    def next_size(self) -> float:
        return self._next_size

    @property
    def counts(self) -> Counts:
        krylov = self._krylov_iterations - self._krylov_before
        mended = 0 if self._mended is None else self._mended.count
        return Counts(self._rejected, self._iterations, krylov, mended)

    @property
    def newton_update(self) -> np.ndarray | None:
        return self._update

    @property
    def linear_failures(self) -> int:
        return self._linear_failures

    @property
    def bad_slope(self) -> np.ndarray | None:
        return self._bad_slope

    def set_tolerances(self, tolerances: Tolerances) -> None:
        self._tolerances = tolerances

    def why_cut(self) -> tuple[Status, str]:
        return self._last_failure

    def step(self, size: float) -> Status | None:
        task, limits = self._task, self._task.limits
        self.cut_by, self.detail = None, ""
        if limits is not None:
            limits.begin()
        newton = task.newton
        if newton.atol is not None:
            self._newton_atol = newton.atol
        elif task.method.newton:
            # The tiny constant avoids division by zero for components that stay at zero.
            self._newton_atol = 0.01 * newton.rtol * np.abs(self.state) + 1e-250
        status: Status | None = None
        was_long = False
        for _ in range(task.max_cuts):
            status, factor = self._attempt(size, was_long)
            if status is None:
                wanted = min(task.largest, size * factor)
                self._next_size = wanted if self.cut_by is None else min(wanted, size)
                return None
            self._rejected += 1
            if status is Status.STEP_TOO_SMALL:
                size *= factor
                was_long = True
            else:
                if status in (Status.NON_FINITE, Status.OUT_OF_BOUNDS):
                    self.cut_by = status
                size *= task.shrink
            self._next_size = size
            if size < 4 * np.spacing(abs(self.time)):  # time would hardly change
                break
        return status

    def _attempt(self, size: float, was_long: bool) -> tuple[Status | None, float]:
        """Try a step of ``size`` and keep it if it succeeds; ``was_long``: an earlier try had a large error.

        Returns None or why it failed, and the factor for the size of the next step or attempt.
        """
        trajectory, n, half = self._trajectory, self._trajectory.n_steps, self._trajectory.half
        trajectory.append(self.time + size, size)
        states = np.array([*self._states, np.empty_like(self._states[-1])])
        segment = Segment(trajectory, n, n + 1, n + 2 - len(states), states)
        method, form, estimates = self._task.method, self._task.system.form, []
        if self._tolerances is not None:
            estimates = method.estimates(segment, form)
        block, order = estimates[0] if estimates else (method.blocks(segment, form)[0], 0)
        rows = RowSolver(
            block,
            segment,
            self._task.system,
            self._task.solver,
            self._new_test,
            cast(Dynamics | None, self._mended),
            self._last,
        )
        status, error = self._solve(rows)
        if self._test is not None:
            self._iterations += len(self._test.sizes)
            self._test = None
        if status is not None:
            trajectory.drop_last_step()
            trajectory.half = half
        if order:
            assert self._tolerances is not None
            safety = method.safety(self._tolerances.rtol)
            controller = Controller(order - 1, safety, largest=method.largest_factor)
            return status, controller.factor(error, was_long)
        return status, 1.0 if self._tolerances is not None else math.inf

    def _solve(self, rows: RowSolver) -> tuple[Status | None, float]:
        task = self._task
        self._update = None
        try:
            if rows.pattern.keeps_half:
                self._trajectory.half = (float(rows.block.times.mean()), rows.solve_half())
            new = rows.new_state()
        except NotConvergedError as failure:
            return self._why_not_converged(failure), math.inf
        except (np.linalg.LinAlgError, LinearSolveError) as failure:
            self._linear_failures += 1
            self.detail = str(failure)
            self._last_failure = Status.LINEAR_FAILED, self.detail
            return Status.LINEAR_FAILED, math.inf
        error = self._error(new, rows)
        if not task.system.space.every(is_finite(new) and math.isfinite(error)):
            return Status.NON_FINITE, math.inf
        if error > 1:
            return Status.STEP_TOO_SMALL, error
        # The equations of an implicit step have f at its end, of which the last iterate has not been asked.
        looks = task.method.newton or self.time < task.last * (1 - 1e-12)
        if looks and not self._can_go_on(self.time, new):
            return Status.NON_FINITE, math.inf
        if task.limits is not None and not task.limits.allows(self.time, new):
            self.detail = task.limits.detail
            return Status.OUT_OF_BOUNDS, error
        self._stages = rows.stages()[0] if self._keeps_stages else None
        self._states.append(new)
        return None, error

    def _can_go_on(self, s: float, u: np.ndarray) -> bool:
        """Whether f and g are finite at the end ``u`` (size,) of a step, so that the next can start there."""
        for part in self._task.system.parts:
            slope = part.evaluate(s, u)
            if not self._task.system.space.every(is_finite(slope)):
                self._bad_slope = slope.copy()
                return False
        return True

    def _new_test(self, start: np.ndarray) -> NewtonTest:
        """The stopping test for a Newton iteration that starts from ``start`` (1, size)."""
        if self._test is not None:
            self._iterations += len(self._test.sizes)
        task = self._task
        assert task.solver is not None
        keeping = None if self._last is None else self._last.use
        self._test = NewtonTest(task.newton, task.system, task.solver, start, self._newton_atol, keeping)
        return self._test

    def _why_not_converged(self, failure: NotConvergedError) -> Status:
        system = self._task.system
        slope = system.f.evaluate(float(failure.s[0]), failure.u[0])
        if not system.space.every(is_finite(slope)):
            self._bad_slope = slope.copy()
            return Status.NON_FINITE
        assert self._test is not None
        self.detail = updates(self._test.sizes)
        self._last_failure = Status.NEWTON_FAILED, self.detail
        self._update = None if failure.update is None else failure.update[0]
        return Status.NEWTON_FAILED

    def _error(self, new: np.ndarray, rows: RowSolver) -> float:
        """The weighted norm of the estimated error of a step; 0 for a step without an estimate."""
        if self._tolerances is None or not rows.pattern.outputs:
            return 0.0
        (row,) = rows.pattern.output_rows
        errors = rows.output(row)
        errors = scaled(errors, new, new - errors, self._tolerances)
        space = self._task.system.space
        return math.sqrt(space.sum(float(errors @ errors)) / space.sum(errors.size))

    def close(self) -> None:
        if self._task.solver is not None:
            self._task.solver.release()
