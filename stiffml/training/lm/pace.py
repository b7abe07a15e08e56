"""Whether an attempt will reach its target in time, by the pace of its error so far.

An attempt may be caught between a bad minimum and weights for which nothing can be solved. It creeps on for
as long as it is let, while others, from other weights, would be there. So attempts are looked at now and
then: the error is continued at the pace, in its logarithm, of the later half of the iterations. Errors fall
ever more slowly as a rule, so that this gives up too few attempts rather than too many.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST, EVERY = 50, 25
"""The iteration at which an attempt is looked at first, and after how many it is again."""


def projected(errors: Sequence[float], iterations: int) -> float:
    """The error after so many iterations.

    Parameters
    ----------
    errors : sequence of float
        (n + 1,), at the beginning and after each iteration.
    iterations : int
        At least n.

    Returns
    -------
    float
        0 if there is no later half, or nothing is left of the error.

    Examples
    --------
    >>> from stiffml.training.lm.pace import projected
    >>> projected([1.0, 0.5, 0.1, 0.1, 0.01], 6)  # by a factor of 10 in the last two iterations
    0.001
    """
    n = len(errors) - 1
    half = n // 2
    if half == 0 or errors[half] <= 0:
        return 0.0
    return float(errors[n] * (errors[n] / errors[half]) ** ((iterations - n) / (n - half)))


def too_slow(errors: Sequence[float], target: float, iterations: int) -> bool:
    """Whether it is the time to look at an attempt, and it will miss the target at its pace."""
    n = len(errors) - 1
    return n >= FIRST and n % EVERY == 0 and projected(errors, iterations) > target
