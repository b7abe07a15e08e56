"""Whether two products with the same Jacobian, found in different ways, differ by more than rounding."""

from __future__ import annotations

import numpy as np

ROUNDING = 100.0
"""The error that a product may have in every component, in units of rounding of its largest one."""


def beyond_rounding(difference: np.ndarray, size: np.ndarray, eps: float) -> np.ndarray:
    """(size,) how much of the difference of two products J v is more than rounding; positive where it is.

    ``size`` is |J| |v|, and ``eps`` the unit of rounding of the function. Each component counts by itself: a
    single large one must not hide that others are wrong.
    """
    return difference - np.sqrt(eps) * size - ROUNDING * eps * size.max(initial=0.0)
