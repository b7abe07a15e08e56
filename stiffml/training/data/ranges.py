"""Ranges of observations, in whose units errors are told."""

from __future__ import annotations

import numpy as np

CONSTANT = 1e-10
"""Of the largest value: a range below that is rounding."""


def ranges_of(values: np.ndarray) -> np.ndarray:
    """(components,) ranges of observations (…, components), NaN where there are none; all are positive.

    Of a component that does not change, but for rounding, its largest value; 1 where it is 0 or not observed.
    Nitrogen in a flame is 0.745 to the last digit, and one of its digits is no unit of errors.
    """
    rows = values.reshape(-1, values.shape[-1])
    found = np.ones(rows.shape[1])
    for c, column in enumerate(rows.T):
        seen = column[~np.isnan(column)]
        if not seen.size:
            continue
        span, largest = float(np.ptp(seen)), float(np.abs(seen).max())
        if span > CONSTANT * largest:
            found[c] = span
        elif largest > 0:
            found[c] = largest
    return found


def largest_of(values: np.ndarray) -> np.ndarray:
    """(components,) largest magnitudes of observations (…, components), NaN where there are none.

    1 where that is 0, or nothing was observed.
    """
    found = np.nan_to_num(np.abs(values)).reshape(-1, values.shape[-1]).max(axis=0)
    return np.where(found > 0, found, 1.0)
