"""The reverse sweeps of samples in C, each over the steps of its own, on threads."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.trajectory import Trajectories, Trajectory
from stiffml.methods import Method
from stiffml.native.compiled_run.interface import BackwardsStruct, TaskStruct
from stiffml.native.compiled_run.library import library
from stiffml.native.compiled_run.qualifying import obstacle_of
from stiffml.native.compiled_run.runs import INTERRUPTIBLE
from stiffml.native.compiled_run.task import Arrays, task_of
from stiffml.system.finite import is_finite
from stiffml.system.system import System

NUMBERS = 4_000_000
"""Most float64 values of gradients by parameters that samples have at once (32 MB)."""


class Reversed(NamedTuple):
    """Gradients: (samples, width) by the initial states, and by each parameter, None where f has none."""

    u0: np.ndarray
    parameters: list[Tensor | None]


def reversed_in_c(
    trajectories: Trajectory | Trajectories,
    method: Method,
    system: System,
    states: np.ndarray,
    stages: np.ndarray | None,
    columns: np.ndarray | None,
    cotangents: np.ndarray,
) -> Reversed | None:
    """The gradients of several samples by the reverse sweep; None if only Python has them.

    Parameters
    ----------
    trajectories, method, system
        Of a run; the system is that of one sample.
    states : ndarray
        (states, width) of all samples, one after the other.
    stages : ndarray or None
        (states, stages, width) of the steps from these states, if they were kept.
    columns : ndarray or None
        (states, columns, width) all columns of these steps, if these were kept.
    cotangents : ndarray
        (states, width) dL/du of states that are outputs; overwritten.
    """
    from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics  # imports casadi

    if obstacle_of(system, method, False) or system.mass_has_gradient:
        return None
    f = system.f
    assert isinstance(f, CompiledDynamics)
    places = f.places
    if places is None or not f.compiled.may("pull") or (method.time_is_state and not f.compiled.may("bend")):
        return None
    if stages is None and method.kept_stages(system.form):
        return None  # Newton's iteration finds them again
    kept = "columns" if columns is not None else "none" if stages is None else "stages"
    stages = stages if columns is None else columns
    parts = trajectories.parts if isinstance(trajectories, Trajectories) else (trajectories,)
    parameters = len(f.compiled.p)
    starts = np.array([*trajectories.starts, len(states)], dtype=np.int64)
    total, counts = np.zeros(parameters), np.zeros(5, dtype=np.int64)
    most = max(1, NUMBERS // max(parameters, 1))
    for first in range(0, len(parts), most):
        last = min(first + most, len(parts))
        arrays, wrt_p = Arrays(), np.zeros((last - first, parameters))
        struct = task_of(arrays, system, method, last - first, False, kept)
        struct.p = arrays.numbers(f.compiled.p)
        half_times, half_states = np.zeros(last - first), np.zeros((last - first, states.shape[1]))
        for i, part in enumerate(parts[first:last]):
            if part.half is not None:
                half_times[i], half_states[i] = part.half
        struct.half_time, struct.half = arrays.kept(half_times), arrays.kept(half_states)
        struct.counts = arrays.kept(counts)
        back = BackwardsStruct(
            pull=f.compiled.code.loop("pull"),
            bend=f.compiled.code.loop("bend") if method.time_is_state else None,
            parameters=parameters,
            at=arrays.kept(starts[first : last + 1]),
            times=arrays.numbers(trajectories.times),
            states=arrays.numbers(states),
            stages=None if stages is None else arrays.numbers(stages),
            cotangents=arrays.kept(cotangents),
            wrt_p=arrays.kept(wrt_p),
        )
        if not _reversed(struct, back, 1 if len(parts) == 1 else min(torch.get_num_threads(), last - first)):
            return None
        total += wrt_p.sum(axis=0)
    u0 = cotangents[starts[:-1]]
    if not (is_finite(u0) and is_finite(total)):
        return None  # Python says where it comes from
    f.stepped(int(counts[2]), int(counts[3]), float(trajectories.times[-1]), states[-1])
    grads: list[Tensor | None] = [
        None if place is None else _shaped(total[place], parameter)
        for parameter, place in zip(f.parameters, places, strict=True)
    ]
    return Reversed(u0, grads)


def _shaped(values: np.ndarray, like: Tensor) -> Tensor:
    """Numbers as a tensor; shaped by numpy, which is faster at it."""
    found = torch.from_numpy(values.reshape(like.shape))
    return found if like.dtype == found.dtype and like.is_cpu else found.to(like)


def _reversed(struct: TaskStruct, back: BackwardsStruct, threads: int) -> bool:
    """Reverse the samples of a task; whether C could. Python notices interrupts every now and then."""
    found: Any = library()
    reversal = found.stiffml_reversal_begin(ctypes.byref(struct), ctypes.byref(back), threads)
    if reversal is None:
        return False
    try:
        while (state := found.stiffml_reversal_go(reversal, INTERRUPTIBLE)) > 0:
            pass
    finally:
        found.stiffml_reversal_end(reversal)
    return bool(state == 0)
