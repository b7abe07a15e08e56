"""The arithmetic of an explicit Runge-Kutta step, which is the same when a step is taken again."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stiffml.methods.base import ABSCISSA_ROUNDING
from stiffml.methods.rk import RungeKutta
from stiffml.system.derivatives.dynamics import Dynamics


class ExplicitStep:
    """How the stages of a step, and its new state, follow from slopes.

    Attributes
    ----------
    c : list of float
        The abscissae.
    weights : ndarray
        (stages,) b.
    last_is_new : bool
        Whether the last stage is the new state itself.
    inner : int
        The number of stages whose slopes make the new state.
    """

    def __init__(self, method: RungeKutta) -> None:
        explicit = method.tableau.explicit
        assert explicit is not None
        self.c = [1.0 if abs(c - 1) <= ABSCISSA_ROUNDING else c for c in explicit.c.tolist()]
        self.weights, self.last_is_new = explicit.b, explicit.stiffly_accurate
        self.inner = explicit.stages - int(self.last_is_new)
        self._rows = [explicit.a[i, :i] for i in range(explicit.stages)]

    def stage(self, i: int, u: np.ndarray, size: float, slopes: np.ndarray) -> np.ndarray:
        """Stage i of a step from ``u`` (size,), from the slopes (stages, size) of those before."""
        return _advanced(u, size, self._rows[i], slopes[:i])

    def end(self, u: np.ndarray, size: float, slopes: np.ndarray) -> np.ndarray:
        """The new state, from the slopes of the inner stages."""
        return _advanced(u, size, self.weights[: self.inner], slopes[: self.inner])

    def again(self, f: Dynamics, s: float, u: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
        """The inner stages after the first (stages, size) and the new state (size,) of a step from ``u``."""
        slopes, stages = np.empty((self.inner, u.size)), np.empty((self.inner - 1, u.size))
        with np.errstate(over="ignore", invalid="ignore"):
            for i in range(self.inner):
                if i:
                    stages[i - 1] = self.stage(i, u, size, slopes)
                slopes[i] = f.evaluate_once(s + self.c[i] * size, stages[i - 1] if i else u)
            return stages, self.end(u, size, slopes)


@lru_cache(maxsize=16)
def explicit_step(method: RungeKutta) -> ExplicitStep:
    """That of a method."""
    return ExplicitStep(method)


def _advanced(u: np.ndarray, size: float, weights: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """u + size Σ weights slopes, with one new vector: memory for a large one costs more than its sum."""
    new = (size * weights) @ slopes
    new += u
    return new
