"""Solving from breakpoint to breakpoint: func may jump there, and methods start afresh."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import several_times
from stiffml.errors import SolveError, Status
from stiffml.interface.solution import Solution, Stats
from stiffml.native.constraints import InconsistentError
from stiffml.steps import Recorded, landings
from stiffml.system.function.batching import Func
from stiffml.system.split import Split
from stiffml.system.state import State

Solve = Callable[[Func, State, Tensor, Stats, dict[str, Any]], tuple[Solution, SolveError | None]]


@dataclass(frozen=True)
class _Piece:
    """From ``begin`` to ``end``, 0-d and in double precision, between jumps of func.

    ``jumps``: the one before and the one after, infinite where there is none; at an end of the piece, or
    outside of it.
    """

    begin: Tensor
    end: Tensor
    jumps: tuple[float, float]

    def reaches(self, t: Tensor) -> int:
        """How many of the times that follow it reaches, in their precision."""
        end = self.end.detach().to(t.dtype)
        return int(((t <= end) if self.end > self.begin else (t >= end)).sum())


class _Within(nn.Module):
    """A function that is never asked for a time at a jump, or on the other side of it."""

    def __init__(self, func: Func, jumps: tuple[float, float]) -> None:
        super().__init__()
        self.func: Any = func
        self._ends = {dtype: _inside(jumps, dtype) for dtype in (torch.float32, torch.float64)}

    @property
    def field(self) -> Any:
        """Where func is the right-hand side of a field, that field."""
        return self.func.field

    def forward(self, t: Tensor, y: State) -> State:
        # The derivative with respect to t is that of func on this side of the jump; and the time is exactly
        # the clamped one, which t + (clamped − t) would round back to the jump.
        return self.func(t.detach().clamp(*self._ends[t.dtype]) + (t - t.detach()), y)


def _inside(jumps: tuple[float, float], dtype: torch.dtype) -> list[float]:
    """The least and the largest number of a dtype that lie between two jumps.

    Rounded to the dtype a jump may lie on either side of itself; the next number towards the other lies on
    this side of both.
    """
    ends = torch.tensor(jumps, dtype=dtype)
    return sorted(torch.nextafter(ends, ends.flip(0)).tolist())


def _within(func: Func, jumps: tuple[float, float]) -> Func:
    if isinstance(func, Split):
        implicit, explicit = (_Within(part, jumps) for part in (func.implicit, func.explicit))
        return Split(implicit, explicit, linear=func.linear)
    return _Within(func, jumps)


def solve_in_pieces(
    solve: Solve,
    func: Func,
    y0: State,
    t: Tensor,
    breakpoints: Tensor | Sequence[float],
    arguments: dict[str, Any],
) -> tuple[Solution, SolveError | None]:
    """Solve each piece from where the one before ended, and put the solutions together."""
    jumps = several_times("breakpoints", breakpoints)
    stats, error = Stats(), None
    solutions: list[tuple[Solution, bool, bool]] = []
    if not callable(func) or not _is_ordered(t):
        return solve(func, y0, t, stats, arguments)  # says what is wrong, unless t is a single time
    pieces, steps = _pieces(t, jumps), arguments["steps"]
    if isinstance(steps, Recorded):
        through = arguments["through"]
        passed = several_times("through", () if through is None else through)
        interpolated = arguments["outputs"] == "interpolate"
        parts = _distributed(steps, t, pieces, interpolated, passed.detach().cpu().double().numpy())
    else:
        parts = [steps] * len(pieces)
    state, taken = y0, 1
    for number, piece in enumerate(pieces):
        times, reached, on_output = _outputs(piece, t, taken)
        chosen = {**arguments, "steps": parts[number], "continues": number > 0}
        try:
            solution, error = solve(_within(func, piece.jumps), state, times, stats, chosen)
        except InconsistentError as cause:
            if number == 0:
                raise
            return _without_the_rest(solutions, t, stats, float(piece.begin.detach()), cause)
        solutions.append((solution, number == 0, on_output))
        taken += reached
        if not solution.success or solution.event is not None:
            break
        state = _rows(solution.y, slice(-1, None), squeeze=True)
    return _joined(solutions, t, stats), error


def _outputs(piece: _Piece, t: Tensor, taken: int) -> tuple[Tensor, int, bool]:
    """A piece's times, how many of t from ``taken`` on they reach, and whether it ends on the last."""
    reached = piece.reaches(t[taken:])
    outputs = t[taken : taken + reached].double()
    on_output = reached > 0 and bool(t[taken + reached - 1] == piece.end.to(t.dtype))
    # In place of an output that is the end but for the rounding of t, which still gets the gradient.
    last = outputs[-1] + (piece.end - outputs[-1]).detach() if on_output else piece.end
    return torch.cat([piece.begin[None], outputs[: reached - on_output], last[None]]), reached, on_output


