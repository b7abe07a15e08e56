"""Evaluating the user's function at many states in one call, where that gives the same values.

Calls of small functions cost overhead, not arithmetic, so Jacobians and reverse sweeps evaluate many
states at once. Whether a function allows that is found out by trying it, never assumed.
"""

from __future__ import annotations

import enum
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.system.function.cache import remembered
from stiffml.system.function.generic_states import first_finite, nearby
from stiffml.system.state import Layout, State

Func = Callable[[Tensor, State], State]

ROWS = 3
"""States at which a batch is compared with single evaluations."""

HUGE = 1e30


class Batching(enum.Enum):
    """How ``func`` can be evaluated at several (t, y) at once."""

    NATIVE = "its own broadcasting over a leading dimension"
    VMAP = "torch.vmap"
    LOOP = "one state at a time"


Sample = tuple[np.ndarray, np.ndarray]
"""A flat state (size,) and the value of f there, float64."""


def batching_of(
    func: Func,
    layout: Layout,
    t: Tensor,
    u: Tensor,
    other_times: Sequence[float] = (),
    samples: Sequence[Sample] = (),
) -> Batching:
    """How ``func`` may be batched, found by trying it near the flat state ``u`` and the time ``t``.

    vmap refuses what depends on the values of one state (Python branches, ``.item()``, random numbers). Such
    a function is looped. Broadcasting is faster than vmap, but right only if no operation mixes the rows, at
    any state and for any parameters. So no two rows of the batch are equal, nor two components of a row, and
    each row is compared with a single evaluation. Further rows are set to NaN, which passes through every
    operation that would use them, even a product with zero, and to huge values of both signs, which tip the
    comparisons that NaN does not pass. The number of rows is one that does not occur in the shape of a state.

    How a function broadcasts depends on its code. So the finding is remembered for the function and the
    layout, and confirmed with one batch when it is asked for again. A function that no longer fits, because
    an attribute has changed for example, is tried anew.

    Parameters
    ----------
    other_times : sequence of float
        Further times at which func is defined, for rows that differ in time as well.
    samples : sequence of Sample
        At least three states near ``u`` of which values at ``t`` are known: enough to confirm what was found.
    """
    u, t = u.to(layout.device, layout.dtype), t.to(layout.device, layout.dtype)
    known = remembered(func)
    key = _key("batching", func, layout)
    with torch.no_grad():
        before = known.get(key)
        if before is Batching.LOOP:
            return before
        if before is Batching.NATIVE and len(samples) >= ROWS:
            if _Rows(func, layout, t, u, samples).allow_broadcasting(confirm=True):
                return before
            before = None
        rows = _Rows(func, layout, t, u, _samples(func, layout, t, u, other_times))
        if before is Batching.NATIVE and rows.allow_broadcasting(confirm=True):
            return before
        mapped = rows.allow(Batching.VMAP)
        found = Batching.VMAP if mapped else Batching.LOOP
        # Rows of one time say nothing of what func makes of several.
        may_broadcast = mapped or (bool(other_times) and rows.allow_mapping_of_states())
        if before is not found and may_broadcast and rows.allow_broadcasting():
            found = Batching.NATIVE
    if rows.are_finite:
        known[key] = found
    return found


def not_batched(func: Func, layout: Layout, batching: Batching) -> None:
    """Remember that a way of batching is wrong after all."""
    slower = Batching.VMAP if batching is Batching.NATIVE else Batching.LOOP
    remembered(func)[_key("batching", func, layout)] = slower


def jacobian_is_right(func: Func, layout: Layout, batching: Batching) -> None:
    """Remember that Jacobians from a batch are right."""
    remembered(func)[_key("jacobian", func, layout)] = batching


def is_jacobian_right(func: Func, layout: Layout, batching: Batching) -> bool:
    """Whether that is remembered."""
    return remembered(func).get(_key("jacobian", func, layout)) is batching


def _key(what: str, func: Func, layout: Layout) -> tuple[object, ...]:
    return what, layout, getattr(func, "training", None)


_Row = tuple[Tensor, np.ndarray, np.ndarray]
"""A time, a state and the value of f there."""


def _samples(func: Func, layout: Layout, t: Tensor, u: Tensor, other_times: Sequence[float]) -> list[_Row]:
    """States near ``u``, no two of them equal, with the values of f; finite ones if there are any."""
    random = np.random.default_rng(0)
    start = u.detach().double().cpu().numpy()

    def single(time: Tensor, state: np.ndarray) -> np.ndarray:
        y = layout.unflatten(torch.from_numpy(state).to(layout.device, layout.dtype))
        return layout.flatten(func(time, y)).detach().double().cpu().numpy()

    rows: list[_Row] = []
    for number in range(ROWS):
        moved = [t.new_tensor(other_times[number - 1])] if 0 < number <= len(other_times) else []
        for time in (*moved, t):
            candidates = nearby(start, random)
            if time is not t:
                candidates = itertools.islice(candidates, 2)  # then rather at the same time
            found = first_finite(functools.partial(single, time), candidates)
            if found is not None:
                rows.append((time, *found))
                break
        else:
            # Where f is not finite, a batch must not be either; an exception of f is for the caller.
            rows.append((t, start, single(t, start)))
    return rows


