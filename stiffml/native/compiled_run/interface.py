"""The structures of ``samples.h``, for ctypes; the order of fields is the same there."""

from __future__ import annotations

import ctypes

from stiffml.errors import Status

_INT, _DOUBLE, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p

LEFT_TO_PYTHON = 6

REASONS = {
    1: Status.NON_FINITE,
    2: Status.STEP_TOO_SMALL,
    3: Status.NEWTON_FAILED,
    4: Status.LINEAR_FAILED,
    5: Status.MAX_STEPS,
}
"""Why a sample ended early, by ``enum reason``; 0 is the end of its times."""


class TableStruct(ctypes.Structure):
    """The rows of a one-step method."""

    _fields_ = (
        *((name, _INT) for name in ("rows", "columns", "has_error", "differences", "first_kept", "kept")),
        *((name, _POINTER) for name in ("alpha", "alpha_per_h", "beta", "beta_by_h")),
        *((name, _POINTER) for name in ("tau", "c", "weighted", "rosenbrock")),
    )


class BackwardsStruct(ctypes.Structure):
    """What the reverse sweep reads and writes besides."""

    _fields_ = (
        *((name, _POINTER) for name in ("pull", "bend")),
        ("parameters", _INT),
        *((name, _POINTER) for name in ("at", "times", "states", "stages", "cotangents", "wrt_p")),
    )


class TaskStruct(ctypes.Structure):
    """What the runs have to do, and where their results go."""

    _fields_ = (
        *((name, _POINTER) for name in ("values", "blocks", "push", "p")),
        *((name, _INT) for name in ("samples", "width", "direction")),
        ("mass", _POINTER),
        *((name, _INT) for name in ("bdf", "error_order")),
        ("table", TableStruct),
        ("explicit_first_stage", _INT),
        *((name, _DOUBLE) for name in ("growth", "most_growth")),
        ("growing", _INT),
        *((name, _DOUBLE) for name in ("safety", "newton_rtol", "left", "eps")),
        ("newton_atol", _POINTER),
        *((name, _INT) for name in ("max_iterations", "renews", "adaptive", "max_steps")),
        *((name, _DOUBLE) for name in ("rtol", "minimum", "maximum", "largest_factor")),
        *((name, _POINTER) for name in ("atol", "first", "start", "output", "end", "output_at", "end_at")),
        *((name, _POINTER) for name in ("steps", "passed", "reason", "output_step", "has_half")),
        *((name, _POINTER) for name in ("size", "half_time", "half", "found", "counts")),
    )
