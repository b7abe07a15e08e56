"""Runs of samples in C: their task in C's form, the calls, and what was taken."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from stiffml.compiled.address import address
from stiffml.discretization.trajectory import Trajectories, Trajectory
from stiffml.errors import Status
from stiffml.native.compiled_run.interface import LEFT_TO_PYTHON, REASONS, TaskStruct
from stiffml.native.compiled_run.library import library
from stiffml.native.compiled_run.task import Arrays, task_of
from stiffml.native.side_by_side.drive import Drive
from stiffml.native.side_by_side.first_sizes import first_sizes
from stiffml.native.side_by_side.work import Taken, Work
from stiffml.run.record import Failure
from stiffml.run.stepping import Counts
from stiffml.steps import Adaptive

INTERRUPTIBLE = 0.05
"""Seconds after which C comes back to Python, which then notices interrupts."""


def taken_in_c(work: Work) -> Taken:
    """Take the steps of samples that :func:`stiffml.native.compiled_run.qualifying.obstacle` admits.

    On as many threads as torch uses, ``torch.get_num_threads()``.
    """
    runs = Runs(work)
    taken = runs.taken()
    left = np.flatnonzero(runs.reason == LEFT_TO_PYTHON).tolist()
    return taken.with_others(left, Drive(work.of(left)).run()) if left else taken


class Runs:
    """The task of all samples in C's form, with the arrays that C reads and writes.

    ``first`` (samples,) are the sizes of the first adaptive steps, which are found if they are not given.
    ``renews``: whether each of Newton's iterations takes a new Jacobian.
    """

    def __init__(self, work: Work, first: np.ndarray | None = None, renews: bool = False) -> None:
        self._work, self._first, self._renews = work, first, renews
        samples, width = work.u0.shape
        self._arrays = Arrays()
        lengths = np.array([len(times) for times in work.outputs])
        self._output_at = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._whole = np.zeros((4, samples), dtype=np.int64)
        self.steps, self.passed, self.reason, self.has_half = self._whole
        self.output_step = np.zeros(self._output_at[-1], dtype=np.int64)
        self._numbers, self._states = np.zeros((2, samples)), np.zeros((2, samples, width))
        self.size, self.half_time = self._numbers
        self.half, self.found = self._states
        self.counts = np.zeros(4, dtype=np.int64)
        self._struct = self._task()

    def _task(self) -> TaskStruct:
        work, arrays, newton, steps = self._work, self._arrays, self._work.newton, self._work.steps
        samples, adaptive = len(work.u0), isinstance(steps, Adaptive)
        struct = task_of(arrays, work.system, work.method, samples, adaptive, keeps_stages=True)
        struct.newton_rtol, struct.max_iterations = newton.rtol, newton.max_iterations
        struct.renews, struct.left = self._renews, work.left
        struct.start = arrays.numbers(work.u0)
        struct.output = arrays.numbers(np.concatenate(work.outputs))
        struct.output_at = arrays.kept(self._output_at)
        if newton.atol is not None:
            struct.newton_atol = arrays.numbers(_rows(newton.atol, work))
        if isinstance(steps, Adaptive):
            struct.max_steps, struct.rtol = steps.max_steps, work.tolerances.rtol
            struct.safety = work.method.safety(work.tolerances.rtol)
            struct.largest_factor = work.method.largest_factor
            struct.minimum, struct.maximum = steps.minimum or 0.0, steps.maximum or np.inf
            struct.atol = arrays.numbers(_rows(work.tolerances.atol, work))
            struct.first = arrays.numbers(first_sizes(work) if self._first is None else self._first)
            struct.end_at = arrays.kept(np.zeros(samples + 1, dtype=np.int64))
        else:
            struct.end = arrays.numbers(np.concatenate([*steps, np.empty(0)]))
            struct.end_at = arrays.kept(np.cumsum([0, *map(len, steps)]).astype(np.int64))
        struct.steps, struct.passed, struct.reason, struct.has_half = arrays.rows(self._whole)
        struct.size, struct.half_time = arrays.rows(self._numbers)
        struct.half, struct.found = arrays.rows(self._states)
        struct.output_step, struct.counts = arrays.kept(self.output_step), arrays.kept(self.counts)
        return struct

    def taken(self) -> Taken:
        """Take the steps."""
        library_: Any = library()
        batch = library_.stiffml_samples_begin(
            ctypes.byref(self._struct), min(torch.get_num_threads(), len(self._work.u0))
        )
        if batch is None:
            raise MemoryError("no memory for runs in C")
        try:
            while library_.stiffml_samples_go(batch, INTERRUPTIBLE):
                pass
            lengths, width, kept = self.steps + 1, self._work.u0.shape[1], self._struct.table.kept
            times = np.empty(lengths.sum())
            states = np.empty((len(times), width))
            stages = np.empty((len(times), kept, width)) if kept else None
            library_.stiffml_samples_collect(
                batch,
                address(times),
                address(states),
                None if stages is None else address(stages),
            )
        finally:
            library_.stiffml_samples_end(batch)
        return self._with_trajectories(times, states, stages)

    def _with_trajectories(self, times: np.ndarray, states: np.ndarray, stages: np.ndarray | None) -> Taken:
        work, ends = self._work, np.cumsum(self.steps + 1).tolist()
        parts, failures = [], dict[int, Failure]()
        for i, (steps, end, passed) in enumerate(
            zip(self.steps.tolist(), ends, self.passed.tolist(), strict=True)
        ):
            at = int(self._output_at[i])
            marks = [0, *self.output_step[at + 1 : at + max(passed, 1)].tolist()]
            half = (float(self.half_time[i]), self.half[i].copy()) if self.has_half[i] else None
            parts.append(Trajectory.of_steps(work.outputs[i], times[end - steps : end], marks, half))
            if int(self.reason[i]) in REASONS:
                failures[i] = self._failure(i, float(times[end - 1]), states[end - 1])
        rejected, iterations, values, jacobians = self.counts.tolist()
        work.system.f.stepped(values, jacobians, float(times[-1]), states[-1])
        in_c = int(self.steps[self.reason != LEFT_TO_PYTHON].sum())
        counts = Counts(rejected, iterations, in_c=in_c)
        return Taken(Trajectories(parts), states, stages, failures, counts)

    def _failure(self, i: int, begin: float, state: np.ndarray) -> Failure:
        why, component = REASONS[int(self.reason[i])], None
        if why is not Status.MAX_STEPS:
            component = self._work.component(why, i, begin, state, self.found[i])
        return Failure(why, begin, float(self.size[i]), component)


def _rows(value: float | np.ndarray, work: Work) -> np.ndarray:
    return np.broadcast_to(value, work.u0.shape)
