"""Residuals of a model along runs: what it says minus what was observed, in units of a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from stiffml.all_at_once.guess import interpolated
from stiffml.interface.arguments import Arguments
from stiffml.interface.checking import check
from stiffml.interface.equations import space_of
from stiffml.interface.planning import WIDEST, obstacle_to_plan
from stiffml.interface.solution import Solution
from stiffml.system.space import solving_on
from stiffml.training.data import Runs
from stiffml.training.lm.intervals import Interval, filled
from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.lm.one_by_one import OneByOne, path_of
from stiffml.training.lm.side_by_side import SideBySide, takes_batch
from stiffml.training.lm.solved_point import SolvedPoint
from stiffml.training.lm.step_by_step import step_by_step
from stiffml.training.lm.together import Together
from stiffml.training.lm.vector import FittedVector

Path = tuple[np.ndarray, np.ndarray]
"""Times (k,) and states (k, size)."""

SMALL = 2_000
"""Parameters up to which all runs are solved in one call, and differentiated by tangents."""

ROOM = 400_000_000
"""Derivatives in a matrix at most: 3.2 GB."""


class Residuals:
    """The residuals of a model along runs, for any set of intervals of them.

    Parameters
    ----------
    model : nn.Module
        func(t, y) -> dy/dt.
    runs : Runs
    scale : ndarray
        (components,) in whose units residuals are.
    arguments : mapping
        Those of a solve: ``method``, ``steps`` and others.

    Attributes
    ----------
    vector : FittedVector
    options : dict
        The arguments of a solve.
    together : bool
        Whether all steps of all runs are solved at once.
    by_products : bool
        Whether derivatives are too many for a matrix, and are to be had by its products only.
    engine : Together, SideBySide or OneByOne
        What solves intervals: all steps at once where they are known; step by step for all intervals in one
        call, where the model takes a batch; or one interval after the other.
    """

    def __init__(self, model: nn.Module, runs: Runs, scale: np.ndarray, arguments: dict[str, Any]) -> None:
        self.model, self.runs, self.scale, self.options = model, runs, scale, arguments
        self.vector = FittedVector(model, runs, scale)
        dtype = self.vector.parameters[0].dtype
        y0 = torch.from_numpy(runs[0].y0.copy()).to(dtype)
        times = torch.from_numpy(np.unique(runs.times))
        self.arguments = Arguments(model, y0, times, **arguments)
        self._filled = [filled(run) for run in runs]
        self.by_products = sum(int(run.mask.sum()) for run in runs) * len(self.vector) > ROOM
        self.engine = self._engine()

    @property
    def together(self) -> bool:
        return isinstance(self.engine, Together)

    def _engine(self) -> Together | SideBySide | OneByOne:
        plain = {**vars(self.arguments), "params": tuple(self.vector.parameters)}
        with solving_on(space_of(self.model)), torch.enable_grad():
            request = check(Arguments(**plain))
        system = request.system
        position = {id(p): i for i, p in enumerate(system.parameters)}
        # Iterations go on from the point before, which is a guess, so that wider systems are solved together.
        possible = request.plan is not None or (
            request.method.newton
            and not system.constant_jacobian
            and not obstacle_to_plan(request.steps, system, request.solver, {}, WIDEST)
        )
        if possible and not (system.mass is not None and system.mass.singular):
            engine = Together(request, [position[id(p)] for p in self.vector.parameters])
            engine.expect(sum(len(run.times) for run in self.runs))
            return engine
        first = self.runs[0]
        # Those of a large network are differentiated by adjoints, which are of one run.
        is_small = len(self.vector) <= SMALL and not self.by_products
        if is_small and takes_batch(self.arguments, first.times, first.y0):
            return SideBySide(self.arguments, self.vector.parameters)
        return OneByOne(self.arguments, self.vector.parameters)

    def write(self, theta: np.ndarray) -> None:
        """Give the model these numbers (size,).

        Raises
        ------
        TrialError
            If the model is compiled, reads other things than before, and cannot be compiled with these.
        """
        self.vector.write(theta)
        if isinstance(self.engine, Together):
            try:
                self.engine.renew()
            except ValueError as error:
                raise TrialError(str(error)) from error

    def of(self, intervals: Sequence[Interval]) -> IntervalResiduals:
        """The residuals of these intervals."""
        return IntervalResiduals(self, intervals)

    def observed(self, interval: Interval) -> np.ndarray:
        """(rows, components) bool: which observations count. The first row does where it is not known."""
        run = self.runs[interval.run]
        rows = slice(interval.first, interval.last + 1)
        counts = run.mask[rows]
        counts[0] &= np.isinf(run.y0_noise) if interval.first == 0 else False
        return counts

    def filled(self, interval: Interval) -> np.ndarray:
        """(rows, components) the observations, gaps filled by straight lines."""
        return self._filled[interval.run][interval.first : interval.last + 1]

    def start_of(self, theta: np.ndarray, interval: Interval) -> np.ndarray:
        """The state (components,) at which an interval starts."""
        state = self._filled[interval.run][interval.first]
        return self.vector.starts(theta, interval.run, state, interval.first == 0)

    def change_of(self, interval: Interval) -> np.ndarray:
        """Its derivative (size, components) by all numbers."""
        return self.vector.changes(interval.run, len(self.scale), interval.first == 0)

    def learned_by(self, interval: Interval) -> dict[int, int]:
        """From components of that state, if they are fitted, to their positions among all numbers."""
        return self.vector.learned[interval.run] if interval.first == 0 else {}


class IntervalResiduals:
    """The problem of one rung: residuals of intervals, one after the other, by rows and components.

    A point keeps the states of all steps, from which the iteration for a neighbouring point begins.
    """

    def __init__(self, residuals: Residuals, intervals: Sequence[Interval]) -> None:
        self._of, self.intervals = residuals, tuple(intervals)
        runs, scale = residuals.runs, residuals.scale
        rows = [slice(i.first, i.last + 1) for i in intervals]
        self._times = [runs[i.run].times[part].copy() for i, part in zip(intervals, rows, strict=True)]
        self.counts = [residuals.observed(i) for i in intervals]
        self._values = [runs[i.run].values[part] for i, part in zip(intervals, rows, strict=True)]
        self._factors = [
            np.sqrt(runs[i.run].weights[part]) / scale for i, part in zip(intervals, rows, strict=True)
        ]
        self._observed = [
            (times, residuals.filled(i)) for times, i in zip(self._times, intervals, strict=True)
        ]
        self._engine = residuals.engine
        columns = 1 if residuals.by_products else len(residuals.vector)
        self._groups = residuals.engine.groups(self._times, columns)

    def evaluate(self, theta: np.ndarray, near: SolvedPoint) -> SolvedPoint:
        """The point at parameters (size,); Newton's iteration begins from the states of ``near``.

        Raises
        ------
        TrialError
            If they cannot be solved.
        """
        return self._evaluate(theta, near.paths, near.solved)

    def begin(
        self, theta: np.ndarray, paths: Sequence[Path] | None, held: dict[str, Any] | None = None
    ) -> SolvedPoint:
        """The point at parameters (size,), where there is no neighbouring one.

        The iteration begins from the vectors of a rung that had them as unknowns, ``held``, where there are
        some, else from ``paths``, else from the observations, then from the starts of the intervals, then
        from the states and stages that a solve step by step finds. A path that ends before its interval is
        continued step by step: a constant is no guess where times span decades, and may lead to another
        solution of the steps, or to none.

        Raises
        ------
        TrialError
            If an interval cannot be solved step by step either; it says which.
        """
        if held is not None:
            try:
                near = self._engine.restored(self._groups, held["solved"])  # type: ignore[arg-type]
                return self._evaluate(theta, near.paths, near)
            except TrialError:
                pass  # from its states alone then
        guesses = [paths] if paths is not None else [self._observed, None]
        for guess in guesses if self._of.together else [None]:
            try:
                return self._evaluate(theta, None if guess is None else self._continued(theta, guess))
            except TrialError:
                continue
        starts = [self._of.start_of(theta, interval) for interval in self.intervals]
        found = [
            self._step_by_step(interval, times, start)
            for interval, times, start in zip(self.intervals, self._times, starts, strict=True)
        ]
        return self._evaluate(theta, list(map(path_of, found)), self._engine.assembled(self._groups, found))  # type: ignore[arg-type]

    def _continued(self, theta: np.ndarray, paths: Sequence[Path]) -> list[Path]:
        """The paths up to the ends of the intervals."""
        self._of.write(theta)
        found = []
        for interval, rows, (times, states) in zip(self.intervals, self._times, paths, strict=True):
            if isinstance(self._engine, Together) and times[-1] < rows[-1]:
                rest = np.concatenate([times[-1:], rows[rows > times[-1]]])
                more, new = path_of(self._step_by_step(interval, rest, states[-1]))
                times, states = np.concatenate([times, more[1:]]), np.concatenate([states, new[1:]])
            found.append((times, states))
        return found

    def _step_by_step(self, interval: Interval, times: np.ndarray, start: np.ndarray) -> Solution:
        steps = self._engine.steps_between(times) if isinstance(self._engine, Together) else None
        try:
            return step_by_step(self._of.arguments, times, start, steps)
        except Exception as error:  # whatever func raises far from the data
            run = self._of.runs[interval.run].name
            t = float(getattr(error, "t", float("nan")))
            raise TrialError(f"run {run}: {error}", run, t) from error

    def _evaluate(self, theta: np.ndarray, paths: Sequence[Path] | None, near: Any = None) -> SolvedPoint:
        try:
            self._of.write(theta)
            starts = [self._of.start_of(theta, interval) for interval in self.intervals]
            return self._point(theta, self._engine.solve(self._groups, starts, paths, near))  # type: ignore[arg-type]
        except Exception as error:  # func may raise whatever it likes far from the data
            raise TrialError(
                str(error) or type(error).__name__, t=float(getattr(error, "t", float("nan")))
            ) from error

    def _point(self, theta: np.ndarray, solved: Any) -> SolvedPoint:
        residuals = self._misfit(solved.outputs)
        if not np.isfinite(residuals).all():
            raise FloatingPointError("a residual is not finite")
        return SolvedPoint(self, theta, residuals, solved)

    def _misfit(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """(m,) from the states (rows, size) of each interval."""
        parts = zip(outputs, self._values, self._factors, self.counts, strict=True)
        return np.concatenate([((y - values) * factor)[counts] for y, values, factor, counts in parts])

    def jacobian(self, theta: np.ndarray, solved: Any) -> np.ndarray:
        """(m, size) the derivatives of the residuals at a point."""
        self._of.write(theta)
        changes = [self._of.change_of(interval) for interval in self.intervals]
        derivatives = self._engine.derivatives(solved, changes)
        parts = zip(derivatives, self._factors, self.counts, strict=True)
        return np.concatenate([(dy * factor[:, :, None])[counts] for dy, factor, counts in parts])

    @property
    def by_products(self) -> bool:
        """As of the residuals."""
        return self._of.by_products

    def along(self, theta: np.ndarray, solved: Any, v: np.ndarray) -> np.ndarray:
        """(m,) the product of the derivatives at a point with ``v`` (size,)."""
        assert not isinstance(self._engine, SideBySide)
        self._of.write(theta)
        starts = np.zeros((len(self.intervals), len(self._of.scale)))
        for start, interval in zip(starts, self.intervals, strict=True):
            for component, position in self._of.learned_by(interval).items():
                start[component] = v[position]
        found = self._engine.along(solved, v[: self._engine.count], list(starts))
        parts = zip(found, self._factors, self.counts, strict=True)
        return np.concatenate([(dy * factor)[counts] for dy, factor, counts in parts])

    def back(self, theta: np.ndarray, solved: Any, w: np.ndarray) -> np.ndarray:
        """(size,) the product of their transpose with ``w`` (m,)."""
        assert not isinstance(self._engine, SideBySide)
        self._of.write(theta)
        cotangents, first = [], 0
        for factor, counts in zip(self._factors, self.counts, strict=True):
            rows = np.zeros(counts.shape)
            rows[counts] = w[first : first + counts.sum()]
            first += int(counts.sum())
            cotangents.append(rows * factor)
        by_model, by_start = self._engine.back(solved, cotangents)
        found = np.zeros(len(self._of.vector))
        found[: len(by_model)] = by_model
        for gradient, interval in zip(by_start, self.intervals, strict=True):
            for component, position in self._of.learned_by(interval).items():
                found[position] += gradient[component]
        return found

    def kept(self, point: SolvedPoint) -> dict[str, Any]:
        """What :meth:`restored` needs."""
        return {"theta": point.theta, "solved": self._engine.kept(point.solved)}

    def restored(self, kept: dict[str, Any]) -> SolvedPoint:
        """The point with the very states that were kept."""
        self._of.write(kept["theta"])
        return self._point(kept["theta"], self._engine.restored(self._groups, kept["solved"]))  # type: ignore[arg-type]


def rearranged(
    old: Sequence[Interval], paths: Sequence[Path], new: Sequence[Interval], residuals: Residuals
) -> list[Path] | None:
    """Paths of new intervals from those of old ones: what is known of each run, by time.

    They end where nothing further is known. None if they begin where nothing is known.
    """
    by_run: dict[int, list[Path]] = {}
    for interval, path in zip(old, paths, strict=True):
        by_run.setdefault(interval.run, []).append(path)
    found = []
    for interval in new:
        if interval.run not in by_run:
            return None
        times = np.concatenate([t for t, _ in by_run[interval.run]])
        states = np.concatenate([y for _, y in by_run[interval.run]])
        times, order = np.unique(times, return_index=True)
        states = states[order]
        run = residuals.runs[interval.run]
        begin, end = run.times[interval.first], min(run.times[interval.last], times[-1])
        if begin >= end:
            return None
        inside = (times > begin) & (times < end)
        at = np.concatenate([[begin], times[inside], [end]])
        found.append((at, interpolated(times, states, at)))
    return found
