"""Profile likelihoods: how the misfit grows as one number is moved and all others are fitted anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from stiffml.checks import number, whole
from stiffml.display import readable
from stiffml.training.lm.covariance import Covariance
from stiffml.training.lm.levenberg_marquardt import Iteration, TrialError

BEYOND = 1.5
"""A profile ends where it has risen to so many times what the interval asks for."""

FIRST, LONGER = 0.5, 1.5
"""The first step in standard errors; how much longer each next one is."""

ITERATIONS, TOLERANCE = 60, 1e-5
"""Of the fits of the other numbers."""


@readable
@dataclass(frozen=True)
class Profile:
    """What :meth:`stiffml.training.Result.profile` found.

    Attributes
    ----------
    name : str
    values : ndarray
        (k,) increasing, at which the number was held.
    rise : ndarray
        (k,) the least sum of squares with it held there, less that of the fit, in units of the variance:
        as χ² with one degree of freedom where the model is right; 0 at the fit.
    level : float
    interval : (float, float)
        Where the rise is that of the level, the square of Student's quantile; a bound of the number that
        comes before; infinite on a side on which neither was reached.
    lost : tuple of float
        Values at which no trajectory was found; the profile ends before.

    Examples
    --------
    >>> from stiffml.training import fit
    >>> noisy = exact + 0.01 * np.random.default_rng(0).standard_normal(exact.shape)
    >>> result = fit(Decay(), Runs([Run("a", times, noisy)], ["A"], noise=0.01, initial="known"))
    >>> profile = result.profile("k")
    >>> low, high = profile.interval
    >>> bool(low < 3 < high), bool(profile.rise.min() == 0)
    (True, True)
    """

    name: str
    values: np.ndarray
    rise: np.ndarray
    level: float
    interval: tuple[float, float]
    lost: tuple[float, ...]


@dataclass(frozen=True)
class Profiler:
    """What a profile needs of a fit: its problem, iteration, and best point."""

    problem: Any
    iteration: Iteration
    theta: np.ndarray
    point: Any
    covariance: Covariance
    write: Any

    def profile(self, name: str, level: float, points: int) -> Profile:
        """See :meth:`stiffml.training.Result.profile`."""
        level = number("level", level, above=0, below=1)
        points = whole("points", points)
        names = self.covariance.names
        if self.covariance.freedom <= 0:
            raise ValueError("profile: there are no more observations than numbers that they determine")
        if name not in names:
            raise ValueError(f"name: there is no {name!r}; known are {', '.join(names[:12])}")
        at = names.index(name)
        # As of the linearised intervals: where the model is linear both are the same.
        wanted = float(stdtrit(self.covariance.freedom, 0.5 + level / 2)) ** 2
        sides = [self._side(at, sign, wanted, points) for sign in (-1, 1)]
        self.write(self.theta)
        (below, _), (above, _) = sides
        values = [v for v, _ in reversed(below)] + [float(self.theta[at])] + [v for v, _ in above]
        rise = [r for _, r in reversed(below)] + [0.0] + [r for _, r in above]
        ends = [
            self._crossing(at, side, wanted, sign) for (side, _), sign in zip(sides, (-1, 1), strict=True)
        ]
        lost = tuple(value for _, values in sides for value in values)
        return Profile(name, np.array(values), np.array(rise), level, (ends[0], ends[1]), lost)

    def _side(
        self, at: int, sign: int, wanted: float, points: int
    ) -> tuple[list[tuple[float, float]], list[float]]:
        """(value, rise) outwards from the fit, and the value at which it was lost, if it was."""
        error = float(self.covariance.errors[at])
        size = abs(float(self.theta[at])) or 1.0
        step = sign * FIRST * (error if np.isfinite(error) and error > 0 else 0.1 * size)
        least = self._cost(self.theta, self.point)
        found: list[tuple[float, float]] = []
        theta, point, value = self.theta, self.point, float(self.theta[at])
        low, high = float(self.iteration.low[at]), float(self.iteration.high[at])
        for _ in range(points):
            value = min(max(value + step, low), high)
            held = theta.copy()
            held[at] = value
            try:
                theta, point, cost = self._fitted(held, at, point)
            except TrialError:
                return found, [value]
            found.append((value, max(0.0, 2 * (cost - least) / self.covariance.variance)))
            if found[-1][1] > BEYOND * wanted or value in (low, high):
                break
            step *= LONGER
        return found, []

    def _fitted(self, theta: np.ndarray, at: int, near: Any) -> tuple[np.ndarray, Any, float]:
        """The others fitted, with one number held where it is."""
        free = self.iteration
        low, high = free.low.copy(), free.high.copy()
        low[at] = high[at] = theta[at]
        held = Iteration(free.settings, free.centre, free.weight, low, high)
        state = held.begin(theta, self.problem.evaluate(theta, near))
        while not state.outcome and state.iteration < ITERATIONS:
            state = held.step(self.problem, state, TOLERANCE)
        return state.theta, state.point, state.cost

    def _cost(self, theta: np.ndarray, point: Any) -> float:
        return self.iteration.begin(theta, point).cost

    def _crossing(self, at: int, side: list[tuple[float, float]], wanted: float, sign: int) -> float:
        """Where the rise is the wanted one, whose root is nearly linear; a bound that comes before."""
        before, root = float(self.theta[at]), 0.0
        for value, rise in side:
            if rise >= wanted:
                part = (np.sqrt(wanted) - root) / (np.sqrt(rise) - root)
                return before + float(part) * (value - before)
            before, root = value, float(np.sqrt(rise))
        bound = float((self.iteration.low if sign < 0 else self.iteration.high)[at])
        return bound if before == bound else sign * float("inf")
