"""When Newton's iteration on many steps has converged or failed, and when its solution is checked."""

from __future__ import annotations

import math

import numpy as np

MAX_ITERATIONS = 15
"""Largest number of iterations: beyond it, solving the steps one by one is faster."""

DIVERGENCE = 1e4
"""The iteration has failed if an update is this many times larger than the previous one."""

CLEAN = 0.5
"""From a good guess each update is less than this fraction of the previous one."""

NEAR, FEW_ITERATES = 0.1, 4
"""An iterate is near a solution at this fraction of the initial distance; how many iterates are tried."""

ROUNDING_LEVEL = 1e-13
"""Updates below this fraction of the largest component of a vector count as rounding error if they stall."""


def relative_size(change: np.ndarray, state: np.ndarray, scale: np.ndarray) -> float:
    """The largest of changes (n, size), relative to the components of the states and to their ``scale``."""
    relative = change / (np.abs(state) + 0.01 * scale + 1e-250)
    return math.sqrt(float(np.einsum("ij,ij->i", relative, relative).max()) / relative.shape[1])


class StepsNotConvergedError(Exception):
    """The iteration did not converge within ``iterations`` iterations."""

    def __init__(self, iterations: int) -> None:
        super().__init__(f"no convergence after {iterations} iterations")
        self.iterations = iterations
