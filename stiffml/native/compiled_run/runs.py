"""Runs in C: the arrays that it reads and writes, and the calls."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from stiffml.compiled.address import address
from stiffml.native.compiled_run.library import library
from stiffml.native.compiled_run.task import Arrays
from stiffml.native.compiled_run.terms import Terms

INTERRUPTIBLE = 0.05
"""Seconds after which C comes back to Python, which then notices interrupts."""


class Runs:
    """The runs of all samples, each by itself, on as many threads as torch uses.

    Parameters
    ----------
    terms : Terms
    p : ndarray
        (parameters,) the numbers that the function reads.
    u0 : ndarray
        (samples, width)
    first : ndarray or None
        (samples,) the sizes of the first adaptive steps.

    Attributes
    ----------
    steps, passed, reason, has_half : ndarray
        (samples,) the steps taken, the outputs reached, how each run ended, whether BDF took a half step.
    size, half_time : ndarray
        (samples,) the size of the step that would come next, and the time of the half step.
    half, found : ndarray
        (samples, width) the half step, and what a failure is told from.
    output_step : ndarray
        For all outputs, after how many steps each was reached.
    counts : ndarray
        (5,) rejected steps, iterations, values and Jacobians of f, and those with differences in them.
    times, states, stages : ndarray
        Of all steps, sample after sample, each from its start; stages None if the method has none to keep.
    """

    def __init__(self, terms: Terms, p: np.ndarray, u0: np.ndarray, first: np.ndarray | None) -> None:
        samples, width = terms.samples, terms.width
        arrays, struct = Arrays(), terms.struct()
        whole, numbers = np.zeros((4, samples), dtype=np.int64), np.zeros((2, samples))
        states = np.zeros((2, samples, width))
        self.steps, self.passed, self.reason, self.has_half = whole
        self.size, self.half_time = numbers
        self.half, self.found = states
        self.output_step = np.zeros(terms.output_at[-1], dtype=np.int64)
        self.counts = np.zeros(5, dtype=np.int64)
        struct.p, struct.start = arrays.numbers(p), arrays.numbers(u0)
        if first is not None:
            struct.first = arrays.numbers(first)
        struct.steps, struct.passed, struct.reason, struct.has_half = arrays.rows(whole)
        struct.size, struct.half_time = arrays.rows(numbers)
        struct.half, struct.found = arrays.rows(states)
        struct.output_step, struct.counts = arrays.kept(self.output_step), arrays.kept(self.counts)
        self._run(struct, samples, width)

    def _run(self, struct: Any, samples: int, width: int) -> None:
        library_: Any = library()
        batch = library_.stiffml_samples_begin(
            ctypes.byref(struct), 1 if samples == 1 else min(torch.get_num_threads(), samples)
        )
        if batch is None:
            raise MemoryError("no memory for runs in C")
        try:
            while library_.stiffml_samples_go(batch, INTERRUPTIBLE):
                pass
            count, kept = int(self.steps.sum()) + samples, struct.table.kept
            self.times, self.states = np.empty(count), np.empty((count, width))
            self.stages = np.empty((count, kept, width)) if kept else None
            library_.stiffml_samples_collect(
                batch,
                address(self.times),
                address(self.states),
                None if self.stages is None else address(self.stages),
            )
        finally:
            library_.stiffml_samples_end(batch)
