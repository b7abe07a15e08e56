"""Whether the numbers of an array are finite, and where they are not."""

from __future__ import annotations

import math

import numpy as np


def is_finite(values: np.ndarray) -> bool:
    """Whether all numbers are finite. A product with itself tells it faster, unless it overflows."""
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def first_not_finite(values: np.ndarray) -> int | None:
    """The first flat position that is not finite; None where all are."""
    return None if is_finite(values) else int(np.argmin(np.isfinite(values)))
