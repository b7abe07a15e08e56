"""Whether a drawn combination does what it should; what is off, by how much, and what to look at.

``repeat(seed)`` does one draw again, by itself.
"""

from __future__ import annotations

import itertools
import math
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from combination_problems import Algebraic, reference
from combination_runs import Function, Outcome, Run, loss
from combinations import Combination, draw
from gradients import compare
from steps_by_hand import System, steps_from
from torch import Tensor

from stiffml import Recorded, Status

DEADLINE = 120
"""Seconds of the processor's time after which a draw hangs; a usual one takes 1."""

BY_HAND = {"float64": 1e-8, "float32": 1e-3}
"""How far states may be from the formulas of the same steps. Newton's iteration leaves 1e-10 of them, and no
more than rounding if it is tight. Stiffness multiplies neither, because implicit methods are stable."""

DIFFERENCES = 1e-6
"""How far gradients may be from differences; see ``compare``."""

LOOSE = 10.0
"""And in multiples of rtol where the iteration of an adaptive run stops at 1 % of it."""

SINGLE = 5e-3
"""How far gradients in single precision may be from those in double precision: Newton's iteration leaves 1e-5
of a stage, and there are some hundred of them."""

SIZE, FLOOR = 3e-4, 1e-3
"""Steps of differences, relative to the inputs; and below which part of the loss they are rounding, 1e-10 of
the loss, which is a tenth of FLOOR · DIFFERENCES."""

BETWEEN = 10.0
"""How much less accurate what is interpolated may be."""

AMPLIFIED = 10.0
"""By what the error of one step may grow until the end."""

LOOK_AT = {
    "y0": "the method's pattern and numbers, then sweep.py",
    "parameters": "which nodes the cotangents of f belong to, in equations.py, and what counts as a parameter",
    "t": "times.py, output_gradient in trajectory.py, and how the method's numbers depend on times",
    "mass": "adjoint.mass_gradient, and in initialization.py if make_consistent is there",
    "breakpoints": "pieces.py",
    "event": "differentiable_event in events.py",
    "times of interpolate": "Reading.time_gradient in interpolation.py",
}


