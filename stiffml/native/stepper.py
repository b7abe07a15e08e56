"""A stepper that solves the rows of each step itself, for methods that PETSc does not have."""

from __future__ import annotations

import math
from collections import deque
from typing import cast

import numpy as np

from stiffml.discretization.dense_output import with_outputs
from stiffml.discretization.equations import Block, Scheme
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.errors import LinearSolveError, Status
from stiffml.native.mended import MendedJacobians
from stiffml.native.newton import NewtonTest
from stiffml.native.rows import NotConvergedError, RowSolver
from stiffml.run.controller import Controller
from stiffml.run.stepping import Counts, Stepper, Task, updates
from stiffml.settings import Tolerances
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.finite import is_finite


class NativeStepper(Stepper):
    """Solves the rows of one step after the other.

    Adaptive steps are controlled by the method's embedded solution, whose order is assumed to be one less
    than that of the method.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._tolerances = task, task.tolerances
        self._embedded = task.method.embedded(task.system.form)
        if task.tolerances is not None and self._embedded is None:
            raise ValueError(f"{task.method} has no error estimate of its own; use steps=Fixed(h) or Grid()")
        self._with_error: tuple[Scheme, Scheme] | None = None  # the last scheme, and it with the embedded row
        self._controller = Controller(task.method.order - 1)
        mends = task.solver is not None and task.solver.uses_blocks
        self._mended = MendedJacobians(task.system) if mends else None
        self._keeps_stages = bool(task.method.kept_stages(task.system.form))
        self._trajectory = Trajectory(np.array([task.s0, task.last]))
        self._states = deque([task.u0], maxlen=task.method.history)
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
        task, limits, grows = self._task, self._task.limits, self._controller.largest
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
        for _ in range(task.max_cuts):
            status, error = self._attempt(size)
            if status is None:
                factor = min(grows, self._controller.factor(error))
                self._next_size = min(task.largest, size * factor)
                return None
            self._rejected += 1
            grows = 1.0
            if status is Status.STEP_TOO_SMALL:
                size *= self._controller.factor(error)
            else:
                if status in (Status.NON_FINITE, Status.OUT_OF_BOUNDS):
                    self.cut_by = status
                size *= task.shrink
            self._next_size = size
            if size < 4 * np.spacing(abs(self.time)):  # time would hardly change
                break
        return status

    def _attempt(self, size: float) -> tuple[Status | None, float]:
        """Try a step of ``size`` and keep it if it succeeds.

        Returns None or why it failed, and the weighted norm of its error.
        """
        trajectory, n, half = self._trajectory, self._trajectory.n_steps, self._trajectory.half
        trajectory.append(self.time + size, size)
        states = np.array([*self._states, np.empty_like(self._states[-1])])
        segment = Segment(trajectory, n, n + 1, n + 2 - len(states), states)
        (block,) = self._task.method.blocks(segment, self._task.system.form)
        if self._tolerances is not None:
            block = self._with_error_row(block)
        rows = RowSolver(
            block,
            segment,
            self._task.system,
            self._task.solver,
            self._new_test,
            cast(Dynamics | None, self._mended),
        )
        status, error = self._solve(rows, segment)
        if self._test is not None:
            self._iterations += len(self._test.sizes)
            self._test = None
        if status is not None:
            trajectory.drop_last_step()
            trajectory.half = half
        return status, error

    def _solve(self, rows: RowSolver, segment: Segment) -> tuple[Status | None, float]:
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
        if self.time < task.last * (1 - 1e-12) and not self._can_go_on(self.time, new):
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
        self._test = NewtonTest(task.newton, task.system, task.solver, start, self._newton_atol)
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

    def _with_error_row(self, block: Block) -> Block:
        """The block with the embedded solution added, as an output at the end of the step."""
        if self._with_error is None or self._with_error[0] is not block.scheme:
            assert self._embedded is not None
            self._with_error = block.scheme, with_outputs(block.scheme, self._embedded, 1)
        times = block.times.numpy()
        times = np.concatenate([times, times[:, -1:]], axis=1)
        return Block(self._with_error[1], block.which, block.known, times, np.zeros((1, 1), dtype=int))

    def _error(self, new: np.ndarray, rows: RowSolver) -> float:
        """The weighted norm of u₁ − û₁, with û₁ the embedded solution.

        Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, eq. 4.11.
        """
        if self._tolerances is None:
            return 0.0
        (row,) = rows.pattern.output_rows
        sizes = np.maximum(np.abs(new), np.abs(self._states[-1]))
        scaled = (new - rows.output(row)) / (self._tolerances.atol + self._tolerances.rtol * sizes)
        space = self._task.system.space
        return math.sqrt(space.sum(float(scaled @ scaled)) / space.sum(scaled.size))

    def close(self) -> None:
        if self._task.solver is not None:
            self._task.solver.release()
