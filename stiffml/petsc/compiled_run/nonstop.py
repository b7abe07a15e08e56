"""A run in C: its task in C's form, the calls, and what was taken."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from stiffml.compiled.address import address
from stiffml.petsc.compiled_run.asking import Asked
from stiffml.petsc.compiled_run.interface import (
    ARRIVED,
    AT_STEP_LIMIT,
    GIVEN_UP,
    ON_THE_WAY,
    FunctionStruct,
    TakenStruct,
    TaskStruct,
    copied,
)
from stiffml.petsc.compiled_run.library import library
from stiffml.petsc.formulation import Formulation, TimeAsState
from stiffml.petsc.library import PETSc
from stiffml.petsc.stiffness import StiffnessTest
from stiffml.petsc.time_stepper import new_ts, options_of, set_tolerances
from stiffml.run.kept_jacobian import may_keep
from stiffml.run.nonstop import Course, Taken
from stiffml.run.stepping import Counts, Task
from stiffml.steps import Adaptive
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW

NO_LIMIT = 2**62
"""Steps that no run takes."""

INTERRUPTIBLE = 0.05
"""Seconds after which C comes back to Python, which then notices interrupts, and lets other threads run."""


def taken_in_c(task: Task, course: Course) -> Taken:
    """Take the steps of a run that :func:`stiffml.petsc.compiled_run.qualifying.obstacle` admits."""
    run = _Run(task, course)
    try:
        return run.taken()
    finally:
        run.close()


class _Run:
    """One run: its TS and what belongs to it."""

    def __init__(self, task: Task, course: Course) -> None:
        self._task, self._course = task, course
        self._library: Any = library()
        self._kept: list[np.ndarray] = []  # what C reads
        self._run = None
        problem = (TimeAsState if task.method.time_is_state else Formulation)(task.system)
        guards = not task.method.implicit and task.tolerances is not None
        self._options = options_of(task, guards)
        try:
            self._begin(problem, guards)
        except BaseException:
            self.close()
            raise

    def _begin(self, problem: Formulation, guards: bool) -> None:
        task = self._task
        self._ts = ts = new_ts(PETSc.COMM_SELF, self._options.prefix, task.s0)
        u = PETSc.Vec().createSeq(problem.size, comm=PETSc.COMM_SELF)
        u.setArray(problem.enter(task.s0, task.u0))
        if task.tolerances:
            set_tolerances(ts, u, problem.tolerances(task.tolerances))
        ts.setSolution(u)
        self._struct = self._task_struct(problem, guards)
        self._run = self._library.stiffml_begin(ctypes.byref(self._struct), ts.handle)
        if self._run is None:
            raise MemoryError("no memory for a run in C")
        ts.setFromOptions()

    def _task_struct(self, problem: Formulation, guards: bool) -> TaskStruct:
        task, course, system, method = self._task, self._course, self._task.system, self._task.method
        layout, form, size = system.layout, system.form, task.u0.size
        kept, growth = method.kept_stages(form), method.growth_limit()
        struct = TaskStruct(
            f=self._function(system.f, problem),
            g=FunctionStruct() if system.g is None else self._function(system.g, problem),
            samples=layout.samples,
            width=layout.width,
            time_is_state=method.time_is_state,
            direction=system.direction,
            begin=system.f.span.begin,
            end=system.f.span.end,
            rounding=system.f.span.rounding,
            degree=system.f.span.degree,
            implicit=method.implicit,
            newton=method.newton,
            explicit_first_stage=method.explicit_first_stage,
            half_step=method.starts_with_half_step,
            both_at_once=layout.width <= NARROW,
            looks_ahead=not method.evaluates_end(form),
            guards=guards,
            first_kept=kept.start,
            kept=len(kept),
            growth=growth.ratio,
            most_growth=growth.largest,
            growing=growth.steps,
            eps=system.f.eps,
            start=task.s0,
            max_cuts=task.max_cuts,
            outputs=len(course.outputs),
            output=self._numbers(course.outputs),
        )
        if system.mass is not None:
            mass = system.mass
            numbers = mass.main_diagonal().reshape(layout.samples, -1) if mass.diagonal else mass.blocks
            struct.mass, struct.masses = self._numbers(numbers), len(numbers)
            struct.mass_is_diagonal = mass.diagonal
        if method.newton:
            newton = task.newton
            struct.newton_rtol, struct.max_iterations = newton.rtol, newton.max_iterations
            struct.keeps = task.tolerances is not None and may_keep(task)
            struct.signs = self._numbers(_signs(size))
            if newton.atol is not None:
                struct.newton_atol = self._numbers(np.broadcast_to(newton.atol, size))
        if task.watches_stiffness:
            assert task.tolerances is not None
            watch = StiffnessTest(method, system.space, system.f.eps)
            struct.watched, struct.stability = len(watch.weights), watch.bound
            struct.combination = self._numbers(watch.weights)
            struct.rtol = task.tolerances.rtol
            struct.atol = self._numbers(np.broadcast_to(task.tolerances.atol, size))
        steps, most = course.steps, None if task.watch is None else task.watch.most_steps
        struct.max_steps = NO_LIMIT if most is None else most
        if isinstance(steps, Adaptive):
            struct.adaptive, struct.first = True, course.first
            struct.max_steps = min(struct.max_steps, steps.max_steps)
            struct.minimum = steps.minimum or 0.0
        else:
            ends, is_output = steps
            struct.end_of = self._numbers(ends)
            struct.ends = self._kept_at(np.diff(np.flatnonzero(is_output) + 1, prepend=0).astype(np.int64))
        return struct

    def _function(self, part: Dynamics, problem: Formulation) -> FunctionStruct:
        if not part.is_compiled:
            return Asked(part, problem).struct()
        from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics  # imports casadi

        assert isinstance(part, CompiledDynamics)
        code, by_time = part.compiled.code, part is self._task.system.f and problem.time_is_state
        samples = part.layout.size // code.size
        return FunctionStruct(
            values=code.loop("values", samples),
            blocks=code.loop("blocks", samples),
            push=code.loop("push", samples) if by_time else None,
            p=self._numbers(part.compiled.p),
            samples=samples,
        )

    def _numbers(self, array: np.ndarray) -> int | None:
        return self._kept_at(np.ascontiguousarray(array, dtype=np.float64))

    def _kept_at(self, array: np.ndarray) -> int | None:
        self._kept.append(array)
        return address(array)

    def taken(self) -> Taken:
        """Take the steps."""
        watch, shown, out_of_time = self._task.watch, 0, False
        ended = ON_THE_WAY
        while ended == ON_THE_WAY and not out_of_time:
            left = INTERRUPTIBLE if watch is None else min(INTERRUPTIBLE, max(watch.left, 0.0))
            ended = self._library.stiffml_go(self._run, left)
            found: TakenStruct = self._library.stiffml_taken(self._run).contents
            if watch is not None and found.steps > shown:
                last = found.steps - 1
                end, size = (float(_numbers_at(at)[last]) for at in (found.ends, found.sizes))
                watch.passed(self._task.system, end, size, found.steps - shown)
                shown, out_of_time = found.steps, watch.is_over(self._task.system) and ended == ON_THE_WAY
        assert out_of_time or ended in (ARRIVED, AT_STEP_LIMIT, GIVEN_UP)
        if ended == GIVEN_UP:
            if watch is not None:
                watch.steps -= shown  # they are taken again
            return Taken.none((found.why or b"").decode())
        return replace(self._copied(found), out_of_time=out_of_time)

    def _copied(self, found: TakenStruct) -> Taken:
        task, system, count = self._task, self._task.system, found.steps
        kept, size = len(task.method.kept_stages(system.form)), task.u0.size
        ends, sizes = copied(found.ends, count), copied(found.sizes, count)
        states = copied(found.states, count, size)
        if count:
            for part, evaluations in zip(system.parts, (found.rhs_evals, found.g_evals), strict=False):
                part.stepped(evaluations, found.jacobians if part is system.f else 0, ends[-1], states[-1])
        return Taken(
            ends=ends,
            sizes=sizes,
            states=states,
            stages=copied(found.stages, count, kept, size) if kept else None,
            output_steps=copied(found.output_steps, found.reached + 1, dtype=np.int64).tolist(),
            half=(found.half_time, copied(found.half, size)) if found.has_half else None,
            counts=Counts(
                rejected=found.rejected,
                newton_iterations=found.newton_iterations,
                krylov_iterations=found.krylov_iterations,
                in_c=count,
            ),
            wanted=found.wanted if isinstance(self._course.steps, Adaptive) or not count else sizes[-1],
        )

    def close(self) -> None:
        """Free all memory. Calling it again has no effect."""
        self._options.remove()
        ts, self._ts = getattr(self, "_ts", None), None
        if ts is not None:
            ts.destroy()
        run, self._run = self._run, None
        if run is not None:
            self._library.stiffml_end(run)


def _numbers_at(pointer: int) -> Any:
    return ctypes.cast(pointer, ctypes.POINTER(ctypes.c_double))


@cache
def _signs(size: int) -> np.ndarray:
    """(4, size) of +1 and -1, those with which petsc/rounding.py moves states and residuals."""
    random = np.random.default_rng(0)
    return np.stack([random.choice((-1.0, 1.0), size) for _ in range(4)])
