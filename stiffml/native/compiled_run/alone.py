"""A run of a single state in C."""

from __future__ import annotations

import dataclasses

import numpy as np

from stiffml.errors import Status
from stiffml.native.compiled_run.interface import LEFT_TO_PYTHON, REASONS
from stiffml.native.compiled_run.qualifying import obstacle_of
from stiffml.native.compiled_run.samples import Runs
from stiffml.native.side_by_side.work import Work
from stiffml.run.nonstop import Course, Taken, obstacle_to_any
from stiffml.run.request import Request
from stiffml.run.stepping import Task
from stiffml.settings import Tolerances
from stiffml.steps import Adaptive


def obstacle(request: Request) -> str:
    """Why C does not take the steps of a run by the rows of the method; empty if it does."""
    if not request.system.f.is_compiled:
        return "the function is not compiled"
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


def taken_in_c(task: Task, course: Course) -> Taken:
    """Take the steps of a run that :func:`obstacle` admits."""
    if task.watch is not None:
        return Taken.none("a watch looks at every step")
    runs = Runs(_work(task, course), np.array([course.first]), renews=True)
    taken = runs.taken()
    reason, (trajectory,) = int(runs.reason[0]), taken.trajectories.parts
    if reason == LEFT_TO_PYTHON or (taken.failures and REASONS[reason] is not Status.MAX_STEPS):
        return Taken.none("a step has failed, which is told where steps are taken one by one")
    if taken.counts.rejected and not isinstance(course.steps, Adaptive):
        return Taken.none("a known step was cut, where parts of steps are taken one by one")
    steps = trajectory.n_steps
    return Taken(
        ends=trajectory.times[1:],
        sizes=np.diff(trajectory.times),
        states=taken.states[1:],
        stages=None if taken.stages is None else taken.stages[:steps],
        output_steps=list(trajectory.output_steps),
        half=trajectory.half,
        counts=taken.counts,
        wanted=float(runs.size[0]) if taken.failures else 0.0,
    )


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
