"""The loss along intervals and its gradient; what cannot be solved with smaller steps either is left out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.errors import LinearSolveError, ReplayError, SolveError
from stiffml.interface.integrate import solved
from stiffml.interface.tolerances import default_tolerances, divided
from stiffml.steps import Adaptive, Fixed, Grid, KeptSteps
from stiffml.training.descent.settings import FirstOrder
from stiffml.training.descent.unknowns import Unknowns
from stiffml.training.lm.intervals import Interval
from stiffml.training.lm.residuals import Residuals
from stiffml.training.lm.side_by_side import SideBySide, in_batch

FINER = 10.0
"""By how much tolerances are smaller where a solve with adaptive steps is tried again."""

FAILURES = (SolveError, LinearSolveError, ReplayError, ArithmeticError, ValueError)
"""What a solve raises that fails, and a func that is not finite where it starts."""


@dataclass(frozen=True)
class Fault:
    """A solve that failed: of which run, at which time (NaN if that is not known), why, and what was done."""

    run: str
    t: float
    cause: str
    remedy: str


@dataclass
class Evaluated:
    """The mean loss of the intervals that could be solved, its gradient, and those that could not."""

    loss: float = 0.0
    gradient: list[Tensor | None] = field(default_factory=list)
    lost: list[Interval] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class Observed:
    """What was observed of an interval.

    Attributes
    ----------
    times : ndarray
        (rows,)
    seen : Tensor
        (rows, components) bool: which numbers count.
    values, factors : Tensor
        (n,) those that count, and what their differences are multiplied by.
    """

    times: np.ndarray
    seen: Tensor
    values: Tensor
    factors: Tensor


class IntervalLoss:
    """The loss of a model and of what else is fitted.

    Parameters
    ----------
    residuals : Residuals
    unknowns : Unknowns
    settings : FirstOrder
    kept : KeptSteps, optional
        Each interval keeps steps like these. Default: the last states where steps are known and solved all at
        once, else nothing.
    observations_only : bool
        Without priors of initial values and jumps.

    Attributes
    ----------
    parameters : list of Tensor
        What gradients are by.
    """

    def __init__(
        self,
        residuals: Residuals,
        unknowns: Unknowns,
        settings: FirstOrder,
        kept: KeptSteps | None,
        observations_only: bool = False,
    ) -> None:
        self._observations_only = observations_only
        self._of, self._unknowns, self._settings = residuals, unknowns, settings
        self.parameters: list[Tensor] = [*residuals.vector.parameters, *unknowns.parameters]
        steps = residuals.options["steps"]
        if kept is None and residuals.together and isinstance(steps, Fixed | Grid):
            kept = KeptSteps(steps)
        self._template = kept
        self.kept: dict[Interval, KeptSteps] = {}
        self._scale = torch.from_numpy(residuals.scale.copy())
        self._known: dict[Interval, Observed] = {}

    def evaluate(self, intervals: Sequence[Interval], gradient: bool = True) -> Evaluated:
        """The loss over intervals; nothing is raised where solves fail."""
        found, total, count = Evaluated(), 0.0, 0
        sums: list[Tensor | None] = [None] * len(self.parameters)
        for part in self._parts(intervals):
            try:
                value, own, number = self._once(part, self._of.options, self._keeper(part), gradient)
            except FAILURES as error:
                one_by_one = len(part) > 1
                again = self._again(part, error, found, gradient, one_by_one)
            else:
                again = [(value, own, number)]
            for value, own, number in again:
                total, count = total + value, count + number
                sums = [_plus(one, other) for one, other in zip(sums, own, strict=True)]
        found.loss = total / count if count else float("nan")
        found.gradient = [None if one is None else one / max(count, 1) for one in sums]
        return found

    def name_of(self, interval: Interval) -> str:
        """The name of its run."""
        return self._of.runs[interval.run].name

    def new_kept(self, state: dict[str, Any]) -> KeptSteps:
        """Steps like those that intervals keep, from a ``state_dict``."""
        assert self._template is not None, "the same settings keep steps"
        kept = copy.copy(self._template)
        kept.load_state_dict(state)
        return kept

    def _parts(self, intervals: Sequence[Interval]) -> list[list[Interval]]:
        """What is solved in one call."""
        together = self._template is None and isinstance(self._of.engine, SideBySide)
        return [list(intervals)] if together and len(intervals) > 1 else [[one] for one in intervals]

    def _again(
        self, part: list[Interval], error: Exception, found: Evaluated, gradient: bool, one_by_one: bool
    ) -> list[tuple[float, list[Tensor | None], int]]:
        """What can be had of intervals whose solve has failed."""
        if one_by_one:
            found.faults.append(self._fault(None, error, "its runs solved one by one"))
        results = []
        for interval in part:
            if one_by_one:
                try:
                    results.append(self._once([interval], self._of.options, None, gradient))
                    continue
                except FAILURES as own:
                    error = own
            options = smaller_steps(self._of.options, self._of.arguments.y0.dtype)  # type: ignore[union-attr]
            if options is None:
                found.lost.append(interval)
                found.faults.append(self._fault(interval, error, "left out"))
                continue
            try:
                results.append(self._once([interval], options, None, gradient))
            except FAILURES as own:
                found.lost.append(interval)
                found.faults.append(self._fault(interval, error, "tried again with smaller steps"))
                found.faults.append(self._fault(interval, own, "left out"))
            else:
                found.faults.append(self._fault(interval, error, "solved with smaller steps"))
        return results

    def _fault(self, interval: Interval | None, error: Exception, remedy: str) -> Fault:
        run = "" if interval is None else self.name_of(interval)
        return Fault(
            run, float(getattr(error, "t", float("nan"))), str(error) or type(error).__name__, remedy
        )

    def _keeper(self, part: list[Interval]) -> KeptSteps | None:
        if self._template is None:
            return None
        if part[0] not in self.kept:
            self.kept[part[0]] = copy.copy(self._template)
        return self.kept[part[0]]

    def _once(
        self, part: list[Interval], options: dict[str, Any], keeper: KeptSteps | None, gradient: bool
    ) -> tuple[float, list[Tensor | None], int]:
        """The sum of losses of intervals solved in one call, its gradient, and over how many numbers."""
        with torch.inference_mode(False), torch.set_grad_enabled(gradient):
            value, count = self._sum(part, options, keeper)
            if not torch.isfinite(value):
                raise ArithmeticError("the loss is not finite")
            own: list[Tensor | None] = [None] * len(self.parameters)
            if gradient and value.requires_grad:
                own = list(torch.autograd.grad(value, self.parameters, allow_unused=True))
                if not all(one is None or bool(torch.isfinite(one).all()) for one in own):
                    raise ArithmeticError("the gradient is not finite")
        return float(value.detach()), own, count

    def _sum(
        self, part: list[Interval], options: dict[str, Any], keeper: KeptSteps | None
    ) -> tuple[Tensor, int]:
        observed = [self._observed(one) for one in part]
        times, starts = [one.times for one in observed], [self._unknowns.start(one) for one in part]
        total, count = torch.zeros((), dtype=torch.float64), 0
        solutions = self._solved(times, starts, options, keeper)
        for one, data, y in zip(part, observed, solutions, strict=True):
            off = (y[data.seen] - data.values) * data.factors
            parts, following = [off], None
            if not self._observations_only:
                parts.append(self._unknowns.prior(one))
                following = self._unknowns.next(one)
            if following is not None:
                parts.append((y[-1] - following) / self._scale * self._settings.continuity**0.5)
            residuals = torch.cat(parts)
            total = total + (residuals.abs() if self._settings.loss == "absolute" else residuals**2).sum()
            count += len(residuals)
        return total, count

    def _observed(self, interval: Interval) -> Observed:
        """What was observed of it; asked for again and again."""
        if interval not in self._known:
            run, rows = self._of.runs[interval.run], slice(interval.first, interval.last + 1)
            counts = self._of.observed(interval)
            factors = (np.sqrt(run.weights[rows]) / self._of.scale)[counts]
            times, values = run.times[rows].copy(), torch.from_numpy(run.values[rows][counts])
            self._known[interval] = Observed(
                times, torch.from_numpy(counts), values, torch.from_numpy(factors)
            )
        return self._known[interval]

    def _solved(
        self, times: list[np.ndarray], starts: list[Tensor], options: dict[str, Any], keeper: KeptSteps | None
    ) -> list[Tensor]:
        """For each interval (rows, components)."""
        arguments = dataclasses.replace(self._of.arguments, **options)
        like = arguments.y0
        if len(times) == 1:
            steps = arguments.steps if keeper is None else keeper
            t = torch.from_numpy(times[0])
            y = solved(dataclasses.replace(arguments, y0=starts[0].to(like), t=t, steps=steps)).y  # type: ignore[arg-type]
            return [y.cpu().double()]  # type: ignore[union-attr]
        batch = in_batch(arguments, times, [start.detach().numpy() for start in starts])
        y0 = torch.stack(starts).to(like)  # type: ignore[arg-type]
        y = solved(dataclasses.replace(batch, y0=y0)).y.cpu().double()  # type: ignore[union-attr]
        return [y[: len(own), i] for i, own in enumerate(times)]


def smaller_steps(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any] | None:
    """The arguments of a solve with half the steps, or a tenth of the tolerances; None if steps are given."""
    steps = options["steps"]
    if isinstance(steps, Grid):
        return {**options, "steps": Grid(2 * steps.substeps)}
    if isinstance(steps, Fixed):
        return {**options, "steps": Fixed(steps.h / 2)}
    if isinstance(steps, Adaptive):
        rtol, atol = default_tolerances(dtype)
        rtol, atol = (
            divided(options.get(name, usual), FINER) for name, usual in (("rtol", rtol), ("atol", atol))
        )
        if not isinstance(rtol, tuple | Tensor):
            rtol = max(rtol, 10 * torch.finfo(dtype).eps)
        return {**options, "rtol": rtol, "atol": atol}
    return None


def _plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other
