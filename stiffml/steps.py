"""Which time steps a solve takes.

Steps known beforehand (:class:`Fixed`, :class:`Grid`, :class:`Recorded`) are given as fractions of the
output interval they lie in, so that moving an output time stretches the steps around it: this is what
makes the gradient with respect to the output times well defined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Fractions = tuple[np.ndarray, ...]
"""For each output interval, the ends of its steps as increasing fractions in (0, 1], the last one 1."""


@dataclass(frozen=True)
class Adaptive:
    """Steps chosen by the method's error estimate, ending exactly on every output time.

    Of outputs closer than 1e-9 of their size and of the whole span only the last is one; the others are
    interpolated. This holds for all kinds of steps.

    Parameters
    ----------
    initial : float, optional
        First step size to try; by default from the size of the function and its first difference
        (Hairer, Nørsett & Wanner, Solving ODEs I, section II.4). Either is raised to 256 spacings of
        double precision numbers at the time where the steps begin, below which time does not resolve it.
    minimum, maximum : float, optional
        Bounds on the step size. A solve that needs less than ``minimum`` fails.
    max_steps : int
        Accepted steps after which the solve fails. Default 100 000.
    stop_if_stiff : bool
        Whether an explicit method stops with advice where only the stability of fast modes keeps its steps
        short (Hairer & Wanner, Solving ODEs II, section IV.2) and more than 10 000 of them are to come.
        Default True; False goes on to ``max_steps``. Implicit methods take no notice.
    """

    initial: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    max_steps: int = 100_000
    stop_if_stiff: bool = True

    def __post_init__(self) -> None:
        for name in ("initial", "minimum", "maximum"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Adaptive: {name} must be positive and finite, not {value}")
        if self.max_steps < 1:
            raise ValueError(f"Adaptive: max_steps must be at least 1, not {self.max_steps}")
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and low > high:
            raise ValueError(f"Adaptive: minimum {low} is above maximum {high}")


@dataclass(frozen=True)
class Fixed:
    """Equal steps of at most ``h`` in every output interval: as few as keep them no longer than ``h``."""

    h: float

    def __post_init__(self) -> None:
        if not 0 < self.h < math.inf:
            raise ValueError(f"Fixed: h must be positive and finite, not {self.h}")

    def fractions(self, times: np.ndarray) -> Fractions:
        # A hair above 1 keeps an interval of 10 h at 10 steps in spite of rounding.
        counts = np.maximum(1, np.ceil(np.diff(times) / (self.h * (1 + 1e-9)))).astype(int)
        return tuple(np.arange(1, n + 1) / n for n in counts)


@dataclass(frozen=True)
class Grid:
    """Exactly ``substeps`` equal steps in every output interval."""

    substeps: int = 1

    def __post_init__(self) -> None:
        if self.substeps < 1 or self.substeps != int(self.substeps):
            raise ValueError(f"Grid: substeps must be a positive integer, not {self.substeps}")

    def fractions(self, times: np.ndarray) -> Fractions:
        ends = np.arange(1, self.substeps + 1) / self.substeps
        return (ends,) * (len(times) - 1)


@dataclass(frozen=True)
class Recorded:
    """The very steps of an earlier solve, as ``Solution.steps`` holds them.

    Serves to differentiate or repeat an adaptive run with its steps held fixed.
    """

    ends: Fractions

    def fractions(self, times: np.ndarray) -> Fractions:
        if len(self.ends) != len(times) - 1:
            raise ValueError(
                f"steps: Recorded holds {len(self.ends)} output intervals, but t has {len(times) - 1}"
            )
        return self.ends


Steps = Adaptive | Fixed | Grid | Recorded


RESOLVED = 256
"""Spacings of numbers at a time by which a step from there is resolved well enough to begin with."""

CLOSE = 1e-9
"""How far apart, relative to their size or to the whole span, times must lie for a step between them.

Shorter steps amplify the rounding of states: a multistep formula divides differences of states by them, and
so do derivatives with respect to times.
"""


def ends_of_steps(times: np.ndarray, interpolated: bool) -> np.ndarray:
    """(n,) bool: on which outputs steps end; the others are interpolated.

    On the first and the last, and unless ``interpolated`` is asked for, on all that are not :data:`CLOSE` to
    the next one or to the first.
    """
    ends = np.zeros(len(times), dtype=bool)
    if not interpolated:
        sizes = np.maximum(np.abs(times[1:]), np.abs(times[:-1]))
        apart = np.abs(np.diff(times)) > CLOSE * np.minimum(sizes, abs(times[-1] - times[0]))
        ends[1:-1] = np.logical_or.accumulate(apart)[:-1] & apart[1:]
    ends[[0, -1]] = True
    return ends


GROWTH = 1.2
"""How many times longer than the one before a step of a ramp may be."""


def with_ramps(
    fractions: Fractions, times: np.ndarray, starting_order: int, growth: float = GROWTH, jump: float = 10
) -> Fractions:
    """Refine the steps of a multistep run where they would grow too fast.

    PETSc's BDF starts with a half step of backward Euler, which leaves an error of O(h²) for good. With
    N steps asked for and ``starting_order`` k > 0, the first becomes 2·N^(k/2−1) times shorter (so
    O(h^(k/2)) for equal steps), which makes that error O(h^k). Steps then grow by ``GROWTH``, or by
    ``growth`` if that is less, until they are as long as those asked for. After outputs that lie close
    together, where a step would be more than ``jump`` times longer than the one before, they grow by
    ``growth``, for as long as that takes.
    """
    asked = sum(len(ends) for ends in fractions)
    first = fractions[0][0] * (times[1] - times[0])
    allowed = first * asked ** (1 - starting_order / 2) / 2 if starting_order else np.inf
    refined = []
    previous, factor = np.inf, min(GROWTH, growth)
    for ends, length in zip(fractions, np.diff(times), strict=True):
        count, size = len(ends), ends[0] * length
        if size > jump * previous:
            factor = min(factor, growth)
            allowed = min(allowed, factor * previous)
        # Growing steps that must fill an interval exactly can get stuck at one step more than asked for;
        # the ramp then ends with one larger jump.
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
