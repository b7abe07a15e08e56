"""The size of the first adaptive step of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from stiffml.methods import Method
from stiffml.settings import Tolerances
from stiffml.steps import RESOLVED
from stiffml.system.finite import is_finite
from stiffml.system.system import System


def shortest_first(s: float) -> float:
    """The smallest first step from time ``s``.

    It spans many spacings of floating-point time, and dividing by it does not overflow.
    """
    return max(RESOLVED * float(np.spacing(abs(s))), 1e-290)


def initial_size(
    system: System,
    method: Method,
    tolerances: Tolerances,
    s0: float,
    last: float,
    u0: np.ndarray,
    f0: np.ndarray,
) -> float:
    """The size of the first adaptive step of a run from ``s0`` to ``last``.

    ``u0`` (size,) is the initial state, ``f0`` (size,) the slope du/ds there.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, "Starting step size".
    """
    weights = tolerances.atol + tolerances.rtol * np.abs(u0)
    space = system.space
    count = space.sum(u0.size)

    def norm(v: np.ndarray) -> float:
        scaled = v / weights
        return math.sqrt(space.sum(float(np.vdot(scaled, scaled))) / count)

    d0, d1 = norm(u0), norm(f0)
    span = last - s0
    # A state below its tolerance counts as zero, such as one left at the root of an event by an earlier run.
    h0 = 1e-6 if d0 < 1 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(max(h0, shortest_first(s0)), span)
    f1 = system.derivative(s0 + h0, u0 + h0 * f0)
    d2 = norm(f1 - f0) / h0 if space.every(is_finite(f1)) else 0.0
    # PETSc's implicit methods begin with a step of order 1 or without an error estimate.
    order = 1 if method.implicit else method.order
    largest = max(d1, d2)
    h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / (order + 1))
    return min(100 * h0, h1, span)


def blur(
    s: float, u: np.ndarray, slope: np.ndarray, tolerances: Tolerances, every: Callable[[bool], bool]
) -> tuple[np.ndarray, bool, bool]:
    """How much the state ``u`` (size,) changes within one spacing of floating-point time at ``s``.

    Returns the change (size,), whether it exceeds the tolerance, and whether it does so by little enough to
    be added to atol. ``every``: whether something holds in all processes.
    """
    change = float(np.spacing(abs(s))) * np.abs(slope)
    size = np.abs(u)
    wanted = tolerances.atol + tolerances.rtol * size
    exceeds = not every(bool((change <= wanted).all()))
    return change, exceeds, exceeds and every(bool((change <= wanted + 0.01 * size).all()))
