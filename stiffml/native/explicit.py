"""A stepper for explicit Runge-Kutta methods: stages in turn, without a call of anything but func between."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from stiffml.discretization.estimates import scaled
from stiffml.errors import Status
from stiffml.methods.rk import RungeKutta
from stiffml.native.explicit_step import explicit_step
from stiffml.petsc.stiffness import StiffnessTest
from stiffml.run.controller import Controller
from stiffml.run.stepping import Counts, Stepper, Task
from stiffml.settings import Tolerances
from stiffml.system.derivatives.joint import Graphed, KeptGraphs
from stiffml.system.finite import is_finite


class ExplicitStepper(Stepper):
    """Takes explicit steps, and cuts those whose error is too large or where f is not finite.

    What a run that is differentiated may keep, the graphs of f or the stages, is kept on the way.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._system, self._tolerances = task, task.system, task.tolerances
        method = task.method
        assert isinstance(method, RungeKutta)
        self._rows = rows = explicit_step(method)
        self._inner, self._last_is_new = rows.inner, rows.last_is_new
        self._error_weights = None
        if task.tolerances is not None:
            embedded = method.tableau.embedded
            assert embedded is not None
            self._error_weights = rows.weights - embedded
            self._controller = Controller(method.estimate_order - 1)
        self._slopes = np.empty((len(rows.c), task.u0.size))
        self._time, self._state = task.s0, task.u0
        self._stages: list[np.ndarray] = []
        self._next_size = task.largest
        self._rejected = self._count = 0
        self._bad_slope: np.ndarray | None = None
        self._graphs = KeptGraphs(task.graphs) if task.graphs else None
        # Where graphs are kept, the first slope is evaluated once more for its graph, unless that is there.
        self._first: np.ndarray | None = None if self._graphs is not None else task.slopes[0]
        self._first_graph: Graphed | None = None
        if self._graphs is not None and self._system.first_graph is not None:
            self._first_graph, self._system.first_graph = self._system.first_graph, None
            self._first = self._first_graph.slope
        self._stiffness: StiffnessTest | None = None
        if task.tolerances is not None and task.watches_stiffness:
            self._stiffness = StiffnessTest(method, self._system.space, self._system.f.eps)
        self._taken = math.inf

    @property
    def time(self) -> float:
        return self._time

    @property
    def state(self) -> np.ndarray:
        return self._state

    @property
    def stages(self) -> np.ndarray | None:
        if not self._task.keeps_stages or len(self._stages) < 2:
            return None
        return np.stack(self._stages[1 : self._inner])

    @property
    def columns(self) -> tuple[np.ndarray, Mapping[int, np.ndarray]] | None:
        inner = self._stages[1 : self._inner]
        stages = np.stack(inner) if inner else np.empty((0, self._state.size))
        slopes = dict(enumerate(self._slopes[: self._inner].copy()))
        if self._first is not None:
            slopes[self._inner] = self._first
        return stages, slopes

    @property
    def slopes(self) -> list[np.ndarray] | None:
        return None if self._first is None else [self._first]

    @property
    def kept(self) -> object | None:
        return self._graphs

    @property
    def next_size(self) -> float:
        return self._next_size

    @property
    def counts(self) -> Counts:
        return Counts(self._rejected)

    @property
    def newton_update(self) -> np.ndarray | None:
        return None

    @property
    def bad_slope(self) -> np.ndarray | None:
        return self._bad_slope

    def set_tolerances(self, tolerances: Tolerances) -> None:
        self._tolerances = tolerances

    def why_cut(self) -> tuple[Status, str]:
        raise AssertionError("an explicit step is cut for its error, or where it cannot end")

    def step(self, size: float) -> Status | None:
        task = self._task
        self.cut_by, self.detail, found_bad = None, "", False
        if task.limits is not None:
            task.limits.begin()
        status: Status | None = None
        for _ in range(task.max_cuts):
            status, error, bad = self._attempt(size)
            if bad is not None and not found_bad:
                self._bad_slope, found_bad = bad.copy(), True
            if status is None:
                factor = math.inf if self._tolerances is None else self._controller.factor(error)
                wanted = min(task.largest, size * factor)
                self._next_size = wanted if self.cut_by is None else min(wanted, size)
                self._taken = size
                return None
            self._rejected += 1
            if status is Status.STEP_TOO_SMALL:
                size *= self._controller.factor(error)
            else:
                self.cut_by = status
                size *= task.shrink
            self._next_size = size
            if size < 4 * np.spacing(abs(self._time)):  # time would hardly change
                break
        return status

    def _attempt(self, size: float) -> tuple[Status | None, float, np.ndarray | None]:
        """Try a step of ``size``, and keep it if it succeeds.

        Returns None or why it failed, its error, and a value of f that was not finite if there was one.
        """
        u, k, every = self._state, self._slopes, self._system.space.every
        if self._first is None:
            self._first, self._first_graph = self._slope(self._time, u)
        k[0], graphs, stages = self._first, [self._first_graph], [u]
        for i in range(1, self._inner):
            stages.append(self._rows.stage(i, u, size, k))
            slope, graph = self._slope(self._time + self._rows.c[i] * size, stages[i])
            if not every(is_finite(slope)):
                return Status.NON_FINITE, math.inf, slope
            k[i] = slope
            graphs.append(graph)
        new = self._rows.end(u, size, k)
        end, error = self._time + size, 0.0
        if not every(is_finite(new)):
            return Status.NON_FINITE, math.inf, None
        later: tuple[np.ndarray | None, Graphed | None] = None, None
        has_error = self._error_weights is not None
        if (has_error and self._last_is_new) or end < self._task.last * (1 - 1e-12):
            slope, graph = later = self._slope(end, new)
            if not every(is_finite(slope)):
                return Status.NON_FINITE, math.inf, slope
            if self._last_is_new:
                k[-1] = slope
        if has_error:
            error = self._error(size, new)
            if not every(math.isfinite(error)):
                return Status.NON_FINITE, math.inf, None
            if error > 1:
                return Status.STEP_TOO_SMALL, error, None
        limits = self._task.limits
        if limits is not None and not limits.allows(end, new):
            self.detail = limits.detail
            return Status.OUT_OF_BOUNDS, error, None
        if self._graphs is not None:
            self._graphs.keep(self._count, graphs)
        self._count += 1
        if self._last_is_new and has_error:
            stages.append(new)
        self._time, self._state, self._stages = end, new, stages
        self._first, self._first_graph = later
        return None, error, None

    def _slope(self, s: float, u: np.ndarray) -> tuple[np.ndarray, Graphed | None]:
        """f at a time and a state that are asked for once, with its graph if that is kept."""
        f = self._system.f
        if self._graphs is not None and self._graphs.has_room:
            found = self._graphs.graphed(f, s, u)
            return found.slope, found
        return f.evaluate_once(s, u), None

    def _error(self, size: float, new: np.ndarray) -> float:
        """The weighted norm of the estimated error of a step, in units as PETSc has them."""
        assert self._tolerances is not None
        assert self._error_weights is not None
        errors = size * (self._error_weights @ self._slopes)
        errors = scaled(errors, new, new - errors, self._tolerances)
        space = self._system.space
        with np.errstate(over="ignore"):
            return math.sqrt(space.sum(float(errors @ errors)) / space.sum(errors.size))

    def is_stiff(self, left: float) -> bool:
        if self._stiffness is None or self._tolerances is None:
            return False
        weights = self._tolerances.atol + self._tolerances.rtol * np.abs(self._state)
        self._stiffness.recall(self._stages, self._slopes)
        return self._stiffness.stepped(self._taken, left, weights)

    def close(self) -> None:
        self._stages, self._first_graph = [], None
