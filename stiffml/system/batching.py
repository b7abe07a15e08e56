"""Evaluating the user's function at many states in one call, where that gives the same values.

Calls of small functions cost overhead, not arithmetic, so Jacobians and reverse sweeps evaluate many
states at once. Whether a function allows that is found out by trying it, never assumed.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from stiffml.system.state import Layout, State

Func = Callable[[Tensor, State], State]


class Batching(enum.Enum):
    """How ``func`` can be evaluated at several (t, y) at once."""

    NATIVE = "its own broadcasting over a leading dimension"
    VMAP = "torch.vmap"
    LOOP = "one state at a time"


def batching_of(func: Func, layout: Layout, t: Tensor, u: Tensor) -> Batching:
    """How ``func`` may be batched, tried out at the flat state ``u`` and time ``t``.

    vmap refuses what depends on the values of one state (Python branches, ``.item()``, random numbers);
    such a function is looped. Broadcasting is faster than vmap, but right only if no operation mixes
    the rows, at any state and for any parameters. So beside ``u`` other rows are set to NaN, which
    passes through every operation that would use them, even one multiplied by zero, and to huge values
    of both signs, which tip the comparisons that NaN does not pass.
    """
    u, t = u.to(layout.device, layout.dtype), t.to(layout.device, layout.dtype)
    huge = 1e30
    with torch.no_grad():
        expected = layout.flatten(func(t, layout.unflatten(u)))
        rounding = _Rounding(func, layout, t, u, expected)
        if not _agrees(func, layout, Batching.VMAP, t, u, u, rounding):
            return Batching.LOOP
        for other in (math.nan, huge, -huge):
            if not _agrees(func, layout, Batching.NATIVE, t, u, torch.full_like(u, other), rounding):
                return Batching.VMAP
    return Batching.NATIVE


class _Rounding:
    """What values of f at (t, u) may differ by, when it sums in another order."""

    def __init__(self, func: Func, layout: Layout, t: Tensor, u: Tensor, expected: Tensor) -> None:
        self._func, self._layout, self._t, self._u = func, layout, t, u
        self.expected = expected
        self._eps = torch.finfo(layout.dtype).eps
        self._size = float(torch.nan_to_num(expected).abs().max())

    def explains(self, value: Tensor) -> bool:
        """Whether a value is the expected one but for rounding."""
        return self._within(value, 1e3 * self._eps * self._size) or self._within(value, 10 * self._spread)

    @functools.cached_property
    def _spread(self) -> float:
        """By what f changes where u does in its last digits: near an equilibrium f is small, but the terms
        that cancel in it are not, nor is their rounding."""
        signs = torch.ones_like(self._u)
        signs[::2] = -1
        moved = [self._u * (1 + 4 * self._eps * s) for s in (signs, -signs, torch.ones_like(signs))]
        values = (self._layout.flatten(self._func(self._t, self._layout.unflatten(u))) for u in moved)
        return max(float(torch.nan_to_num(value - self.expected).abs().max()) for value in values)

    def _within(self, value: Tensor, bound: float) -> bool:
        return torch.allclose(value, self.expected, rtol=0, atol=bound, equal_nan=True)


def _agrees(
    func: Func, layout: Layout, batching: Batching, t: Tensor, u: Tensor, other: Tensor, rounding: _Rounding
) -> bool:
    """Whether the rows at (t, u) of a batch have the value expected, whatever the rows between hold."""
    # Five rows, times included, so that no wrong shape passes for one of a small state.
    states = torch.stack([u, other, u, other, other])
    between = t + (0 if other is u else other[0])
    times = torch.stack([t, between, t, between, between])
    try:
        values = evaluate_many(func, layout, batching, times, states)
    except Exception:  # whatever it is, it says that this way of calling does not work
        return False
    if values.shape != states.shape:
        return False
    return all(rounding.explains(values[k]) for k in (0, 2))


def evaluate_many(func: Func, layout: Layout, batching: Batching, t: Tensor, u: Tensor) -> Tensor:
    """f at K times (K,) and flat states (K, size) -> (K, size), differentiable."""
    if batching is Batching.NATIVE:
        dims = len(layout.shapes[0])
        if any(len(shape) != dims for shape in layout.shapes):
            raise ValueError("a time of one shape cannot broadcast against states of several")
        return layout.flatten(func(t.view(-1, *(1,) * dims), layout.unflatten(u)))
    if batching is Batching.VMAP:

        def single(time: Tensor, state: Tensor) -> Tensor:
            return layout.flatten(func(time, layout.unflatten(state)))

        return torch.vmap(single)(t, u)
    rows = [
        layout.flatten(func(time, layout.unflatten(state)))
        for time, state in zip(t.unbind(), u.unbind(), strict=True)
    ]
    return torch.stack(rows)