class _Rows:
    """Rows with known values of f, and batches made of them."""

    def __init__(
        self, func: Func, layout: Layout, t: Tensor, u: Tensor, samples: Sequence[Sample] | Sequence[_Row]
    ) -> None:
        self._func, self._layout = func, layout
        rows = samples[:ROWS]
        self._times = torch.stack([row[0] if len(row) == 3 else t for row in rows])
        self._states = torch.from_numpy(np.stack([row[-2] for row in rows])).to(u)
        self._expected = torch.from_numpy(np.stack([row[-1] for row in rows]))
        self._rounding = _Rounding(func, layout, t, u, self._expected)

    def allow(self, batching: Batching) -> bool:
        """Whether a batch of these rows alone has the values of f at each."""
        return self._agrees(batching, self._times, self._states, range(ROWS))

    def allow_mapping_of_states(self) -> bool:
        """Whether vmap takes the function with a single time.

        What func does with time may leave torch, as reading a table does, though it treats states well.
        """
        layout, func = self._layout, self._func

        def single(time: Tensor, state: Tensor) -> Tensor:
            return layout.flatten(func(time, layout.unflatten(state)))

        try:
            mapped = torch.vmap(single, in_dims=(None, 0))
            rows = [mapped(time, state[None]) for time, state in zip(self._times, self._states, strict=True)]
            return self._rounding.explains(torch.cat(rows).double().cpu())
        except Exception:  # as in _agrees
            return False

    def allow_broadcasting(self, confirm: bool = False) -> bool:
        """Whether no row of a batch depends on the others, whatever their values.

        ``confirm``: try one batch instead of three.
        """
        count = self._row_count()
        for number, other in enumerate((HUGE, -HUGE, math.nan)[: 1 if confirm else None]):
            # y[0], y[1], y[-1], … of a batch are rows of either kind.
            places = [2 * row + (1 - number % 2) for row in range(ROWS)]
            states = torch.full((count, self._states.shape[1]), other).to(self._states)
            times = self._times[torch.arange(count, device=self._times.device) % ROWS]
            states[places], times[places] = self._states, self._times
            if not self._agrees(Batching.NATIVE, times, states, places):
                return False
        return True

    def _row_count(self) -> int:
        """A number of rows that is no dimension of a state, nor a product of several."""
        layout = self._layout
        taken = {layout.size, layout.width, layout.samples}
        for shape in layout.shapes:
            taken |= set(shape) | set(itertools.accumulate(shape, int.__mul__))
            taken.add(math.prod(shape[len(layout.batch) :]))
        return next(count for count in itertools.count(2 * ROWS + 1) if count not in taken)

    @property
    def are_finite(self) -> bool:
        """Whether f is finite in all rows."""
        return bool(torch.isfinite(self._expected).all())

    def _agrees(self, batching: Batching, times: Tensor, states: Tensor, places: Sequence[int]) -> bool:
        """Whether the rows at some places of a batch have the values expected."""
        try:
            values = evaluate_many(self._func, self._layout, batching, times, states)
        except Exception:  # whatever it is, it says that this way of calling does not work
            return False
        if values.shape != states.shape:
            return False
        return self._rounding.explains(values[list(places)].double().cpu())


class _Rounding:
    """How much values of f near (t, u) may change when sums are taken in another order."""

    def __init__(self, func: Func, layout: Layout, t: Tensor, u: Tensor, expected: Tensor) -> None:
        self._func, self._layout, self._t, self._u = func, layout, t, u
        self.expected = expected
        self._eps = torch.finfo(layout.dtype).eps
        self._size = float(torch.nan_to_num(expected).abs().max())

    def explains(self, values: Tensor) -> bool:
        """Whether values are the expected ones but for rounding."""
        return self._within(values, 1e3 * self._eps * self._size) or self._within(values, 10 * self._spread)

    @functools.cached_property
    def _spread(self) -> float:
        """How much f changes when u does in its last digits.

        Near an equilibrium f is small, but the terms that cancel in it are not, nor is their rounding.
        """
        signs = torch.ones_like(self._u)
        signs[::2] = -1
        moved = [self._u * (1 + 4 * self._eps * s) for s in (signs, -signs, torch.ones_like(signs))]
        first, *values = (
            self._layout.flatten(self._func(self._t, self._layout.unflatten(u))) for u in (self._u, *moved)
        )
        return max(float(torch.nan_to_num(value - first).abs().max()) for value in values)

    def _within(self, values: Tensor, bound: float) -> bool:
        return torch.allclose(values, self.expected, rtol=0, atol=bound, equal_nan=True)


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
