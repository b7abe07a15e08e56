"""A drawn combination that has been solved, beside what it is compared with."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from combinations.drawing import Combination
from combinations.problems import reference
from combinations.runs import Outcome, Run
from stiffml import Recorded


class Case:
    """A combination, and the same in double precision with a function as plain as can be, for the oracles.

    Attributes
    ----------
    run, plain : Run
        As drawn, and plain.
    bounds : Bounds
    """

    def __init__(self, c: Combination) -> None:
        self.c, self.bounds = c, Bounds(c)
        plain = replace(c, dtype="float64", time_dtype="float64", style="rows", given="module")
        self.plain, self.run = Run(plain), Run(c)
        if c.event:
            # The event function must grow wherever its component falls.
            span, slow = self.plain.problem.span, self.plain.problem.slow
            at = np.linspace(0, span, 41)
            speed = 3 * float(np.abs(np.diff(self.exact(at)[:, slow]) / np.diff(at)).max()) + 1
            level = float(np.float32(self.exact(np.array([0.55 * span]))[0, slow]))
            self.plain, self.run = Run(plain, level, speed), Run(c, level, speed)

    @cached_property
    def outcome(self) -> Outcome:
        return self.run.solve()

    @cached_property
    def steps(self) -> Recorded:
        """All that were taken; behind an event those that a run without it takes."""
        solution = self.outcome.solution
        assert solution is not None
        if solution.event is None:
            return solution.steps
        with torch.no_grad():
            solution = Run(replace(self.c, event=False)).solve().solution
        assert solution is not None
        return solution.steps

    @cached_property
    def ends(self) -> list[np.ndarray]:
        """The times on the clock that steps end on, from breakpoint to breakpoint."""
        intervals, breaks = self.run.intervals, self.plain.clock(self.plain.breaks)
        pieces = [intervals[:1]]
        for begin, end, fractions in zip(intervals[:-1], intervals[1:], self.steps.ends, strict=True):
            pieces[-1] = np.append(pieces[-1], [*(begin + fractions[:-1] * (end - begin)), end])
            if end in breaks:
                pieces.append(np.array([end]))
        return pieces if len(pieces[-1]) > 1 else pieces[:-1]

    def exact(self, at: np.ndarray) -> np.ndarray:
        """(len(at), size) what scipy has at times of the clock."""
        run, count = self.plain, math.prod(self.c.batch)
        start = run.start.detach().reshape(count, -1).numpy()
        parameters = run.q.detach().reshape(count, -1).numpy()
        return reference(run.problem, start, parameters, list(run.clock(run.breaks)), at)


class Bounds:
    """How far from right the numbers of a combination may be, all relative."""

    def __init__(self, c: Combination) -> None:
        self._c = c

    @property
    def gradient(self) -> float:
        """Against differences of the steps solved to rounding."""
        c = self._c
        if c.single:
            # Newton's iteration leaves 1e-5 of a stage, and there are some hundred of them.
            return 5e-3
        if c.adaptive and c.kind.newton and c.newton == "default":
            # It stops at 1 % of the tolerance in each step.
            return max(1e-6, 10 * c.rtol)
        return 1e-6

    @property
    def by_hand(self) -> float:
        """Of states, against the formulas of the same steps solved to rounding.

        Newton's iteration for given steps leaves 1e-10. Stiffness does not multiply it, because implicit
        methods are stable; a tenth of the bound of gradients, which are sums of all steps.
        """
        return 1e-3 if self._c.single else self.gradient / 10

    rounding = property(lambda self: 1e-3 if self._c.single else 1e-7)
    """Of states, where nothing else makes a difference from exact ones."""
