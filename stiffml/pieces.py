"""Solving from breakpoint to breakpoint: func may jump there, and methods start afresh."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.errors import SolveError
from stiffml.solution import Solution, Stats
from stiffml.split import Split
from stiffml.steps import Recorded, ends_of_steps
from stiffml.system.batching import Func
from stiffml.system.state import State

Solve = Callable[[Func, State, Tensor, Stats, dict[str, Any]], tuple[Solution, SolveError | None]]


class _Within(nn.Module):
    """A function that is never asked for a time outside an interval, or on its ends."""

    def __init__(self, func: Func, first: float, last: float) -> None:
        super().__init__()
        self.func = func
        self._low, self._high = sorted((math.nextafter(first, last), math.nextafter(last, first)))

    def forward(self, t: Tensor, y: State) -> State:
        # The derivative with respect to t is that of func on this side of the jump.
        return self.func(t + (t.clamp(self._low, self._high) - t).detach(), y)


def _within(func: Func, first: float, last: float) -> Func:
    if isinstance(func, Split):
        implicit, explicit = (_Within(part, first, last) for part in (func.implicit, func.explicit))
        return Split(implicit, explicit, linear=func.linear)
    return _Within(func, first, last)


def solve_in_pieces(
    solve: Solve,
    func: Func,
    y0: State,
    t: Tensor,
    breakpoints: Tensor | Sequence[float],
    arguments: dict[str, Any],
) -> tuple[Solution, SolveError | None]:
    """Solve each piece from where the one before ended, and put the solutions together."""
    t = torch.as_tensor(t)
    t = t if t.is_floating_point() else t.double()
    bounds = _bounds(t, breakpoints)
    stats, solutions, error = Stats(), [], None
    state, taken, used = y0, 1, 0
    for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
        first, last = begin.item(), end.item()
        rising = last > first
        reached = (t[taken:] <= end) if rising else (t[taken:] >= end)
        outputs = t[taken : taken + int(reached.sum())]
        on_output = len(outputs) > 0 and outputs[-1].item() == last
        times = torch.cat([begin[None], outputs, *([] if on_output else [end[None]])])
        chosen = dict(arguments)
        steps = chosen["steps"]
        if isinstance(steps, Recorded):
            values = times.detach().cpu().double().numpy()
            intervals = int(ends_of_steps(values, arguments["outputs"] == "interpolate").sum()) - 1
            chosen["steps"] = Recorded(steps.ends[used : used + intervals])
            used += intervals
        inside = _within(func, first, last) if len(bounds) > 2 else func
        solution, error = solve(inside, state, times, stats, chosen)
        solutions.append((solution, number == 0, on_output or number == len(bounds) - 2))
        taken += len(outputs)
        if not solution.success or solution.event is not None:
            break
        state = _rows(solution.y, slice(-1, None), squeeze=True)
    return _joined(solutions, t, stats), error


def _bounds(t: Tensor, breakpoints: Tensor | Sequence[float]) -> list[Tensor]:
    """The ends of the pieces, in the direction of t."""
    jumps = torch.as_tensor(breakpoints, dtype=t.dtype).reshape(-1)
    if not torch.isfinite(jumps).all():
        raise ValueError("breakpoints must be finite")
    first, last = t[0].item(), t[-1].item()
    inside = [b for b in jumps.unbind() if min(first, last) < b.item() < max(first, last)]
    ordered = sorted(inside, key=Tensor.item, reverse=last < first)
    if any(a.item() == b.item() for a, b in itertools.pairwise(ordered)):
        raise ValueError("breakpoints must differ from one another")
    return [t[0], *ordered, t[-1]]


def _rows(y: State, which: slice, squeeze: bool = False) -> State:
    parts = y if isinstance(y, tuple) else (y,)
    rows = tuple(part[which].squeeze(0) if squeeze else part[which] for part in parts)
    return rows if isinstance(y, tuple) else rows[0]


def _joined(solutions: list[tuple[Solution, bool, bool]], t: Tensor, stats: Stats) -> Solution:
    parts: list[State] = []
    ends: list[np.ndarray] = []
    for solution, is_first, ends_on_output in solutions:
        complete = solution.success and solution.event is None
        last = None if ends_on_output or not complete else -1
        parts.append(_rows(solution.y, slice(0 if is_first else 1, last)))
        ends += solution.steps.ends
    y: State
    if isinstance(parts[0], tuple):
        y = tuple(torch.cat(rows) for rows in zip(*parts, strict=True))
        count = len(y[0])
    else:
        y = torch.cat([part for part in parts if isinstance(part, Tensor)])
        count = len(y)
    final = solutions[-1][0]
    return Solution(
        t=t[:count],
        y=y,
        status=final.status,
        message=final.message,
        stats=stats,
        steps=Recorded(tuple(ends)),
        event=final.event,
        pieces=tuple(piece for solution, *_ in solutions for piece in solution.pieces),
    )
