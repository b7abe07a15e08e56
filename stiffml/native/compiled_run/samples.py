"""Samples with steps of their own, each a run in C: their trajectories, and why some have failed."""

from __future__ import annotations

import numpy as np

from stiffml.discretization.trajectory import Trajectories, Trajectory
from stiffml.errors import Status
from stiffml.native.compiled_run.interface import LEFT_TO_PYTHON, REASONS
from stiffml.native.compiled_run.runs import Runs
from stiffml.native.compiled_run.task import parameters_of
from stiffml.native.compiled_run.terms import Terms
from stiffml.native.side_by_side.drive import Drive
from stiffml.native.side_by_side.first_sizes import first_sizes
from stiffml.native.side_by_side.work import Taken, Work
from stiffml.run.record import Failure
from stiffml.run.stepping import Counts
from stiffml.steps import Adaptive


def taken_in_c(work: Work) -> Taken:
    """Take the steps of samples that :func:`stiffml.native.compiled_run.qualifying.obstacle` admits."""
    first = first_sizes(work) if isinstance(work.steps, Adaptive) else None
    terms = Terms(work)
    runs = Runs(terms, parameters_of(work.system), work.u0, first)
    taken = _with_trajectories(work, terms, runs)
    left = np.flatnonzero(runs.reason == LEFT_TO_PYTHON).tolist()
    return taken.with_others(left, Drive(work.of(left)).run()) if left else taken


def _with_trajectories(work: Work, terms: Terms, runs: Runs) -> Taken:
    ends = np.cumsum(runs.steps + 1).tolist()
    parts, failures = [], dict[int, Failure]()
    for i, (steps, end, passed) in enumerate(
        zip(runs.steps.tolist(), ends, runs.passed.tolist(), strict=True)
    ):
        at = int(terms.output_at[i])
        marks = [0, *runs.output_step[at + 1 : at + max(passed, 1)].tolist()]
        half = (float(runs.half_time[i]), runs.half[i].copy()) if runs.has_half[i] else None
        parts.append(Trajectory.of_steps(work.outputs[i], runs.times[end - steps : end], marks, half))
        if int(runs.reason[i]) in REASONS:
            failures[i] = _failure(work, runs, i, end - 1)
    rejected, iterations, values, jacobians, mended = runs.counts.tolist()
    work.system.f.stepped(values, jacobians, float(runs.times[-1]), runs.states[-1])
    in_c = int(runs.steps[runs.reason != LEFT_TO_PYTHON].sum())
    counts = Counts(rejected, iterations, mended_jacobians=mended, in_c=in_c)
    return Taken(Trajectories(parts), runs.states, runs.stages, failures, counts)


def _failure(work: Work, runs: Runs, i: int, last: int) -> Failure:
    """Why sample i has come no further than to its state number ``last``."""
    why, component = REASONS[int(runs.reason[i])], None
    begin, state = float(runs.times[last]), runs.states[last]
    if why is not Status.MAX_STEPS:
        component = work.component(why, i, begin, state, runs.found[i])
    return Failure(why, begin, float(runs.size[i]), component)
