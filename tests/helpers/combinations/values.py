"""States of a drawn combination against the formulas of its method, and against scipy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from steps_by_hand import System, extrapolation_degree, steps_from
from torch import Tensor

from combinations.cases import Case
from combinations.functions import Function
from combinations.problems import Algebraic
from combinations.runs import Run
from stiffml import Recorded, Status

AMPLIFIED = 10.0
"""By what the error of one step may grow until the end."""

BETWEEN = 10.0
"""How much less accurate outputs between steps may be than those on them, where steps are long."""


def check_outputs(case: Case) -> list[str]:
    """Whether all outputs are there; those before the event if there is one."""
    run, c, outcome, solution = case.run, case.c, case.outcome, case.outcome.solution
    assert solution is not None
    status = Status.EVENT if c.event else Status.SUCCESS
    if solution.status is not status:
        return [f"ended with {solution.status}: {solution.message}; look at forward.py"]
    found = []
    t, count = run.t.detach(), len(run.t)
    if outcome.event is not None:
        count = int((run.clock(t) < run.clock(outcome.event[0][None])).sum())
    if outcome.rows.shape != (count, run.start.numel()) or len(solution.t) != count:
        found.append(f"{len(outcome.rows)} outputs instead of {count}; look at Run.in_time in forward.py")
    elif not torch.equal(solution.t.detach(), t[:count]):
        found.append("solution.t is not t; look at _finish in solve.py")
    y0 = run.as_rows(run.y0).detach().reshape(-1)
    if c.consistent and not torch.equal(outcome.rows[0].detach(), y0):
        found.append("the first output is not y0; look at _finish in solve.py")
    if not torch.isfinite(outcome.rows).all():
        found.append("outputs are not finite; look at forward.py")
    return found


def check_by_hand(case: Case) -> list[str]:
    """States at all ends of steps against the formulas of the method."""
    run, outcome, pieces = case.run, case.outcome, case.ends
    assert outcome.solution is not None
    if outcome.event is not None:
        end = float(run.clock(outcome.event[0][None])[0])
        pieces = [piece for piece in pieces if piece[0] < end]
        pieces[-1] = np.append(pieces[-1][pieces[-1] < end], end)
    clock = np.concatenate(pieces)
    kept = np.append(True, np.diff(clock) > 0)  # of a breakpoint, which two pieces have, what came before
    times = case.c.offset + run.direction * torch.from_numpy(clock[kept])
    last = len(times) - (outcome.event is not None)  # which single precision may round out of the span
    with torch.no_grad():
        found = run.rows_of(outcome.solution.interpolate(times[:last])).double().numpy()
    if outcome.event is not None:
        found = np.append(found, outcome.event[1].detach().double().numpy()[None], axis=0)
    expected = _by_hand(case.plain, pieces)[kept]
    errors = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    if errors.max() <= case.bounds.by_hand:
        return []
    at = int(np.argmax(~(errors <= case.bounds.by_hand)))
    return [
        f"value: the step that ends at s = {clock[kept][at]:.6g}, number {at} of {kept.sum() - 1}, is "
        f"{errors[at]:.1e} away from the method's formula (at the end {errors[-1]:.1e}, bound "
        f"{case.bounds.by_hand:g}); look at steps_by_hand.py, and at petsc/stepper.py"
    ]


def _by_hand(run: Run, pieces: list[np.ndarray]) -> np.ndarray:
    """The states at the ends of steps, and where pieces start, there with algebraic variables that fit."""
    c = run.c
    f = Function(run, "stiff" if c.is_split else "slopes")
    g = Function(run, "rest") if c.is_split else None
    mass = np.eye(run.start.numel())
    if c.has_mass:
        blocks = run.mass.detach()
        blocks = blocks if c.mass == "dense" else torch.diag_embed(blocks)
        blocks = blocks.expand(*c.batch, *blocks.shape[-2:]).reshape(-1, *blocks.shape[-2:])
        mass = torch.block_diag(*blocks).numpy()

    def flat(part: Function | None):
        if part is None:
            return None

        def evaluate(t: Tensor, u: Tensor) -> Tensor:
            rows = u.reshape(*u.shape[:-1], *run.start.shape)
            return run.as_rows(part(t, run.as_state(rows))).reshape(u.shape)

        return evaluate

    states, u = [], _completed(run, 0.0, run.start.detach().reshape(-1).numpy())
    for number, clock in enumerate(pieces):
        system = System(flat(f), flat(g), mass, _between(run, number), extrapolation_degree(c.kind))
        states.append(steps_from(c.kind, system, c.offset + run.direction * clock, u))
        u = _completed(run, clock[-1], states[-1][-1])
    return np.concatenate(states)


def _between(run: Run, number: int) -> tuple[float, float]:
    """The times between which the function may be asked in a piece: inside of the jumps around it."""
    breaks, away = run.breaks.detach().tolist(), run.direction * math.inf
    t = run.t.detach().tolist()
    begin = math.nextafter(breaks[number - 1], away) if number > 0 else t[0]
    end = math.nextafter(breaks[number], -away) if number < len(breaks) else t[-1]
    return min(begin, end), max(begin, end)


def _completed(run: Run, s: float, u: np.ndarray) -> np.ndarray:
    """A flat state with the algebraic variable that fits, if there is one."""
    if not isinstance(run.problem, Algebraic):
        return u
    rows, p = torch.from_numpy(u).reshape(run.start.shape), list((run.base * run.q.detach()).unbind(-1))
    return run.problem.completed(torch.tensor(s, dtype=torch.float64), rows, p).reshape(-1).numpy()


def check_exact(case: Case) -> list[str]:
    """Outputs, what is interpolated and the event against scipy."""
    run, outcome, solution = case.run, case.outcome, case.outcome.solution
    assert solution is not None
    clock, rows = [run.clock(solution.t)], [outcome.rows]
    read = [np.full(len(solution.t), case.c.outputs == "interpolate")]
    read[0][0] = False
    if outcome.afterwards is not None:
        clock.append(run.clock(run.times_between))
        rows.append(outcome.afterwards)
        read.append(np.ones(len(outcome.afterwards), dtype=bool))
    if outcome.event is not None:
        clock.append(np.array([0.55 * run.problem.span]))
        rows.append(outcome.event[1][None])
        read.append(np.array([False]))
    at, is_read = np.concatenate(clock), np.concatenate(read)
    exact = case.exact(at)
    errors = np.abs(torch.cat(rows).detach().double().numpy() - exact).max(axis=1)
    bound, why = _bound(case, float(np.abs(exact).max()))
    found = []
    allowed = np.where(is_read & case.c.adaptive, BETWEEN * bound, bound)
    allowed[is_read & _is_poor(case, at)] = np.inf
    if not (errors <= allowed).all():
        worst = int(np.argmax(errors / allowed))
        found.append(
            f"value: {errors[worst]:.1e} away from scipy at s = {at[worst]:.6g}, more than "
            f"{allowed[worst]:.1e}, {why}; look at the error estimate, and at interpolation.py for times "
            "between steps"
        )
    if outcome.event is not None:
        late = abs(float(run.clock(outcome.event[0][None])[0]) - 0.55 * run.problem.span)
        # The event function grows in time by at least 1, while the error of the state moves it.
        if not late <= bound:
            found.append(
                f"event: {late:.1e} away from that of scipy, more than {bound:.1e}; look at events.py"
            )
    return found


def _is_poor(case: Case, at: np.ndarray) -> np.ndarray:
    """Where adaptive steps are so few that a solve warns of states between them."""
    poor, kind = np.zeros(len(at), dtype=bool), case.c.kind
    if case.c.adaptive and not kind.own_interpolant:
        for ends in case.ends:
            if len(ends) - 1 < kind.interpolated_steps:
                poor |= (ends[0] <= at) & (at <= ends[-1])
    return poor


def _bound(case: Case, size: float) -> tuple[float, str]:
    """How far outputs on steps may be from exact ones, and why."""
    run, solution = case.run, case.outcome.solution
    assert solution is not None
    if case.c.adaptive:
        # The root mean square of an accepted step's error over all components is within the tolerance, and
        # errors add up at most, since these problems hardly amplify them.
        tolerance = float(torch.as_tensor(run.tolerances["atol"]).max()) + run.tolerances["rtol"] * size
        steps = solution.stats.accepted + 1
        bound = AMPLIFIED * steps * math.sqrt(run.start.numel()) * tolerance
        return bound + case.bounds.rounding, f"{AMPLIFIED:g} times the tolerance for each of {steps} steps"
    # Half the steps leave at most half of the error where the order is 1 or more.
    plain = Run(replace(case.plain.c, event=False))
    halves = tuple(np.repeat(ends, 2) for ends in case.steps.ends)
    for ends in halves:
        ends[::2] -= np.diff(ends[::2], prepend=0) / 2
    with torch.no_grad():
        coarse, fine = (plain.solve(steps, repeated=True) for steps in (case.steps, Recorded(halves)))
    moved = float((coarse.rows - fine.rows).abs().max())
    if coarse.afterwards is not None and fine.afterwards is not None:
        moved = max(moved, float((coarse.afterwards - fine.afterwards).abs().max()))
    if case.c.event:
        # It may lie where the error is larger than at any output.
        at = run.t.detach()[:1].double() + run.direction * 0.55 * run.problem.span
        with torch.no_grad():
            there, finer = (plain.rows_of(end.solution.interpolate(at)) for end in (coarse, fine))
        moved = max(moved, float((there - finer).abs().max()))
    return 6 * moved + case.bounds.rounding, "6 times what steps of half the length change"
