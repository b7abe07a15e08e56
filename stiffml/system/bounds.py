"""Bounds on the state, and whether a step may end at a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described
from stiffml.settings import Tolerances
from stiffml.system.state import Layout, State
from stiffml.system.system import System

ROUNDING = 16 * float(np.finfo(float).eps)
"""The excess, relative to the largest component of the state, that counts as rounding."""

MANY, FEW = 10, 3
"""The number of cuts of one step that ends outside by less than the tolerance: if func leads further out, and
if it leads back inside."""


class Bounds:
    """low <= u <= high by component, both (size,), infinite where there is no bound."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low, self.high = low, high

    def excess(self, u: np.ndarray) -> np.ndarray:
        """(size,) how far each component is outside; negative inside."""
        return np.maximum(self.low - u, u - self.high)

    def describe(self, u: np.ndarray, component: int) -> str:
        """How a component of a state violates its bound."""
        value, low, high = float(u[component]), float(self.low[component]), float(self.high[component])
        side, bound = ("below its lower", low) if low - value >= value - high else ("above its upper", high)
        return f"{value:.6g} is {side} bound {bound:.6g}"

    def require(self, u: np.ndarray, tolerances: Tolerances, system: System) -> None:
        """Raise ValueError unless a state is inside, or outside by no more than the tolerance."""
        beyond = self.excess(u) - tolerance(tolerances, u, system)
        if not system.space.every(not (beyond > 0).any()):
            worst = int(np.argmax(beyond))
            where = list(system.layout.component(worst))
            raise ValueError(
                f"bounds: y0 lies outside of them, at component {where}: {self.describe(u, worst)}"
            )


def tolerance(tolerances: Tolerances, u: np.ndarray, system: System) -> float | np.ndarray:
    """How far each component of a state may be outside: atol, and rounding."""
    return tolerances.atol + ROUNDING * system.space.max(float(np.abs(u).max()))


def bounds_of(bounds: Any, y0: State, layout: Layout) -> Bounds | None:
    """The bounds that a caller gave as (low, high), each None, a number, or like y0.

    Raises
    ------
    TypeError, ValueError
        For anything else, NaN, or a lower bound above the upper one.
    """
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(
            f"bounds must be (low, high), each None, a number or like y0, not {described(bounds)}"
        )
    low, high = (
        _side(value, infinite, name, y0, layout)
        for value, infinite, name in zip(bounds, (-np.inf, np.inf), ("low", "high"), strict=True)
    )
    crossed = ~(low <= high) | (low == np.inf) | (high == -np.inf)
    if crossed.any():
        at = int(np.argmax(crossed))
        raise ValueError(
            f"bounds: low = {low[at]:g} and high = {high[at]:g} leave no room at component "
            f"{list(layout.component(at))}"
        )
    return Bounds(low, high) if np.isfinite(low).any() or np.isfinite(high).any() else None


def _side(value: Any, infinite: float, name: str, y0: State, layout: Layout) -> np.ndarray:
    parts = y0 if isinstance(y0, tuple) else (y0,)
    values = value if isinstance(value, tuple | list) and isinstance(y0, tuple) else (value,) * len(parts)
    if len(values) != len(parts):
        raise ValueError(f"bounds: {name} has {len(values)} entries, but y0 has {len(parts)} tensors")
    rows = tuple(_like(v, infinite, name, part) for v, part in zip(values, parts, strict=True))
    flat = layout.flatten(rows if isinstance(y0, tuple) else rows[0]).cpu().numpy()
    if np.isnan(flat).any():
        where = list(layout.component(int(np.argmax(np.isnan(flat)))))
        raise ValueError(f"bounds: {name} is NaN at component {where}; None or inf is no bound")
    return flat


def _like(value: Any, infinite: float, name: str, part: Tensor) -> Tensor:
    try:
        given = torch.as_tensor(infinite if value is None else value, dtype=torch.float64, device="cpu")
        return given.detach().expand(part.shape).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        got = tuple(value.shape) if isinstance(value, Tensor | np.ndarray) else described(value)
        raise ValueError(
            f"bounds: {name} must be None, a number or of y0's shape {tuple(part.shape)}, not {got}"
        ) from error


class Limits:
    """Judges the ends of a run's steps by the bounds of its state.

    A step that ends outside by more than the tolerance is cut. One that begins inside and ends outside by
    less is cut too, a few times: the excess may grow from there, as a population below zero does, and no
    later step could mend that. If even a short step ends outside, it is kept.

    Parameters
    ----------
    bounds : Bounds
    tolerances : Tolerances
        Their ``atol`` counts.
    system : System
    u0 : ndarray
        (size,) the initial state.
    thorough : bool
        Whether steps that end outside by less than the tolerance are cut. Steps of given sizes are not.

    Attributes
    ----------
    ends_run : callable or None
        (s, u) -> whether the run ends within the step, at an event. The end of the step does not count then.
    component, detail : int or None, str
        The component that was outside when a step was last cut, and how.
    """

    def __init__(
        self, bounds: Bounds, tolerances: Tolerances, system: System, u0: np.ndarray, thorough: bool
    ) -> None:
        self._bounds, self._tolerances, self._system = bounds, tolerances, system
        self._thorough = thorough
        self._outside = bounds.excess(u0) > 0
        self._grazes = 0
        self.ends_run: Callable[[float, np.ndarray], bool] | None = None
        self.component: int | None = None
        self.detail = ""

    def begin(self) -> None:
        """A new step begins; its cuts are counted from zero."""
        self._grazes = 0

    def allows(self, s: float, u: np.ndarray) -> bool:
        """Whether a step may end at a time and a state. If so, the next step begins there."""
        every, excess = self._system.space.every, self._bounds.excess(u)
        outside = excess > 0
        if every(not outside.any()):
            self._outside = outside
            return True
        beyond = excess - tolerance(self._tolerances, u, self._system)
        if every(not (beyond > 0).any()) and not self._is_cut_for_less(s, u, outside):
            self._outside = outside
            return True
        if self.ends_run is not None and self.ends_run(s, u):
            return True
        worst = int(np.argmax(beyond))
        self.component = worst if outside.any() else None
        self.detail = self._bounds.describe(u, worst) if outside.any() else ""
        return False

    def _is_cut_for_less(self, s: float, u: np.ndarray, outside: np.ndarray) -> bool:
        every = self._system.space.every
        fresh = outside & ~self._outside
        if not self._thorough or every(not fresh.any()):
            return False
        outwards = np.where(u < self._bounds.low, -1.0, 1.0)
        returns = every(not (fresh & ~(outwards * self._system.derivative(s, u) < 0)).any())
        self._grazes += 1
        return self._grazes <= (FEW if returns else MANY)
