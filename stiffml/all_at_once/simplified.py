"""Newton's simplified iteration: from the solution of an earlier solve, with its factors.

From one iteration of a training to the next parameters change by little, and Jacobians too. With those of the
solve before the iteration converges linearly, at the cost of values of f alone; with its own it converges
quadratically. So the first digits come from here. (Hairer & Wanner, Solving ODEs II, section IV.8.)
"""

from __future__ import annotations

import math

import numpy as np

from stiffml.all_at_once.factored import Factored
from stiffml.all_at_once.judgement import CLEAN, relative_size
from stiffml.all_at_once.newton import ManySteps

FINE, MOST = 1e-4, 4
"""The last update, relative to the components, after which Newton's own makes the rest; most iterations.

Two Jacobians follow then, of which the last is at the solution, where the reverse sweep needs it too.
"""


def approached(
    equations: ManySteps, x: np.ndarray, before: np.ndarray, factored: Factored, scale: np.ndarray
) -> tuple[np.ndarray, int]:
    """Vectors (count, size) nearer to the solution, and the number of iterations.

    Parameters
    ----------
    equations : ManySteps
    x : ndarray
        (count, size) the initial guess. It is what is returned if the iteration does not converge.
    before : ndarray
        (count, size) the vectors of the solution before, of which the given ones do not count.
    factored : Factored
        The equations there.
    scale : ndarray
        (unknowns, size) the sizes of the components.
    """
    given, last = len(x) - len(scale), math.inf
    found = np.concatenate([x[:given], before[given:]])
    for iteration in range(1, MOST + 1):
        try:
            update = equations.correction(found, factored)
        except Exception:
            # func may raise far from the solution. If it raises near it, so it does for Newton's iteration.
            return x, iteration
        moved = found.copy()
        moved[given:] -= update
        size = relative_size(update, moved[given:], scale)
        if not size < CLEAN * last:  # also if it is NaN
            return (found if iteration > 2 else x), iteration
        found, last = moved, size
        if size <= FINE:
            break
    return found, iteration
