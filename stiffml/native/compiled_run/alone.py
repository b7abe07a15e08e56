"""A run of a single state in C."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stiffml.errors import Status
from stiffml.native.compiled_run.interface import LEFT_TO_PYTHON, REASONS
from stiffml.native.compiled_run.qualifying import obstacle_of
from stiffml.native.compiled_run.runs import Runs
from stiffml.native.compiled_run.task import code_of, parameters_of
from stiffml.native.compiled_run.terms import Terms
from stiffml.native.side_by_side.work import Work
from stiffml.run.nonstop import Course, Taken, obstacle_to_any
from stiffml.run.request import Request
from stiffml.run.stepping import Counts, Task
from stiffml.settings import Tolerances
from stiffml.steps import Adaptive

if TYPE_CHECKING:  # imports casadi
    from stiffml.compiled.function import CompiledFunction


@dataclass
class _Prepared:
    """What is known of the runs of a request and of those that repeat it, for one compiled function."""

    code: CompiledFunction
    obstacle: str
    terms: Terms | None = None


@dataclass(frozen=True)
class Columns:
    """All columns of each step but the states at its ends, (steps + 1, columns, size), for the reverse sweep.

    Those of the last state have no meaning. Of methods whose stages are not kept everywhere: Rosenbrock's,
    which others solve for again.
    """

    values: np.ndarray


def obstacle(request: Request) -> str:
    """Why C does not take the steps of a run by the rows of the method; empty if it does."""
    if not request.system.f.is_compiled:
        return "the function is not compiled"
    return _prepared(request).obstacle


def _prepared(request: Request) -> _Prepared:
    code, before = code_of(request.system), request.prepared.get(__name__)
    if isinstance(before, _Prepared) and before.code is code:
        return before
    made = request.prepared[__name__] = _Prepared(code, _obstacle(request))
    return made


def _obstacle(request: Request) -> str:
    method, adaptive = request.method, isinstance(request.steps, Adaptive)
    if not method.implicit:
        return "the steps are explicit"
    if not method.within_step:
        return "stages lie beyond the step"
    if adaptive and not method.has_estimates(request.system.form):
        return "the method has no error estimate of its own"
    if adaptive and method.newton and not request.system.f.has_cheap_jacobian:
        return "a Jacobian serves many steps"
    return obstacle_to_any(request) or obstacle_of(request.system, method, adaptive)


def taken_in_c(request: Request, task: Task, course: Course) -> Taken:
    """Take the steps of a run that :func:`obstacle` admits."""
    if task.watch is not None:
        return Taken.none("a watch looks at every step")
    prepared, keeps_columns = _prepared(request), _keeps_columns(request)
    if prepared.terms is None:
        kept = "columns" if keeps_columns else "stages"
        prepared.terms = Terms(_work(task, course), renews=True, kept=kept)
    runs = Runs(prepared.terms, parameters_of(task.system), task.u0[None], np.array([course.first]))
    reason = int(runs.reason[0])
    rejected, iterations, values, jacobians, mended = runs.counts.tolist()
    task.system.f.stepped(values, jacobians, float(runs.times[-1]), runs.states[-1])
    if reason == LEFT_TO_PYTHON or (reason and REASONS[reason] is not Status.MAX_STEPS):
        return Taken.none("a step has failed, which is told where steps are taken one by one")
    if rejected and not isinstance(course.steps, Adaptive):
        return Taken.none("a known step was cut, where parts of steps are taken one by one")
    steps = len(runs.times) - 1
    return Taken(
        ends=runs.times[1:],
        sizes=runs.times[1:] - runs.times[:-1],
        states=runs.states[1:],
        stages=None if runs.stages is None or keeps_columns else runs.stages[:steps],
        output_steps=[0, *runs.output_step[1 : max(int(runs.passed[0]), 1)].tolist()],
        half=(float(runs.half_time[0]), runs.half[0]) if runs.has_half[0] else None,
        counts=Counts(rejected, iterations, mended_jacobians=mended, in_c=steps),
        wanted=float(runs.size[0]) if reason else 0.0,
        kept=Columns(runs.stages) if runs.stages is not None and keeps_columns else None,
    )


def _keeps_columns(request: Request) -> bool:
    """Whether the reverse sweep would solve for stages again, and memory may be spent on them."""
    method = request.method
    may = request.is_differentiated and request.adjoint.checkpoints == "stages"
    return may and method.time_is_state and not method.kept_stages(request.system.form)


def _work(task: Task, course: Course) -> Work:
    steps: Adaptive | list[np.ndarray]
    if isinstance(course.steps, Adaptive):
        steps = dataclasses.replace(course.steps, maximum=task.largest)
    else:
        steps = [course.steps[0]]
    none = Tolerances(1.0, 1.0)  # known steps have no others
    return Work(
        task.system,
        task.method,
        task.solver,
        [course.outputs],
        task.u0[None],
        steps,
        task.tolerances or none,
        task.newton,
    )
