"""Adaptive steps as torchdiffeq chooses them: with a norm of the caller's, callbacks, and its factors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from stiffml.compat.torchdiffeq.call import Call, split_like
from stiffml.methods.tableaux import Butcher, Tableau

Norm = Callable[[Any], Any]

_EMBEDDED = {
    "dopri5": np.array([1951 / 21600, 0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60]),
}
"""Weights of embedded solutions that are not those of stiffml's methods.

Source: Shampine, Math. Comp. 46 (1986), of order 4 for the formula of Dormand and Prince.
"""


def root_mean_square(tree: Any) -> Tensor:
    """The norm of torchdiffeq: root mean square, of several tensors the largest."""
    leaves = tree_flatten(tree)[0]
    return torch.stack([leaf.abs().square().mean().sqrt() for leaf in leaves]).max()


@dataclass
class Controller:
    """Takes steps and forgets the states: only where the steps end is of interest.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.4.
    """

    call: Call
    tableau: Tableau
    order: int

    def __post_init__(self) -> None:
        options, call = self.call.options, self.call
        self._norm: Norm = options.get("norm") or root_mean_square
        self._safety, self._most, self._least = (
            float(options.get(name, usual))
            for name, usual in (("safety", 0.9), ("ifactor", 10.0), ("dfactor", 0.2))
        )
        self._minimum, self._maximum = (
            float(options.get(name, usual)) for name, usual in (("min_step", 0.0), ("max_step", math.inf))
        )
        self._limit = float(options.get("max_num_steps", math.inf))
        self._leaves, self._spec = tree_flatten(call.y0)
        self._atol, self._rtol = call.flat_tolerances()
        assert self.tableau.explicit is not None
        assert self.tableau.embedded is not None
        self._butcher: Butcher = self.tableau.explicit
        self._errors = self._butcher.b - _EMBEDDED.get(call.method, self.tableau.embedded)

    @torch.no_grad()
    def ends(self, landings: np.ndarray) -> np.ndarray:
        """(steps + 1,) the ends of the steps, from the first time to the last, with all ``landings``.

        Times are counted in the direction of the solve.
        """
        direction = self.call.direction
        s, last = (float(direction * self.call.t[at].detach()) for at in (0, -1))
        goals = [*np.unique(landings[(landings > s) & (landings < last)]).tolist(), last]
        y = self._flat(self.call.y0)
        slope = self._slope(s, y)
        first = self.call.options.get("first_step")
        size = self._first(s, y, slope) if first is None else float(first)
        ends = [s]
        while s < last:
            if len(ends) > self._limit:
                raise RuntimeError(
                    f"options: max_num_steps = {self._limit:g} steps end at t = {direction * s:.6g}"
                )
            size = min(max(size, self._minimum), self._maximum)
            end = s + size
            if end >= goals[0] * (1 - math.copysign(1e-14, goals[0])):
                end = goals[0]
            taken = end - s
            if not end > s:
                raise RuntimeError(
                    f"underflow in dt at t = {direction * s:.10g}: explicit steps become too short; for a "
                    'stiff problem use method="bdf"'
                )
            self._tell("callback_step", s, y, size)
            new, error, new_slope = self._step(s, y, slope, taken)
            ratio = self._ratio(error, y, new)
            is_good = ratio <= 1 or size <= self._minimum or taken <= self._minimum
            self._tell("callback_accept_step" if is_good else "callback_reject_step", s, y, taken)
            if is_good:
                s, y, slope = end, new, new_slope
                ends.append(end)
                if end == goals[0]:
                    goals.pop(0)
                    slope = self._slope(s, y) if goals else slope  # func may jump there
            size = taken * self._factor(ratio)
        return np.array(ends)

    def _factor(self, ratio: float) -> float:
        if ratio == 0:
            return self._most
        least = 1.0 if ratio < 1 else self._least
        return (
            min(self._most, max(self._safety / ratio ** (1 / self.order), least))
            if ratio == ratio
            else self._least
        )

    def _step(self, s: float, y: Tensor, slope: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
        """The new state, the estimated error, and the slope at the end."""
        tableau, slopes = self._butcher, [slope]
        for row, c in zip(tableau.a[1:], tableau.c[1:], strict=True):
            stage = y + size * sum(a * k for a, k in zip(row.tolist(), slopes, strict=False) if a)
            slopes.append(self._slope(s + float(c) * size, stage))
        new = y + size * sum(b * k for b, k in zip(tableau.b.tolist(), slopes, strict=True) if b)
        error = size * sum(e * k for e, k in zip(self._errors.tolist(), slopes, strict=True) if e)
        return new, error, slopes[-1] if tableau.stiffly_accurate else self._slope(s + size, new)

    def _ratio(self, error: Tensor, old: Tensor, new: Tensor) -> float:
        allowed = self._atol + self._rtol * torch.maximum(old.abs(), new.abs())
        return abs(float(self._norm(self._tree(error / allowed))))

    def _first(self, s: float, y: Tensor, slope: Tensor) -> float:
        """The size of the first step."""
        scale = self._atol + self._rtol * y.abs()

        def norm(v: Tensor) -> float:
            return abs(float(self._norm(self._tree(v / scale))))

        d0, d1 = norm(y), norm(slope)
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        d2 = norm(self._slope(s + h0, y + h0 * slope) - slope) / h0
        largest = max(d1, d2)
        h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / self.order)
        return min(100 * h0, h1)

    def _slope(self, s: float, y: Tensor) -> Tensor:
        direction = self.call.direction
        value = self.call.func(self.call.time(direction * s), self._tree(y))
        return direction * self._flat(value)

    def _flat(self, tree: Any) -> Tensor:
        flat = torch.cat([leaf.detach().reshape(-1) for leaf in self._spec.flatten_up_to(tree)])
        return flat.to(torch.complex128 if flat.is_complex() else torch.float64)

    def _tree(self, flat: Tensor) -> Any:
        return tree_unflatten(split_like(flat, self._leaves), self._spec)

    def _tell(self, name: str, s: float, y: Tensor, size: float) -> None:
        callback = self.call.callbacks.get(name)
        if callback is not None:
            callback(
                self.call.t.new_tensor(self.call.direction * s), self._tree(y), self.call.t.new_tensor(size)
            )
