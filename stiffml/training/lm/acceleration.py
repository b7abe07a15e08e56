"""The second-order part of a damped step: geodesic acceleration.

Where residuals bend, a step δ leads away from the narrow valley in which the cost is low, and the damping
keeps steps short. With the second derivative r'' of the residuals along δ, the correction a solves

    min |K a + ½ r''|² + λ |D a|²

with the factors that the step has left, and δ + a follows the valley. r'' costs one further evaluation of
the residuals, a short way along the step. Where the correction is long beside the step, neither says much,
and the step is left as it is.

Source: M. K. Transtrum & J. P. Sethna, Improvements to the Levenberg-Marquardt algorithm for nonlinear
least-squares minimization, arXiv 1201.5885 (2012), section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stiffml.training.lm.damped import Tall, Wide

PROBE = 0.05
"""Where the second derivative is found, as a part of the step."""

BENT = 0.25
"""A step whose gain is off what was expected by more than this fraction says that residuals bend."""


def is_bent(gained: float, expected: float) -> bool:
    """Whether a step of a linearisation has shown that residuals bend."""
    return abs(gained - expected) > BENT * expected


def corrected(
    problem: Any,
    point: Any,
    theta: np.ndarray,
    trial: np.ndarray,
    size: np.ndarray,
    system: Tall | Wide,
    damping: float,
    longest: float,
) -> np.ndarray:
    """A trial (size,) with the second-order correction of its step, unless that is too long.

    Parameters
    ----------
    problem : Problem
    point : Point
        At ``theta``.
    theta, trial : ndarray
        (size,) from where to where the step leads.
    size : ndarray
        (m,) the factors of the rows of the Jacobian, of the loss.
    system : Tall or Wide
        Of ``point``.
    damping : float
        That of the step.
    longest : float
        The longest correction, 2 |D a| / |D δ|.

    Raises
    ------
    TrialError
        If there are no residuals on the way.
    """
    way = PROBE * (trial - theta)
    near = problem.evaluate(theta + way, point)
    bend = near.residuals - point.residuals - point.jacobian() @ way
    found = system.answer(damping, size * bend / PROBE**2)
    is_short = 2 * system.length(found) <= longest * system.length(trial - theta)
    return trial + found if is_short else trial
