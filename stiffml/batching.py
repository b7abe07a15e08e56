"""Evaluating the user's function at many states in one call, where that gives the same values.

Calls of small functions cost overhead, not arithmetic, so Jacobians and reverse sweeps evaluate many
states at once. Whether a function allows that is found out by trying it, never assumed.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from stiffml.state import Layout, State

Func = Callable[[Tensor, State], State]


class Batching(enum.Enum):
    """How ``func`` can be evaluated at several (t, y) at once."""

    NATIVE = "its own broadcasting over a leading dimension"
    VMAP = "torch.vmap"
    LOOP = "one state at a time"


# What was found for a function is a property of the function, so it is remembered with it.
_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def batching_of(func: Func, layout: Layout, t: Tensor, u: Tensor) -> Batching:
    """How ``func`` may be batched, tried out around the flat state ``u`` at time ``t``."""
    try:
        known = _known.setdefault(func, {})
    except TypeError:  # not hashable or not weakly referable
        known = {}
    if layout not in known:
        known[layout] = _try_out(func, layout, t, u)
    return known[layout]


def _try_out(func: Func, layout: Layout, t: Tensor, u: Tensor) -> Batching:
    # Distinct states near u, moved upwards only: a concentration should not become negative.
    count = 3
    generator = torch.Generator().manual_seed(0)
    r = torch.rand(count, layout.size, generator=generator, dtype=torch.float64)
    scale = u.abs().max().clamp(min=1e-3)
    states = (u * (1 + 0.1 * r) + 1e-3 * scale * r).to(layout.dtype)
    times = (t + torch.linspace(0.0, 1e-3, count, dtype=torch.float64) * (1 + t.abs())).to(layout.dtype)
    with torch.no_grad():
        expected = evaluate_many(func, layout, Batching.LOOP, times, states)
        # vmap refuses what depends on the values of one state (Python branches, .item(), random
        # numbers); such a function might agree here and differ elsewhere, so it is looped.
        if not _agrees(func, layout, Batching.VMAP, times, states, expected):
            return Batching.LOOP
        if _agrees(func, layout, Batching.NATIVE, times, states, expected):
            return Batching.NATIVE
    return Batching.VMAP


def _agrees(
    func: Func, layout: Layout, batching: Batching, times: Tensor, states: Tensor, expected: Tensor
) -> bool:
    try:
        values = evaluate_many(func, layout, batching, times, states)
    except Exception:  # whatever it is, it says that this way of calling does not work
        return False
    if values.shape != expected.shape:
        return False
    tolerance = 1e4 * torch.finfo(layout.dtype).eps
    bound = tolerance * torch.nan_to_num(expected.abs()).max().item()
    return torch.allclose(values, expected, rtol=tolerance, atol=bound, equal_nan=True)


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