class HangsError(BaseException):
    """A draw took too long. No Exception, which a solver might take for a failed step."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise after so much of the processor's time, which other programs do not shorten."""

    def stop(*_: object) -> None:
        raise HangsError(f"it has not ended after {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def failures(seed: int, each: bool = True) -> list[str]:
    """What is wrong with the draw of a seed; empty if nothing is.

    ``each``: whether the gradient with respect to each kind of input is looked at by itself, which takes
    three times as long as one direction through all of them.
    """
    c = draw(seed)
    try:
        with deadline(DEADLINE):
            found = _Draw(c).failures(each)
    except HangsError as error:
        found = [f"hangs: {error}; look at where it is in the traceback of repeat({seed}, raise_=True)"]
    except Exception as error:
        found = [f"raised {type(error).__name__}: {error}"]
    if not found:
        return []
    again = f"again, in tests/: python -c 'from combination_checks import repeat; repeat({seed})'"
    return [str(c), *(f"  {line}" for line in found), f"  {again}"]


def repeat(seed: int, raise_: bool = False) -> None:
    """Do the draw of a seed again and print what is wrong; with ``raise_`` let its exceptions through."""
    print("\n".join((_Draw(draw(seed)).failures(True) if raise_ else failures(seed)) or ["right"]))


class _Draw:
    """A combination, and the same in double precision with a function as plain as can be, for the oracles."""

    def __init__(self, c: Combination) -> None:
        self.c = c
        self.found: list[str] = []
        plain = replace(c, dtype="float64", time_dtype="float64", style="rows", given="module")
        self.plain, self.run = Run(plain), Run(c)
        if c.event:
            # The event function must grow wherever its component falls.
            span, slow = self.plain.problem.span, self.plain.problem.slow
            at = np.linspace(0, span, 41)
            speed = 3 * float(np.abs(np.diff(self._exact(at)[:, slow]) / np.diff(at)).max()) + 1
            level = float(np.float32(self._exact(np.array([0.55 * span]))[0, slow]))
            self.plain, self.run = Run(plain, level, speed), Run(c, level, speed)

    def failures(self, each: bool) -> list[str]:
        if self._is_refused():
            return self.found
        outcome = self._forward()
        solution = outcome.solution
        assert solution is not None
        if not self._check_form(outcome):
            return self.found
        self.steps = self._steps_of(solution)
        self._check_by_hand(outcome)
        self._check_exact(outcome)
        self._check_gradients(outcome, each)
        return self.found

    def _say(self, what: str) -> None:
        self.found.append(what)

    # What is refused

    def _is_refused(self) -> bool:
        expected = self.c.refusal()
        if expected is None:
            return False
        try:
            with torch.no_grad():
                self.run.solve()
        except ValueError as error:
            if not re.search(expected, str(error)):
                self._say(f"refused, but not for {expected!r}: {error}; look at arguments.py")
        else:
            self._say(f"solved, but the capability table refuses it ({expected!r}); look at arguments.py")
        return True

    # Values

    def _forward(self) -> Outcome:
        run, c = self.run, self.c
        alone = None
        if c.grad == "no_grad first":
            with torch.no_grad():
                alone = run.solve()
        outcome = run.solve()
        if alone is not None and not torch.equal(alone.rows, outcome.rows.detach()):
            off = float((alone.rows - outcome.rows).detach().abs().max())
            self._say(f"value under no_grad differs by {off:.1e}; look at what a run leaves behind")
        return outcome

    def _check_form(self, outcome: Outcome) -> bool:
        """Whether all outputs are there; those before the event if there is one."""
        run, solution, found = self.run, outcome.solution, len(self.found)
        assert solution is not None
        status = Status.EVENT if self.c.event else Status.SUCCESS
        if solution.status is not status:
            self._say(f"ended with {solution.status}: {solution.message}; look at forward.py")
            return False
        t, count = run.t.detach(), len(run.t)
        if outcome.event is not None:
            passed = run.clock(outcome.event[0][None])
            count = int((run.clock(t) < passed).sum())
        if outcome.rows.shape != (count, run.start.numel()) or len(solution.t) != count:
            self._say(f"{len(outcome.rows)} outputs instead of {count}; look at Run.in_time in forward.py")
        elif not torch.equal(solution.t.detach(), t[:count]):
            self._say("solution.t is not t; look at _finish in integration.py")
        y0 = run.as_rows(run.y0).detach().reshape(-1)
        if self.c.consistent and not torch.equal(outcome.rows[0].detach(), y0):
            self._say("the first output is not y0; look at _finish in integration.py")
        if not torch.isfinite(outcome.rows).all():
            self._say("outputs are not finite; look at forward.py")
        return len(self.found) == found

    def _steps_of(self, solution: Any) -> Recorded:
        """All of them; behind an event those that a run without it takes."""
        if solution.event is None:
            return solution.steps
        run = Run(replace(self.c, event=False))
        with torch.no_grad():
            found = run.solve().solution
        assert found is not None
        return found.steps

    @cached_property
    def _ends(self) -> list[np.ndarray]:
        """The times on the clock that steps end on, from breakpoint to breakpoint."""
        intervals, breaks = self.run.intervals, self.plain.clock(self.plain.breaks)
        pieces = [np.array([intervals[0]])]
        for begin, end, fractions in zip(intervals[:-1], intervals[1:], self.steps.ends, strict=True):
            pieces[-1] = np.append(pieces[-1], [*(begin + fractions[:-1] * (end - begin)), end])
            if end in breaks:
                pieces.append(np.array([end]))
        return pieces if len(pieces[-1]) > 1 else pieces[:-1]

    def _by_hand(self, pieces: list[np.ndarray], within_span: bool, consistent: bool) -> np.ndarray:
        """The states at the ends of steps, the start of each piece included.

        ``consistent``: whether a piece starts with algebraic variables that fit.
        """
        run, c = self.plain, self.plain.c
        size = run.start.numel()
        breaks = run.breaks.detach().tolist()
        f, g = Function(run, "stiff" if c.is_split else "slopes"), Function(run, "rest")

        def flat(func: Function, t: Tensor, u: Tensor) -> Tensor:
            rows = u.reshape(*u.shape[:-1], *run.start.shape)
            return run.as_rows(func(t, run.as_state(rows))).reshape(u.shape)

        mass = np.eye(size)
        if c.has_mass:
            blocks = run.mass.detach()
            blocks = blocks if c.mass == "dense" else torch.diag_embed(blocks)
            blocks = blocks.expand(*c.batch, *blocks.shape[-2:]).reshape(-1, *blocks.shape[-2:])
            mass = torch.block_diag(*blocks).numpy()
        f_flat, g_flat = (lambda t, u, part=part: flat(part, t, u) for part in (f, g))
        states, u = [], self._completed(0.0, run.start.detach().reshape(-1).numpy())
        for number, clock in enumerate(pieces):
            between = self._within(number, breaks, within_span)
            system = System(f_flat, g_flat if c.is_split else None, mass, between)
            states.append(steps_from(c.kind, system, c.offset + run.direction * clock, u))
            u = self._completed(clock[-1], states[-1][-1]) if consistent else states[-1][-1]
        return np.concatenate(states)

    def _within(self, number: int, breaks: list[float], within_span: bool) -> tuple[float, float]:
        """The times between which the function may be asked in a piece: inside of the jumps around it."""
        away = self.plain.direction * math.inf
        t = self.plain.t.detach().tolist()
        first, last = (t[0], t[-1]) if within_span else (-away, away)
        begin = math.nextafter(breaks[number - 1], away) if number > 0 else first
        end = math.nextafter(breaks[number], -away) if number < len(breaks) else last
        return min(begin, end), max(begin, end)

    def _completed(self, s: float, u: np.ndarray) -> np.ndarray:
        """A flat state with the algebraic variable that fits, if there is one."""
        run = self.plain
        if not isinstance(run.problem, Algebraic):
            return u
        rows, p = torch.from_numpy(u).reshape(run.start.shape), list((run.base * run.q.detach()).unbind(-1))
        return run.problem.completed(torch.tensor(s, dtype=torch.float64), rows, p).reshape(-1).numpy()

    def _check_by_hand(self, outcome: Outcome) -> None:
        """States at all ends of steps against the formulas of the method."""
        pieces = self._ends
        assert outcome.solution is not None
        if outcome.event is not None:
            end = float(self.run.clock(outcome.event[0][None])[0])
            pieces = [piece for piece in pieces if piece[0] < end]
            pieces[-1] = np.append(pieces[-1][pieces[-1] < end], end)
        clock = np.concatenate(pieces)
        kept = np.append(np.diff(clock) > 0, True)  # of a breakpoint, where two pieces have it, the latter
        times = self.c.offset + self.run.direction * torch.from_numpy(clock[kept])
        last = len(times) - (outcome.event is not None)  # which single precision may round out of the span
        with torch.no_grad():
            found = self.run.rows_of(outcome.solution.interpolate(times[:last])).double().numpy()
        if outcome.event is not None:
            found = np.append(found, outcome.event[1].detach().double().numpy()[None], axis=0)
        bound = self._value_bound
        errors = []
        # A stage outside of the span may be evaluated at its end; what a step leaves of an algebraic equation
        # may be put right at a breakpoint.
        for variant in itertools.product((False, True), (False, True) if self.c.is_dae else (False,)):
            expected = self._by_hand(pieces, *variant)[kept]
            errors.append(np.abs(found - expected).max(axis=1) / np.abs(expected).max())
            if errors[-1].max() <= bound:
                return
        at = int(np.argmax(errors[0] > bound))
        self._say(
            f"value: the step that ends at s = {clock[kept][at]:.6g}, number {at} of {kept.sum() - 1}, is "
            f"{errors[0][at]:.1e} away from the method's formula (at the end {errors[0][-1]:.1e}, bound "
            f"{bound:g}); look at steps_by_hand.py, and at petsc/stepper.py"
        )

    def _exact(self, at: np.ndarray) -> np.ndarray:
        run = self.plain
        count = math.prod(run.c.batch)
        start = run.start.detach().reshape(count, -1).numpy()
        parameters = run.q.detach().reshape(count, -1).numpy()
        return reference(run.problem, start, parameters, list(run.clock(run.breaks)), at)

    def _check_exact(self, outcome: Outcome) -> None:
        """Outputs, what is interpolated and the event against scipy."""
        run, solution = self.run, outcome.solution
        assert solution is not None
        clock = run.clock(solution.t)
        found = [outcome.rows.detach().double().numpy()]
        if outcome.afterwards is not None:
            clock = np.append(clock, run.clock(run.times_between[: len(outcome.afterwards)]))
            found.append(outcome.afterwards.detach().double().numpy())
        if outcome.event is not None:
            clock = np.append(clock, 0.55 * run.problem.span)
            found.append(outcome.event[1].detach().double().numpy()[None])
        exact = self._exact(clock)
        errors = np.abs(np.concatenate(found) - exact)
        bound, why = self._bound(outcome, exact)
        # Between steps outputs are less accurate than on them where steps are long.
        read = np.zeros(len(clock), dtype=bool)
        read[1 : len(run.t) - 1] = self.c.outputs == "interpolate"
        if outcome.afterwards is not None:
            read[len(solution.t) : len(solution.t) + len(outcome.afterwards)] = True
        errors[read] /= BETWEEN if self.c.adaptive else 1
        if not errors.max() <= bound:
            at = int(np.argmax(errors.max(axis=1)))
            self._say(
                f"value: {errors.max():.1e} away from scipy at s = {clock[at]:.6g}, more than {bound:.1e}, "
                f"{why}; look at the error estimate, and at interpolation.py for times between steps"
            )
        if outcome.event is not None:
            late = abs(float(run.clock(outcome.event[0][None])[0]) - 0.55 * run.problem.span)
            # Twice the error of the state by the speed of the event function.
            if not late <= bound:
                self._say(
                    f"event: {late:.1e} away from that of scipy, more than {bound:.1e}; look at events.py"
                )

    def _bound(self, outcome: Outcome, exact: np.ndarray) -> tuple[float, str]:
        """How far outputs may be from exact ones, and why."""
        run, solution = self.run, outcome.solution
        assert solution is not None
        rounding = 1e-3 if self.c.single else 1e-7
        if self.c.adaptive:
            # The root mean square of an accepted step's error over all components is within the tolerance.
            # Errors add up at most, since these problems hardly amplify them.
            rtol, atol = run.tolerances["rtol"], float(torch.as_tensor(run.tolerances["atol"]).max())
            steps, one = solution.stats.accepted + 1, math.sqrt(run.start.numel())
            bound = AMPLIFIED * steps * one * (atol + rtol * float(np.abs(exact).max()))
            return bound + rounding, f"{AMPLIFIED:g} times the tolerance for each of {steps} steps"
        # Half the steps leave at most half of the error where the order is 1 or more.
        plain = Run(replace(self.plain.c, event=False))
        halves = tuple(np.repeat(ends, 2) for ends in self.steps.ends)
        for ends in halves:
            ends[::2] -= np.diff(ends[::2], prepend=0) / 2
        with torch.no_grad():
            coarse, fine = (plain.solve(steps, repeated=True) for steps in (self.steps, Recorded(halves)))
        moved = float((coarse.rows - fine.rows).abs().max())
        if coarse.afterwards is not None and fine.afterwards is not None:
            moved = max(moved, float((coarse.afterwards - fine.afterwards).abs().max()))
        return 6 * moved + rounding, "6 times what steps of half the length change"

    # Gradients

    def _check_gradients(self, outcome: Outcome, each: bool) -> None:
        """Against differences along one direction through all inputs, or one through ``each``."""
        run, plain, c = self.run, self.plain, self.c
        if c.entry != "solve":
            outcome = run.solve(entry=c.entry)
        value = loss(outcome)
        if c.grad == "two forwards":
            run.solve()
        names, leaves = list(run.inputs), list(run.inputs.values())
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        missing = [name for name, g in zip(names, found, strict=True) if g is None]
        for name in missing:
            self._say(f"gradient wrt {name} is None; look at {LOOK_AT[name]}")
        gradients = dict(zip(names, found, strict=True))
        with torch.no_grad():
            moved = abs(float(self._repeated_loss() - value))
        if not moved <= self._value_bound * abs(value.item()):
            self._say(
                f"value: with the steps taken again the loss is {moved:.1e} away; look at Solution.steps "
                "and at with_ramps in steps.py"
            )
        parts = {}
        for name, leaf in plain.inputs.items():
            gradient = gradients[name]
            if gradient is not None:
                free = self._free(name, leaf)
                inputs = [leaf.detach().reshape(-1)[n : n + 1] for n in free]
                parts[name] = inputs, [gradient.double().reshape(-1)[n : n + 1] for n in free]
        bound = self._gradient_bound
        if not each:
            inputs, slopes = ([x for part in parts.values() for x in part[k]] for k in (0, 1))
            error, _ = compare(self._repeated_loss, inputs, slopes, SIZE, floor=FLOOR)
            if error <= bound:
                return
        for name, (inputs, slopes) in parts.items():
            if inputs:
                error, _ = compare(self._repeated_loss, inputs, slopes, SIZE, floor=FLOOR)
                if not error <= bound:
                    self._say(
                        f"gradient wrt {name} is off by {error:.1e}, more than {bound:g}; look at "
                        f"{LOOK_AT[name]}"
                    )
        if not each and not any(line.startswith("gradient") for line in self.found):
            self._say(f"gradient wrt all together is off by {error:.1e}, each by less than {bound:g}")

    @property
    def _gradient_bound(self) -> float:
        if self.c.single:
            return SINGLE
        if self.c.adaptive and self.c.kind.newton and self.c.newton == "default":
            return max(DIFFERENCES, LOOSE * float(self.run.tolerances["rtol"]))
        return DIFFERENCES

    @property
    def _value_bound(self) -> float:
        return max(BY_HAND["float32" if self.c.single else "float64"], self._gradient_bound / 10)

    def _repeated_loss(self) -> Tensor:
        return loss(self.plain.solve(self.steps, repeated=True))

    def _free(self, name: str, leaf: Tensor) -> list[int]:
        """The entries to move: no zeros of a mass matrix, and no times where there is a kink."""
        if name == "mass":
            return torch.nonzero((self.plain.mass_base != 0).reshape(-1)).reshape(-1).tolist()
        if name in ("t", "breakpoints", "times of interpolate") and self._has_kink:
            return []
        return list(range(leaf.numel()))

    @cached_property
    def _has_kink(self) -> bool:
        """Whether something is interpolated next to the end of a step, where differences see both sides."""
        run = self.plain
        read = run.clock(run.times_between) if self.c.afterwards else np.empty(0)
        if self.c.outputs == "interpolate":
            read = np.append(read, run.clock(run.t)[1:-1])
        ends = np.concatenate(self._ends)
        return bool((np.abs(read[:, None] - ends) < 5 * SIZE * run.problem.span).any())
