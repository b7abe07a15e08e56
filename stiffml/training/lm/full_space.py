"""States and parameters together: the steps need not hold, their defects have a weight.

Unknown are the numbers θ that are fitted and all vectors x of all steps, stages included. With the rows of
the steps R(x, θ) = 0 it is

    min  ½ Σ ρ(r²) + ½ μ |E R|² + ½ Σ (w (θ − c))²,

r the misfit of the states to the observations. E takes each row into units of the misfit: it divides by the
scale of the component, and by the size of the row of ∂R/∂x that belongs to its own unknown, so that a stiff
row counts as a change of state. Any θ has states, whether a trajectory exists or not; for μ → ∞ they are the
trajectory. With a finite μ the steps have errors of their own (weak constraint, in data assimilation).

Sources: J. O. Ramsay et al., J. R. Stat. Soc. B 69 (2007) 741, a weight of the equations that grows; L. T.
Biegler, Nonlinear Programming (2010), ch. 10, states as unknowns; Y. Trémolet, Q. J. R. Meteorol. Soc. 132
(2006) 2483, errors of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array, diags_array

from stiffml.training.lm.bordered import Bordered, Rows
from stiffml.training.lm.damped import DIAGONAL
from stiffml.training.lm.defects import Defects
from stiffml.training.lm.differentiated import Group, Solved
from stiffml.training.lm.intervals import Interval
from stiffml.training.lm.levenberg_marquardt import Iteration, TrialError
from stiffml.training.lm.residuals import IntervalResiduals, Path, Residuals
from stiffml.training.lm.together import Together


class FullSpaceResiduals(IntervalResiduals):
    """The problem of one rung with a weight: numbers z = (θ, x / scale).

    Parameters
    ----------
    residuals : Residuals
    intervals : sequence of Interval
    weight : float
        μ
    """

    def __init__(self, residuals: Residuals, intervals: Sequence[Interval], weight: float) -> None:
        super().__init__(residuals, intervals)
        engine = residuals.engine
        assert isinstance(engine, Together)
        self.weight, self._engine = weight, engine
        self._grouped = cast(list[Group], self._groups)
        self._defects = [Defects(engine.request, group) for group in self._grouped]
        sizes = [defects.shape[0] for defects in self._defects]
        self._ends = np.cumsum(sizes)[:-1].tolist()
        self._units = engine.units(len(residuals.vector))
        self._scales = np.tile(residuals.scale, sum(sizes))
        self._sizes = np.ones(len(self._scales))
        self._selected = self._select()

    @property
    def unknowns(self) -> int:
        """How many numbers x has."""
        return len(self._scales)

    def _select(self) -> csr_array:
        """(m, unknowns) the derivative of the misfit by x / scale; starts have none."""
        found: dict[int, np.ndarray] = {}
        first = 0
        for group, defects in zip(self._grouped, self._defects, strict=True):
            for number, rows in zip(group.which, group.rows, strict=True):
                unknown = defects.unknown_of(rows)
                found[number] = np.where(unknown < 0, -1, unknown + first)
            first += defects.shape[0]
        columns, values, components = [], [], np.arange(len(self._of.scale))
        for number, (factor, counts) in enumerate(zip(self._factors, self.counts, strict=True)):
            at = found[number][:, None] * len(components) + components
            columns.append(np.where(found[number][:, None] < 0, -1, at)[counts])
            values.append((factor * self._of.scale)[counts])
        column, value = np.concatenate(columns), np.concatenate(values)
        inside = np.flatnonzero(column >= 0)
        shape = len(column), self.unknowns
        return csr_array((value[inside], (inside, column[inside])), shape=shape)

    def begin(  # type: ignore[override]
        self, theta: np.ndarray, paths: Sequence[Path] | None, held: dict[str, Any] | None = None
    ) -> FullSpacePoint:
        """The point at parameters (size,), with the states of ``held``, or of paths, or those observed."""
        if held is not None:
            numbers = np.concatenate([theta, held["numbers"][len(theta) :]])
        else:
            paths = self._observed if paths is None else paths
            guesses = [
                defects.guess([paths[number] for number in group.which])
                for group, defects in zip(self._grouped, self._defects, strict=True)
            ]
            x = np.concatenate([guess.ravel() for guess in guesses]) / self._scales
            numbers = np.concatenate([theta, x])
        self._sizes = np.ones(self.unknowns)
        point = self.evaluate(numbers, None)
        with np.errstate(all="ignore"):
            sizes = self._sizes_at(point)
        if not np.isfinite(sizes).all():
            raise TrialError("a Jacobian of func is not finite at the observations")
        self._sizes = sizes
        return self.evaluate(numbers, None)

    def _sizes_at(self, point: FullSpacePoint) -> np.ndarray:
        """(unknowns,) of each row the size of its part in its own unknown, in units of the scale."""
        by_x = self.linear(point)[0] @ diags_array(self._scales)
        width = len(self._of.scale)
        row = np.repeat(np.arange(self.unknowns), np.diff(by_x.indptr))
        own = row // width == by_x.indices // width
        squares = np.bincount(row[own], by_x.data[own] ** 2, self.unknowns)
        return np.sqrt(squares) / self._scales + np.finfo(float).tiny

    def evaluate(self, theta: np.ndarray, near: Any) -> FullSpacePoint:  # type: ignore[override]
        """The point at numbers z.

        Raises
        ------
        TrialError
            If it is not finite, or whatever func raises.
        """
        count = len(self._of.vector)
        try:
            with torch.inference_mode(False), torch.no_grad(), np.errstate(all="ignore"):
                return self._at(theta, theta[:count])
        except Exception as error:  # func may raise whatever it likes far from the data
            raise TrialError(str(error) or type(error).__name__) from error

    def _at(self, numbers: np.ndarray, theta: np.ndarray) -> FullSpacePoint:
        self._of.write(theta)
        starts = [self._of.start_of(theta, interval) for interval in self.intervals]
        parts = self._split(numbers)
        defects, segments = [], []
        for group, rows, x in zip(self._grouped, self._defects, parts, strict=True):
            own = [starts[number] for number in group.which]
            defects.append(rows.residual(own, x).ravel())
            segments.append(rows.segment(own, x))
        solved = Solved(self._grouped, segments, 0)
        misfit = self._misfit(solved.outputs)
        scaled = np.concatenate(defects) / (self._scales * self._sizes)
        if not (np.isfinite(misfit).all() and np.isfinite(scaled).all()):
            raise FloatingPointError("a residual is not finite")
        return FullSpacePoint(self, numbers, theta, misfit, scaled, solved)

    def _split(self, numbers: np.ndarray) -> list[np.ndarray]:
        x = (numbers[len(self._of.vector) :] * self._scales).reshape(-1, len(self._of.scale))
        return np.split(x, self._ends)

    def linear(self, point: FullSpacePoint) -> tuple[csr_array, np.ndarray]:
        """∂R/∂x (unknowns, unknowns), and ∂R/∂θ (unknowns, P)."""
        self._of.write(point.theta)
        begins = [self._of.start_of(point.theta, interval) for interval in self.intervals]
        moved = [self._of.change_of(interval) for interval in self.intervals]
        found = []
        with torch.inference_mode(False), torch.no_grad(), np.errstate(all="ignore"):
            for group, rows, x in zip(self._grouped, self._defects, self._split(point.numbers), strict=True):
                starts, changes = ([of[number] for number in group.which] for of in (begins, moved))
                rows.residual(starts, x)
                found.append(rows.derivatives(starts, x, changes, self._units))
            assert isinstance(self._engine, Together)
            self._engine.confirm()
        by_x = csr_array(block_diag([by_x for by_x, _ in found], format="csr"))
        return by_x, np.concatenate([by_theta for _, by_theta in found])

    def rows(self, point: FullSpacePoint) -> tuple[Rows, Rows]:
        """The misfit and the weighted defects with their derivatives."""
        by_x, by_theta = self.linear(point)
        factor = np.sqrt(self.weight) / (self._scales * self._sizes)
        defects = Rows(
            np.sqrt(self.weight) * point.defects,
            csr_array(diags_array(factor) @ by_x @ diags_array(self._scales)),
            factor[:, None] * by_theta,
        )
        if not (np.isfinite(defects.by_x.data).all() and np.isfinite(defects.by_theta).all()):
            raise TrialError("a derivative of func is not finite")
        starts = []
        for interval, factors, counts in zip(self.intervals, self._factors, self.counts, strict=True):
            change = np.zeros((*counts.shape, len(point.theta)))
            change[0] = factors[0, :, None] * self._of.change_of(interval).T
            starts.append(change[counts])
        return Rows(point.residuals, self._selected, np.concatenate(starts)), defects

    def kept(self, point: Any) -> dict[str, Any]:
        solved = self._engine.kept(point.solved)
        return {"numbers": point.numbers, "sizes": self._sizes, "solved": solved}

    def restored(self, kept: dict[str, Any]) -> FullSpacePoint:  # type: ignore[override]
        """The same point with the same units of the defects."""
        self._sizes = kept["sizes"]
        return self.evaluate(kept["numbers"], None)


class FullSpacePoint:
    """Misfit (m,) and defects (unknowns,) in units of the scale, at numbers z = (theta, x / scale).

    ``solved``: the vectors, as if the steps held.
    """

    def __init__(
        self,
        problem: FullSpaceResiduals,
        numbers: np.ndarray,
        theta: np.ndarray,
        residuals: np.ndarray,
        defects: np.ndarray,
        solved: Solved,
    ) -> None:
        self._problem, self.numbers, self.theta = problem, numbers, theta.copy()
        self.residuals, self.defects, self.solved = residuals, defects, solved
        self._rows: tuple[Rows, Rows] | None = None

    @property
    def weight(self) -> float:
        return self._problem.weight

    @property
    def paths(self) -> list[Path]:
        """For each interval the times and states of its steps."""
        return self.solved.paths

    def rows(self) -> tuple[Rows, Rows]:
        """As of :meth:`FullSpaceResiduals.rows`."""
        if self._rows is None:
            self._rows = self._problem.rows(self)
        return self._rows


class FullSpaceIteration(Iteration):
    """The iteration over z = (θ, x / scale), with the settings, prior and bounds of θ of another one."""

    def __init__(self, of_theta: Iteration, unknowns: int) -> None:
        none, all_ = np.zeros(unknowns), np.full(unknowns, np.inf)
        self._count = len(of_theta.weight)
        super().__init__(
            of_theta.settings,
            np.concatenate([of_theta.centre, none]),
            np.concatenate([of_theta.weight, none]),
            np.concatenate([of_theta.low, -all_]),
            np.concatenate([of_theta.high, all_]),
        )

    def _cost(self, theta: np.ndarray, point: Any) -> float:
        return super()._cost(theta, point) + 0.5 * point.weight * float(point.defects @ point.defects)

    def _damped(self, theta: np.ndarray, point: Any) -> _Damped:
        misfit, defects = point.rows()
        size, robust = self._robust(misfit.residuals)
        count = self._count
        misfit = Rows(robust, csr_array(diags_array(size) @ misfit.by_x), size[:, None] * misfit.by_theta)
        held = np.arange(count) == self._held[:, None]
        prior = Rows(
            (self.weight * (theta - self.centre))[self._held],
            csr_array((len(held), len(theta) - count)),
            self.weight[self._held, None] * held,
        )
        system = Bordered([misfit, defects, prior], DIAGONAL)
        gradient = np.concatenate([system.of_theta, system.of_x])
        free = self.free(theta, gradient)
        return _Damped(system, free[free < count])


class _Damped:
    """Steps of z for any damping."""

    def __init__(self, system: Bordered, free: np.ndarray) -> None:
        self._system, self._free = system, free

    @property
    def steepest(self) -> float:
        return self._system.steepest

    def step(self, damping: float) -> tuple[np.ndarray, float]:
        x, theta, expected = self._system.step(damping, self._free)
        return np.concatenate([theta, x]), expected
