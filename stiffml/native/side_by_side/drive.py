"""Takes the steps of several samples side by side, until each has reached its last time or failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stiffml.discretization.estimates import scaled
from stiffml.discretization.trajectory import Trajectories, Trajectory
from stiffml.errors import Status
from stiffml.native.side_by_side.first_sizes import first_sizes
from stiffml.native.side_by_side.goals import Chosen, Goals, Known
from stiffml.native.side_by_side.newton import SideBySide
from stiffml.native.side_by_side.past import Past, attempts
from stiffml.native.side_by_side.work import Taken, Work, of_samples
from stiffml.run.controller import Controller
from stiffml.run.record import Failure
from stiffml.run.stepping import Counts
from stiffml.steps import Adaptive

SHRINK = {True: 0.25, False: 0.5}
"""The factor by which a step is cut if it cannot be solved for, adaptive ones and others."""


@dataclass
class _Log:
    """The accepted steps of all samples, in the order in which they were taken."""

    samples: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    stages: list[np.ndarray] = field(default_factory=list)


class Drive:
    """Takes one step of every sample that is under way, then the next, with sizes of their own."""

    def __init__(self, work: Work) -> None:
        self._work, self._adaptive = work, isinstance(work.steps, Adaptive)
        history = work.method.estimate_history if self._adaptive else work.method.history
        self._past = Past(history, np.array([times[0] for times in work.outputs]), work.u0)
        self._goals = self._make_goals()
        self._failures: dict[int, Failure] = {}
        self._taken = np.zeros(len(work.u0), dtype=int)
        self._marks: list[list[int]] = [[0] for _ in work.outputs]
        self._log = _Log()
        self._rejected = self._iterations = self._mended = 0
        self._why: dict[int, tuple[Status, int | None]] = {}

    def _make_goals(self) -> Goals:
        work = self._work
        if not isinstance(work.steps, Adaptive):
            return Known(work.outputs, work.steps)
        growth = work.method.growth_limit(len(work.u0))
        return Chosen(work.outputs, work.steps, growth, first_sizes(work))

    def run(self) -> Taken:
        """Take all steps."""
        goals, limit = (
            self._goals,
            self._work.steps.max_steps if isinstance(self._work.steps, Adaptive) else None,
        )
        while True:
            active = np.array(
                [i for i in np.flatnonzero(~goals.ended) if int(i) not in self._failures], dtype=int
            )
            if limit is not None:
                for i in active[self._taken[active] >= limit].tolist():
                    size = float(
                        goals.ends(np.array([i]), self._past.times[[i], -1])[0] - self._past.times[i, -1]
                    )
                    self._failures[i] = Failure(Status.MAX_STEPS, float(self._past.times[i, -1]), size, None)
                active = active[self._taken[active] < limit]
            if not len(active):
                return self._result()
            self._advance(active)

    def _advance(self, active: np.ndarray) -> None:
        """Try a step of each of these samples (K,)."""
        work, past = self._work, self._past
        begins = past.times[active, -1].copy()
        ends = self._goals.ends(active, begins)
        for attempt in attempts(past, active, ends, work.method, work.system.form, self._adaptive):
            mine, segment, block, order = attempt
            which = active[mine]
            rows = SideBySide(
                block,
                segment,
                work.system,
                work.solver,
                work.newton.max_iterations,
                self._newton_weights(which),
                work.left,
            )
            if work.method.explicit_first_stage:
                rows.begin(past.slopes_for(which, ends[mine] - begins[mine]))
            new = rows.solve()
            self._iterations += rows.iterations
            self._mended += rows.mended
            self._settle(which, begins[mine], ends[mine], rows, new, order)

    def _settle(
        self,
        samples: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
        rows: SideBySide,
        new: np.ndarray,
        order: int,
    ) -> None:
        """Keep the steps that succeeded; cut the others, or give up their samples."""
        work, factors, errors = self._work, np.ones(len(samples)), None
        if order:
            tolerances = work.tolerances_of(samples)
            with np.errstate(over="ignore", invalid="ignore"):
                found = rows.errors_found()
                errors = scaled(found, new, new - found, tolerances)
                norms = np.sqrt(np.mean(errors**2, axis=1))
            safety, largest = work.method.safety(tolerances.rtol), work.method.largest_factor
            controller = Controller(order - 1, safety, largest=largest)
            factors = controller.factors(norms, self._goals.was_long[samples])
            for k in np.flatnonzero(~np.isfinite(norms)).tolist():
                rows.failed[k] = rows.failed[k] or Status.NON_FINITE
            for k in np.flatnonzero(norms > 1).tolist():
                rows.failed[k] = rows.failed[k] or Status.STEP_TOO_SMALL
        good = np.array([why is None for why in rows.failed])
        for k in np.flatnonzero(~good).tolist():
            why = rows.failed[k]
            assert why is not None
            self._rejected += 1
            sample, begin, end = int(samples[k]), float(begins[k]), float(ends[k])
            factor = float(factors[k]) if why is Status.STEP_TOO_SMALL else SHRINK[self._adaptive]
            stuck = self._goals.cut(sample, begin, end, factor, why)
            if stuck is not None:
                found = rows.update[k]
                if why is Status.NON_FINITE:
                    found = new[k]
                elif why is Status.STEP_TOO_SMALL and errors is not None:
                    found = errors[k]
                component = work.component(why, sample, begin, self._past.states[sample, -1], found)
                self._failures[sample] = Failure(why, begin, end - begin, component)
        if good.any():
            at = np.flatnonzero(good)
            short = self._keep(samples[good], begins[good], ends[good], rows, at, new[good], factors[good])
            for k in at[short]:
                sample, size = int(samples[k]), float(ends[k] - begins[k])
                off = np.zeros(new.shape[1]) if errors is None else errors[k]
                component = work.component(Status.STEP_TOO_SMALL, sample, float(ends[k]), new[k], off)
                self._failures[sample] = Failure(Status.STEP_TOO_SMALL, float(ends[k]), size, component)

    def _keep(
        self,
        samples: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
        rows: SideBySide,
        at: np.ndarray,
        new: np.ndarray,
        factors: np.ndarray,
    ) -> np.ndarray:
        """Returns (K,) bool: whether a sample cannot go on."""
        past, log, pattern = self._past, self._log, rows.pattern
        if pattern.keeps_half:
            past.halves[samples] = rows.x[pattern.history][at]
            past.half_times[samples] = (begins + ends) / 2
        past.append(samples, ends, new, rows.end_slopes()[at])
        stuck = self._goals.took(samples, ends, ends - begins, factors)
        self._taken[samples] += 1
        reached = samples[ends == self._goals.next_output(samples)]
        self._goals.passed[reached] += 1
        for i in reached.tolist():
            self._marks[i].append(int(self._taken[i]))
        log.samples.append(samples)
        log.ends.append(ends)
        log.states.append(new)
        if self._work.method.kept_stages(self._work.system.form):
            log.stages.append(rows.kept_stages()[at])
        return stuck

    def _newton_weights(self, samples: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        newton = self._work.newton
        if newton.atol is not None:
            atol = of_samples(newton.atol, samples)
        else:
            # The tiny constant avoids division by zero for components that stay at zero.
            atol = 0.01 * newton.rtol * np.abs(self._past.states[samples, -1]) + 1e-250
        return lambda x: newton.rtol * np.abs(x) + atol

    def _result(self) -> Taken:
        log, work = self._log, self._work
        count = len(work.u0)
        samples = np.concatenate([np.arange(count), *log.samples])
        order = np.argsort(samples, kind="stable")
        states = np.concatenate([work.u0, *log.states])[order]
        begins = np.array([times[0] for times in work.outputs])
        times = np.split(np.concatenate([begins, *log.ends])[order], np.cumsum(self._taken + 1)[:-1])
        parts = []
        for i, own in enumerate(times):
            has_half = work.method.starts_with_half_step and self._taken[i] > 0
            half = (float(self._past.half_times[i]), self._past.halves[i].copy()) if has_half else None
            parts.append(Trajectory.of_steps(work.outputs[i], own[1:], self._marks[i], half))
        stages = None
        if log.stages:
            # The stages of a step are kept with the state that it starts from.
            kept = np.concatenate(log.stages)
            stages = np.zeros((len(states), *kept.shape[1:]))
            of_steps = np.argsort(np.concatenate(log.samples), kind="stable")
            lasts = np.cumsum(self._taken + 1) - 1
            stages[np.delete(np.arange(len(states)), lasts)] = kept[of_steps]
        counts = Counts(self._rejected, self._iterations, mended_jacobians=self._mended)
        return Taken(Trajectories(parts), states, stages, self._failures, counts)
