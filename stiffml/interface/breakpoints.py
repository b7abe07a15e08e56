"""Solves with breakpoints and jumps: one run for each section between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import several_times
from stiffml.errors import SolveError, Status
from stiffml.interface.arguments import Arguments
from stiffml.interface.interpolation import interpolate
from stiffml.interface.jumps import Jump, jumps_of, moved
from stiffml.interface.piece import Piece
from stiffml.interface.sections import Boundary, Section, sections_of
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


class _Part(NamedTuple):
    """The solution of a section, and which of its rows, with what states, belong to the whole."""

    solution: Solution
    rows: slice
    y: State
    follows_jump: bool


class _Within(nn.Module):
    """A function whose times are clamped to those between two jumps."""

    def __init__(self, func: Func, jumps: tuple[float, float]) -> None:
        super().__init__()
        self.func: Any = func
        self._jumps = jumps
        self._ends = {dtype: _inside(jumps, dtype) for dtype in (torch.float32, torch.float64)}

    @property
    def field(self) -> Any:
        """The field of func, if func belongs to one."""
        return self.func.field

    @property
    def kept_with(self) -> tuple[Any, Hashable]:
        """Findings, such as the compiled form, serve the next solve with these jumps."""
        func, key = getattr(self.func, "kept_with", (self.func, None))
        return func, ("between", self._jumps, key)

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
    if all(map(math.isinf, jumps)):
        return func
    if isinstance(func, Split):
        implicit, explicit = (_Within(part, jumps) for part in (func.implicit, func.explicit))
        return Split(implicit, explicit, linear=func.linear)
    return _Within(func, jumps)


def solve_in_sections(solve_one: SolveSection, arguments: Arguments) -> tuple[Solution, SolveError | None]:
    """Solve each section from the end of the one before, or from after a jump, and join the solutions."""
    t, steps = arguments.t, arguments.steps
    assert not isinstance(steps, KeptSteps), "solved as what they hold"
    breaks = several_times("breakpoints", () if arguments.breakpoints is None else arguments.breakpoints)
    jumps, stats, error = jumps_of(arguments.jumps), Stats(), None
    if not callable(arguments.func) or not _is_ordered(t):
        return _at_one_time(solve_one, arguments, jumps, stats)
    sections = sections_of(t, breaks, jumps)
    parts: Sequence[Steps | Sequence[Recorded] | None] = [steps] * len(sections)
    if isinstance(steps, Recorded):
        passed = several_times("through", () if arguments.through is None else arguments.through)
        interpolated = arguments.outputs == "interpolate"
        parts = _distributed(steps, t, sections, interpolated, passed.detach().cpu().double().numpy())
    solved: list[_Part] = []
    state, taken, on_output = arguments.y0, 1, False
    for number, section in enumerate(sections):
        own = dataclasses.replace(arguments, func=_within(arguments.func, section.breaks))
        jumped = section.begin.has_jump
        if jumped:
            state = _after(section.begin, state, own)
        times, reached, ends_on_output = section.outputs(t, taken)
        part = dataclasses.replace(own, y0=state, t=times, steps=parts[number])
        try:
            solution, error = solve_one(part, stats, continues=number > 0 or jumped)
        except InconsistentError as cause:
            if number == 0:
                raise
            at = float(section.begin.times[-1].detach())
            return _without_the_rest(solved, t, stats, at, cause)
        complete = solution.status is Status.SUCCESS
        kept = ends_on_output and not section.end.has_jump
        rows = slice(0 if number == 0 or (jumped and on_output) else 1, None if kept or not complete else -1)
        y = _rows(solution.y, rows)
        if number > 0 and jumped and on_output:
            y = _first_moved(y, t[taken - 1], section.begin, own)
        solved.append(_Part(solution, rows, y, jumped and number > 0))
        if not complete:
            break
        taken, on_output = taken + reached, ends_on_output
        state = _rows(solution.y, slice(-1, None), squeeze=True)
    else:
        last = sections[-1].end
        if last.has_jump:
            error = _append_last(solve_one, solved, own, last, t, stats) or error
    return _joined(solved, t, stats), error


def _at_one_time(
    solve_one: SolveSection, arguments: Arguments, jumps: Sequence[Jump], stats: Stats
) -> tuple[Solution, SolveError | None]:
    """The same of a single time; or raise, for other times that are in no order."""
    t, state = arguments.t, arguments.y0
    for jump in jumps if t.shape == (1,) else ():
        if float(jump.time.detach().to(t.dtype)) == float(t[0].detach()):
            state = jump.applied(state)
    return solve_one(dataclasses.replace(arguments, y0=state), stats)


def _append_last(
    solve_one: SolveSection,
    solved: list[_Part],
    arguments: Arguments,
    boundary: Boundary,
    t: Tensor,
    stats: Stats,
) -> SolveError | None:
    """Add the last output, which is after the jumps at the end of the time span."""
    before = _rows(solved[-1].solution.y, slice(-1, None), squeeze=True)
    state = _after(boundary, before, arguments)
    none = Recorded.of_run(tuple) if isinstance(arguments.steps, Recorded) else arguments.steps
    at_end = dataclasses.replace(arguments, y0=state, t=boundary.times[-1].detach()[None], steps=none)
    solution, error = solve_one(at_end, stats, continues=True)
    y = _first_moved(solution.y, t[-1], boundary, arguments)
    solved.append(_Part(solution, slice(0, None), y, True))
    return error


def _after(boundary: Boundary, y: State, arguments: Arguments) -> State:
    """The state after the jumps of a boundary from the state ``y`` at its first time."""
    before = boundary.times[0]
    for time, jump in zip(boundary.times, boundary.jumps, strict=True):
        y, before = moved(y, before, time, arguments.func, arguments.mass is not None), time
        y = y if jump is None else jump.applied(y)
    return y


def _first_moved(y: State, t: Tensor, boundary: Boundary, arguments: Arguments) -> State:
    """Outputs of which the first, after the jumps of a boundary, is at ``t``."""
    row, begin, has_mass = _rows(y, slice(0, 1), squeeze=True), boundary.times[-1], arguments.mass is not None
    first = moved(row, begin, t.double(), arguments.func, has_mass)
    parts = zip(
        *((v if isinstance(v, tuple) else (v,)) for v in (first, _rows(y, slice(1, None)))), strict=True
    )
    rows = tuple(torch.cat([one[None], rest]) for one, rest in parts)
    return rows if isinstance(y, tuple) else rows[0]


def _distributed(
    steps: Recorded, t: Tensor, sections: list[Section], interpolated: bool, passed: np.ndarray
) -> list[Recorded]:
    """The recorded steps of each section."""
    parts, taken, used = [], 1, 0
    for section in sections:
        times, reached, _ = section.outputs(t, taken)
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
        f"no algebraic variables satisfy the algebraic equations behind a breakpoint or jump ({cause})",
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


def _rows(y: State, which: slice, squeeze: bool = False) -> State:
    parts = y if isinstance(y, tuple) else (y,)
    rows = tuple(part[which].squeeze(0) if squeeze else part[which] for part in parts)
    return rows if isinstance(y, tuple) else rows[0]


def _joined(solved: list[_Part], t: Tensor, stats: Stats) -> Solution:
    """The solution of the whole: a state where two sections meet appears once, if it is an output."""
    parts: list[State] = []
    ends: list[np.ndarray] = []
    pieces: list[Piece] = []
    for solution, rows, states, follows_jump in solved:
        parts.append(states)
        pieces += [
            dataclasses.replace(piece, rows=rows, follows_jump=follows_jump) for piece in solution.pieces
        ]
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
        steps=Recorded.of_run(lambda: tuple(ends)),
        event=final.event,
        interpolant=partial(interpolate, tuple(pieces)),
        pieces=tuple(pieces),
    )
