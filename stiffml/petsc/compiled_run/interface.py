"""The structures of ``course.h``, for ctypes; the order of fields is the same there."""

from __future__ import annotations

import ctypes

import numpy as np

from stiffml.compiled.address import address

_INT, _DOUBLE, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p

ARRIVED, ON_THE_WAY, AT_STEP_LIMIT, GIVEN_UP = range(4)
"""How a call of ``stiffml_go`` ended."""


class FunctionStruct(ctypes.Structure):
    """A compiled function, or one that Python is asked for."""

    _fields_ = (
        *((name, _POINTER) for name in ("values", "blocks", "push", "p")),
        ("samples", _INT),
        ("python", ctypes.py_object),
        *((name, _POINTER) for name in ("call", "release", "time", "what")),
        *((name, _POINTER) for name in ("asked", "slope", "jacobian", "by_time")),
    )


class TaskStruct(ctypes.Structure):
    """What a run has to do."""

    _fields_ = (
        ("f", FunctionStruct),
        ("g", FunctionStruct),
        *((name, _INT) for name in ("samples", "width", "time_is_state", "direction")),
        *((name, _DOUBLE) for name in ("begin", "end", "rounding")),
        ("degree", _INT),
        ("mass", _POINTER),
        *((name, _INT) for name in ("masses", "mass_is_diagonal")),
        *((name, _INT) for name in ("implicit", "newton", "explicit_first_stage", "half_step")),
        *((name, _INT) for name in ("both_at_once", "looks_ahead", "guards", "first_kept", "kept")),
        *((name, _DOUBLE) for name in ("growth", "most_growth")),
        ("growing", _INT),
        ("watched", _INT),
        *((name, _POINTER) for name in ("combination", "atol")),
        *((name, _DOUBLE) for name in ("stability", "rtol", "newton_rtol", "eps")),
        *((name, _POINTER) for name in ("newton_atol", "signs")),
        *((name, _INT) for name in ("max_iterations", "keeps")),
        *((name, _DOUBLE) for name in ("start", "first", "minimum")),
        *((name, _INT) for name in ("max_steps", "max_cuts", "outputs", "adaptive")),
        *((name, _POINTER) for name in ("output", "end_of", "ends")),
    )


class TakenStruct(ctypes.Structure):
    """What it has done so far."""

    _fields_ = (
        *((name, _INT) for name in ("steps", "reached", "has_half")),
        *((name, _INT) for name in ("rejected", "newton_iterations", "krylov_iterations")),
        *((name, _INT) for name in ("rhs_evals", "g_evals", "jacobians")),
        *((name, _DOUBLE) for name in ("wanted", "half_time")),
        *((name, _POINTER) for name in ("ends", "sizes", "states", "stages", "half", "output_steps")),
        ("why", ctypes.c_char_p),
    )


def copied(pointer: int | None, *shape: int, dtype: type = np.float64) -> np.ndarray:
    """A copy of numbers in C."""
    found: np.ndarray = np.empty(shape, dtype=dtype)
    if found.nbytes:
        assert pointer is not None
        ctypes.memmove(address(found), pointer, found.nbytes)
    return found
