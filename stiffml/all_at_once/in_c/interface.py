"""The structures of ``rows.h``, for ctypes; the order of fields is the same there."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np

from stiffml.compiled.address import address

_INT, _DOUBLE, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p

CONVERGED, NOT_CONVERGED, NO_MEMORY = range(3)
"""How a call of ``stiffml_solve`` ended."""


class PartStruct(ctypes.Structure):
    """f or g."""

    _fields_ = (
        ("blocks", _POINTER),
        ("p", _POINTER),
        ("samples", _INT),
        ("direction", _DOUBLE),
        ("nodes", _INT),
        *((name, _POINTER) for name in ("at", "node", "t", "values", "jacobians")),
    )


class SystemStruct(ctypes.Structure):
    """The equations, with what is known of them."""

    _fields_ = (
        *((name, _INT) for name in ("given", "unknowns", "samples", "width")),
        *((name, _POINTER) for name in ("starts", "column", "alpha", "beta", "epsilon", "weighted", "mass")),
        ("masses", _INT),
        ("f", PartStruct),
        ("g", PartStruct),
        ("lu", _POINTER),
        ("pivots", _POINTER),
    )


class NewtonStruct(ctypes.Structure):
    """The limits of Newton's iteration, and what it has found."""

    _fields_ = (
        ("rtol", _DOUBLE),
        *((name, _POINTER) for name in ("atol", "scale", "tested")),
        *((name, _INT) for name in ("trusted", "max_iterations")),
        *((name, _DOUBLE) for name in ("divergence", "clean", "near")),
        ("few", _INT),
        ("rounding", _DOUBLE),
        ("solved", _INT),
        *((name, _POINTER) for name in ("row", "before")),
        *((name, _INT) for name in ("iterations", "evaluated_beside")),
        ("change", _DOUBLE),
    )


def room(shapes: Sequence[tuple[int, ...]]) -> tuple[list[np.ndarray], list[int]]:
    """Arrays of zeros in one piece of memory, and their addresses."""
    sizes = [math.prod(shape) for shape in shapes]
    whole = np.zeros(sum(sizes))
    arrays, places, at, place = [], [], 0, address(whole)
    for shape, size in zip(shapes, sizes, strict=True):
        arrays.append(whole[at : at + size].reshape(shape))
        places.append(place + at * whole.itemsize)
        at += size
    return arrays, places
