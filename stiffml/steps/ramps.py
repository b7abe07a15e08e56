"""Starting ramps: the steps of multistep methods where they would grow too fast."""

from __future__ import annotations

import math

import numpy as np

from stiffml.steps.kinds import Fractions

GROWTH = 1.2
"""Largest ratio of two consecutive steps of a ramp."""


def with_ramps(
    fractions: Fractions, times: np.ndarray, starting_order: int, growth: float = GROWTH, jump: float = 10
) -> Fractions:
    """Refine the steps of a multistep run where they would grow too fast.

    PETSc's BDF starts with a half step of backward Euler, whose error of O(h²) remains. With N steps asked
    for and ``starting_order`` k > 0, the first step is made 2·N^(k/2−1) times shorter, O(h^(k/2)) for equal
    steps, so that this error is O(h^k). Steps then grow by ``GROWTH``, or by ``growth`` if that is less,
    until they are as long as those asked for. Where a step would be more than ``jump`` times longer than the
    one before, as after outputs that lie close together, they grow by ``growth``.
    """
    asked = sum(len(ends) for ends in fractions)
    first = fractions[0][0] * (times[1] - times[0])
    allowed = first * asked ** (1 - starting_order / 2) / 2 if starting_order else np.inf
    # A step must be longer than the rounding of time.
    allowed = max(allowed, min(first, 64 * np.spacing(np.abs(times[:2]).max())))
    refined = []
    previous, factor = np.inf, min(GROWTH, growth)
    for ends, length in zip(fractions, np.diff(times), strict=True):
        count, size = len(ends), ends[0] * length
        if size > jump * previous:
            factor = min(factor, growth)
            allowed = min(allowed, factor * previous)
        # A ramp must fill each interval exactly, and could stay at one step more than asked for in all that
        # follow. It may therefore end with one larger ratio.
        enough = size * min(1.0, 1.1 * count / (count + 1))
        if allowed >= enough:
            allowed = np.inf
            refined.append(ends)
            previous = size
            continue
        growing = math.ceil(math.log(size / allowed, factor)) + 1
        powers = np.minimum(np.arange(count + growing), growing)
        sizes = np.minimum(allowed * factor**powers, size)
        sizes = sizes[: np.searchsorted(np.cumsum(sizes), length) + 1]
        sizes *= length / sizes.sum()
        previous = sizes[-1]
        allowed = factor * previous
        new = np.cumsum(sizes) / length
        new[-1] = 1.0
        refined.append(new)
    return tuple(refined)