def _distributed(
    steps: Recorded, t: Tensor, pieces: list[_Piece], interpolated: bool, passed: np.ndarray
) -> list[Recorded]:
    """The recorded steps of each piece: those of its intervals."""
    parts, taken, used = [], 1, 0
    for piece in pieces:
        times, reached, _ = _outputs(piece, t, taken)
        values = times.detach().cpu().numpy()
        direction = np.sign(values[-1] - values[0])
        on_steps, on_passed = landings(direction * values, interpolated, direction * passed)
        intervals = int(on_steps.sum()) + len(on_passed) - 1
        parts.append(Recorded.of_run(steps.ends[used : used + intervals]))
        taken, used = taken + reached, used + intervals
    if used != len(steps.ends):
        raise ValueError(
            f"steps: Recorded holds {len(steps.ends)} intervals, but t, through and breakpoints make {used}. "
            "A run that ended early has those of the outputs and breakpoints it reached"
        )
    return parts


def _without_the_rest(
    solutions: list[tuple[Solution, bool, bool]], t: Tensor, stats: Stats, at: float, cause: InconsistentError
) -> tuple[Solution, SolveError]:
    """The pieces so far, where the next one has no consistent values to begin with."""
    error = SolveError(
        Status.NEWTON_FAILED,
        f"no algebraic variables satisfy the algebraic equations behind a breakpoint ({cause})",
        "call func a little after that time, with the differential variables there; its algebraic equations "
        "must determine the algebraic variables, and be smooth between the values before and after",
        t=at,
        h=0.0,
    )
    error.__cause__ = cause
    solution = _joined(solutions, t, stats)
    solution.status, solution.message = error.status, str(error)
    return solution, error


def _is_ordered(t: Tensor) -> bool:
    """Whether these are several times in one direction."""
    if t.dim() != 1 or len(t) < 2 or not torch.isfinite(t).all():
        return False
    steps = t.detach().diff()
    return bool((steps > 0).all() or (steps < 0).all())


def _pieces(t: Tensor, jumps: Tensor) -> list[_Piece]:
    """From t[0] to t[-1], in that direction."""
    jumps = jumps.to(t.device, torch.float64)
    direction = 1 if t[-1] > t[0] else -1
    jumps = jumps[torch.argsort(direction * jumps.detach())]
    if (jumps.diff() == 0).any():
        raise ValueError("breakpoints must differ from one another")
    # One at an end of t, or there but for the rounding of t, is not passed, but func stays on this side.
    rounded = jumps.detach().to(t.dtype)
    passed = (direction * t[0] < direction * rounded) & (direction * rounded < direction * t[-1])
    before = int((direction * rounded <= direction * t[0]).sum())
    times = [t[0].double(), *jumps[passed].unbind(), t[-1].double()]
    ends = [-direction * math.inf, *jumps.tolist(), direction * math.inf][before : before + len(times)]
    pairs = zip(itertools.pairwise(times), itertools.pairwise(ends), strict=True)
    return [_Piece(begin, end, around) for (begin, end), around in pairs]


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
        steps=Recorded.of_run(tuple(ends)),
        event=final.event,
        pieces=tuple(piece for solution, *_ in solutions for piece in solution.pieces),
    )
