"""Solves with breakpoints: one run for each section between them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import several_times
from stiffml.errors import SolveError, Status
from stiffml.interface.arguments import Arguments
from stiffml.interface.interpolation import interpolate
from stiffml.interface.piece import Piece
from stiffml.interface.solution import Solution
from stiffml.native.constraints import InconsistentError
from stiffml.stats import Stats
from stiffml.steps import KeptSteps, Recorded, Steps, landings
from stiffml.system.function.batching import Func
from stiffml.system.split import Split
from stiffml.system.state import State


class SolveSection(Protocol):
    """Solves one section and adds its cost to ``stats``.

    ``continues``: y0 is the end of the section before.
    """

    def __call__(
        self, arguments: Arguments, stats: Stats, *, continues: bool = False
    ) -> tuple[Solution, SolveError | None]: ...


@dataclass(frozen=True)
class _Section:
    """A part of the time span without jumps of func inside.

    Attributes
    ----------
    begin, end : Tensor
        0-d, in double precision.
    jumps : (float, float)
        The times of the jumps before and after, infinite if there is none. A jump may lie at an end of the
        section or outside of it.
    """

    begin: Tensor
    end: Tensor
    jumps: tuple[float, float]

    def reaches(self, t: Tensor) -> int:
        """How many of the next times t lie in the section, compared in the precision of t."""
        end = self.end.detach().to(t.dtype)
        return int(((t <= end) if self.end > self.begin else (t >= end)).sum())


class _Part(NamedTuple):
    """The solution of a section, and what of its first and last state belongs to the whole."""

    solution: Solution
    is_first: bool
    ends_on_output: bool


class _Within(nn.Module):
    """A function whose times are clamped to those between two jumps."""

    def __init__(self, func: Func, jumps: tuple[float, float]) -> None:
        super().__init__()
        self.func: Any = func
        self._ends = {dtype: _inside(jumps, dtype) for dtype in (torch.float32, torch.float64)}

    @property
    def field(self) -> Any:
        """The field of func, if func belongs to one."""
        return self.func.field

    def forward(self, t: Tensor, y: State) -> State:
        # The derivative with respect to t is that of func on this side of the jump. The time is exactly the
        # clamped one; t + (clamped − t) could round back to the jump.
        return self.func(t.detach().clamp(*self._ends[t.dtype]) + (t - t.detach()), y)


def _inside(jumps: tuple[float, float], dtype: torch.dtype) -> list[float]:
    """The least and the largest number of a dtype that lie between two jumps.

    A jump is rounded to the dtype, up or down. The next number towards the other jump lies between the two.
    """
    ends = torch.tensor(jumps, dtype=dtype)
    return sorted(torch.nextafter(ends, ends.flip(0)).tolist())


def _within(func: Func, jumps: tuple[float, float]) -> Func:
    if isinstance(func, Split):
        implicit, explicit = (_Within(part, jumps) for part in (func.implicit, func.explicit))
        return Split(implicit, explicit, linear=func.linear)
    return _Within(func, jumps)


def solve_in_sections(solve_one: SolveSection, arguments: Arguments) -> tuple[Solution, SolveError | None]:
    """Solve each section from the end of the one before, and join the solutions."""
    func, t, steps = arguments.func, arguments.t, arguments.steps
    assert not isinstance(steps, KeptSteps), "solved as what they hold"
    jumps = several_times("breakpoints", arguments.breakpoints)
    stats, error = Stats(), None
    solved: list[_Part] = []
    if not callable(func) or not _is_ordered(t):
        return solve_one(arguments, stats)  # raises, unless t is a single time
    sections = _sections(t, jumps)
    parts: Sequence[Steps | Sequence[Recorded] | None]
    if isinstance(steps, Recorded):
        passed = several_times("through", () if arguments.through is None else arguments.through)
        interpolated = arguments.outputs == "interpolate"
        parts = _distributed(steps, t, sections, interpolated, passed.detach().cpu().double().numpy())
    else:
        parts = [steps] * len(sections)
    state, taken = arguments.y0, 1
    for number, section in enumerate(sections):
        times, reached, on_output = _outputs(section, t, taken)
        own = _within(func, section.jumps)
        part = dataclasses.replace(arguments, func=own, y0=state, t=times, steps=parts[number])
        try:
            solution, error = solve_one(part, stats, continues=number > 0)
        except InconsistentError as cause:
            if number == 0:
                raise
            return _without_the_rest(solved, t, stats, float(section.begin.detach()), cause)
        solved.append(_Part(solution, number == 0, on_output))
        taken += reached
        if solution.status is not Status.SUCCESS:
            break
        state = _rows(solution.y, slice(-1, None), squeeze=True)
    return _joined(solved, t, stats), error


def _outputs(section: _Section, t: Tensor, taken: int) -> tuple[Tensor, int, bool]:
    """The times of a section, how many of ``t[taken:]`` lie in it, and whether the last is its end."""
    reached = section.reaches(t[taken:])
    outputs = t[taken : taken + reached].double()
    on_output = reached > 0 and bool(t[taken + reached - 1] == section.end.to(t.dtype))
    # An output that equals the end up to the rounding of t is moved there; its gradient still goes to t.
    last = outputs[-1] + (section.end - outputs[-1]).detach() if on_output else section.end
    return torch.cat([section.begin[None], outputs[: reached - on_output], last[None]]), reached, on_output


def _distributed(
    steps: Recorded, t: Tensor, sections: list[_Section], interpolated: bool, passed: np.ndarray
) -> list[Recorded]:
    """The recorded steps of each section."""
    parts, taken, used = [], 1, 0
    for section in sections:
        times, reached, _ = _outputs(section, t, taken)
        values = times.detach().cpu().numpy()
        direction = np.sign(values[-1] - values[0])
        on_steps, on_passed = landings(direction * values, interpolated, direction * passed)
        intervals = int(on_steps.sum()) + len(on_passed) - 1
        parts.append(steps.between(used, used + intervals))
        taken, used = taken + reached, used + intervals
    if used != len(steps.ends):
        raise ValueError(
            f"steps: Recorded holds {len(steps.ends)} intervals, but t, through and breakpoints make {used}. "
            "A run that ended early has those of the outputs and breakpoints it reached"
        )
    return parts


def _without_the_rest(
    solved: list[_Part], t: Tensor, stats: Stats, at: float, cause: InconsistentError
) -> tuple[Solution, SolveError]:
    """The solution so far, and the error: the next section has no consistent initial values."""
    error = SolveError(
        Status.NEWTON_FAILED,
        f"no algebraic variables satisfy the algebraic equations behind a breakpoint ({cause})",
        "call func a little after that time, with the differential variables there; its algebraic equations "
        "must determine the algebraic variables, and be smooth between the values before and after",
        t=at,
        h=0.0,
    )
    error.__cause__ = cause
    solution = _joined(solved, t, stats)
    solution.status, solution.message = error.status, str(error)
    return solution, error


def _is_ordered(t: Tensor) -> bool:
    """Whether t has several times that strictly increase or strictly decrease."""
    if t.dim() != 1 or len(t) < 2 or not torch.isfinite(t).all():
        return False
    steps = t.detach().diff()
    return bool((steps > 0).all() or (steps < 0).all())


def _sections(t: Tensor, jumps: Tensor) -> list[_Section]:
    """The sections from t[0] to t[-1], in that order."""
    jumps = jumps.to(t.device, torch.float64)
    direction = 1 if t[-1] > t[0] else -1
    jumps = jumps[torch.argsort(direction * jumps.detach())]
    if (jumps.diff() == 0).any():
        raise ValueError("breakpoints must differ from one another")
    # A jump at an end of t, up to the rounding of t, makes no new section, but func stays on this side of it.
    rounded = jumps.detach().to(t.dtype)
    passed = (direction * t[0] < direction * rounded) & (direction * rounded < direction * t[-1])
    before = int((direction * rounded <= direction * t[0]).sum())
    times = [t[0].double(), *jumps[passed].unbind(), t[-1].double()]
    ends = [-direction * math.inf, *jumps.tolist(), direction * math.inf][before : before + len(times)]
    pairs = zip(itertools.pairwise(times), itertools.pairwise(ends), strict=True)
    return [_Section(begin, end, around) for (begin, end), around in pairs]


def _rows(y: State, which: slice, squeeze: bool = False) -> State:
    parts = y if isinstance(y, tuple) else (y,)
    rows = tuple(part[which].squeeze(0) if squeeze else part[which] for part in parts)
    return rows if isinstance(y, tuple) else rows[0]


def _joined(solved: list[_Part], t: Tensor, stats: Stats) -> Solution:
    """The solution of the whole: a state where two sections meet appears once, if it is an output."""
    parts: list[State] = []
    ends: list[np.ndarray] = []
    pieces: list[Piece] = []
    for solution, is_first, ends_on_output in solved:
        complete = solution.status is Status.SUCCESS
        last = None if ends_on_output or not complete else -1
        rows = slice(0 if is_first else 1, last)
        parts.append(_rows(solution.y, rows))
        pieces += [dataclasses.replace(piece, rows=rows) for piece in solution.pieces]
        assert isinstance(solution.steps, Recorded)  # there are no breakpoints where samples have their own
        ends += solution.steps.ends
    y: State
    if isinstance(parts[0], tuple):
        y = tuple(torch.cat(rows) for rows in zip(*parts, strict=True))
        count = len(y[0])
    else:
        y = torch.cat([part for part in parts if isinstance(part, Tensor)])
        count = len(y)
    final = solved[-1].solution
    return Solution(
        t=t[:count],
        y=y,
        status=final.status,
        message=final.message,
        stats=stats,
        steps=Recorded.of_run(tuple(ends)),
        event=final.event,
        interpolant=partial(interpolate, tuple(pieces)),
        pieces=tuple(pieces),
    )
