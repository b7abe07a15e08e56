"""Whether Jacobians explain how f changes from one state to another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MISFIT = 1e-3
"""A Jacobian explains the changes of f but for this fraction. If not, the trials of func are repeated."""

NOISE = 100.0
"""The rounding of a change of f, in units of that of the terms of f."""


class At(NamedTuple):
    """States, f and its Jacobians there: (…, size), (…, size), (…, samples, width, width)."""

    u: np.ndarray
    slope: np.ndarray
    blocks: np.ndarray


def is_explained(before: At, after: At, eps: float) -> bool | None:
    """Whether the Jacobians explain the change of f; None if they cannot be seen to.

    The change is compared with that by the mean of both Jacobians, whose error is of third order. Each
    component of the samples counts by itself, over all states and samples. ``eps``: the rounding of f.
    """
    shape = (*after.blocks.shape[:-1], 1)
    moved, change = (after.u - before.u).reshape(shape), (after.slope - before.slope).reshape(shape)
    sizes = np.abs(after.blocks)
    noise = NOISE * eps * (sizes @ np.abs(after.u).reshape(shape) + np.abs(after.slope).reshape(shape))
    off = (0.5 * (after.blocks + before.blocks)) @ moved - change
    axes = tuple(range(1, len(shape) - 1))
    parts = np.stack([off, sizes @ np.abs(moved), noise, change])
    off, size, noise, change = np.sqrt((parts**2).mean(axis=axes))
    if not (off <= MISFIT * size + noise).all():
        return False
    return True if (np.maximum(size, change) > 10 * noise).any() else None
