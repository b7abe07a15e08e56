"""The drive of a run: which step is asked for next, and what becomes of one that was taken."""

from __future__ import annotations

import math

import numpy as np

from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.native.replay import Replay
from stiffml.petsc import Stepper
from stiffml.run.dense_output import reader_for
from stiffml.run.events import EventFinder, EventFunc
from stiffml.run.results import Failure, Run
from stiffml.settings import Tolerances
from stiffml.steps import RESOLVED, Adaptive, Fixed, Fractions, Grid, Recorded, Steps, with_ramps
from stiffml.system.bounds import Limits
from stiffml.system.finite import first_not_finite
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System

STALLED = 20
"""Steps that had to be cut for their linear systems, and the fifth of all steps, with which a run goes on."""


BY_DERIVATIVES = (Status.NEWTON_FAILED, Status.LINEAR_FAILED, Status.NON_FINITE)
"""What a derivative that is not finite ends in."""

LOST = 16
"""Spacings below which a step is lost in the rounding of time."""


class Finished(Exception):
    """The event was reached."""

    def __init__(self, s: float) -> None:
        self.s = s


class Stop(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def shortest_first(s: float) -> float:
    """The least first step from a time: one that time resolves well, and by which states can be divided."""
    return max(RESOLVED * float(np.spacing(abs(s))), 1e-290)


def scheduled(steps: Fixed | Grid | Recorded, outputs: np.ndarray, method: Method) -> tuple[Fractions, int]:
    """The steps of every interval, and how many of them a ramp has added to those asked for."""
    fractions = steps.fractions(outputs)
    if method.history == 1 or isinstance(steps, Recorded):
        return fractions, 0
    ramped = with_ramps(fractions, outputs, method.starting_order, method.growth, method.jump)
    return ramped, sum(map(len, ramped)) - sum(map(len, fractions))


class Drive:
    def __init__(
        self,
        run: Run,
        stepper: Stepper,
        system: System,
        method: Method,
        tolerances: Tolerances,
        u0: np.ndarray,
        between: np.ndarray,
        event: EventFunc | None,
        limits: Limits | None = None,
        solver: LinearSolver | None = None,
    ) -> None:
        self._run, self._stepper, self._system = run, stepper, system
        self._method, self._tolerances = method, tolerances
        self._trajectory = run.trajectory
        self._start = run.trajectory.outputs[0]  # of the step being taken
        self._state = self._previous = u0
        replay = Replay(run.trajectory, method, system, solver)
        self.reader = reader_for(between, replay)
        self.reader.read(0, u0)
        self._first_slope: np.ndarray | None = None
        self._stalled = 0  # steps cut because a linear system could not be solved
        self._finder = None
        if event is not None:
            self._finder = EventFinder(event, replay, self._start, u0)
        self._limits = limits
        if limits is not None and self._finder is not None:
            limits.ends_run = self._finder.crosses

    def adaptively(self, steps: Adaptive) -> None:
        outputs = self._trajectory.outputs
        minimum = steps.minimum or 0.0
        proposal = steps.initial
        if proposal is None or not self._method.estimates_first_step:
            # What no estimate would cut is not longer than this, whoever asks for it.
            proposal = min(proposal or math.inf, max(self._initial_size(outputs), minimum))
        proposal = min(max(proposal, shortest_first(self._start)), steps.maximum or math.inf)
        blurred = True  # whether the state may change by more than its tolerance between two times
        for target in outputs[1:]:
            landed = False
            while not landed:
                if self._trajectory.n_steps >= steps.max_steps:
                    raise self._stop(Status.MAX_STEPS, size=proposal)
                remaining = target - self._start
                lands = proposal >= remaining * (1 - 1e-9)
                # Rather two even steps than a full one and a crumb.
                size = remaining if lands else min(proposal, remaining / 2)
                blurred = blurred and self._allow_for_rounding_of_time()
                failures = self._stepper.linear_failures
                taken = self._step(size)
                uncut = taken >= size * (1 - 1e-9)
                left = outputs[-1] - self._start
                if self._stepper.is_stiff(left):
                    detail = f"{left / taken:.2g} more such steps would be needed"
                    raise Stop(Failure(Status.STIFF, self._start, taken, None, detail))
                if self._stepper.linear_failures > failures and self._stepper.cut_by is None:
                    self._stalled += 1
                    if self._stalled > STALLED and 5 * self._stalled > self._trajectory.n_steps:
                        # Steps short enough to be solved for would go on, nearly for ever.
                        status, detail = self._stepper.why_cut()
                        raise self._stop(status, detail, size=taken)
                landed = lands and uncut
                suggestion = self._stepper.next_size
                if uncut and size < proposal:
                    # Cut short only to land on an output, which says nothing against the size before.
                    suggestion = max(suggestion, proposal)
                wanted = suggestion if uncut else taken
                if not landed and wanted < max(minimum, LOST * np.spacing(abs(self._start))):
                    if self._stepper.cut_by is None:
                        raise self._stop(Status.STEP_TOO_SMALL, size=taken)
                    raise self._stop(*self._stepper.why_cut(self._stepper.cut_by), size=taken)
                proposal = min(suggestion, self._method.growth * taken)
            self._mark_output()

    def on_schedule(self, steps: Steps) -> None:
        outputs = self._trajectory.outputs
        assert not isinstance(steps, Adaptive)
        fractions, self._run.ramp_steps = scheduled(steps, outputs, self._method)
        for begin, end, ends in zip(outputs[:-1], outputs[1:], fractions, strict=True):
            for fraction in ends:
                # Not begin + 1.0·(end − begin), which may round away from end.
                self._reach(end if fraction == 1 else begin + fraction * (end - begin))
            self._mark_output()

    def _reach(self, target: float) -> None:
        """Step to ``target``; where Newton fails, in halves, and halves of halves."""
        smallest = (target - self._start) * 2.0**-16
        targets, cut_by = [target], None
        while targets:
            start, size = self._start, targets[-1] - self._start
            taken = self._step(size)
            cut_by = self._stepper.cut_by or cut_by
            cuts = round(math.log2(size / taken)) if taken > 0 else 99
            if taken < smallest:
                status, detail = self._stepper.why_cut(cut_by)
                raise self._stop(status, detail, size=taken)
            if cuts == 0:
                targets.pop()
            else:
                targets.extend(start + size * 2.0**-i for i in range(1, cuts))

    def _step(self, size: float) -> float:
        """Take one step and keep it; the size PETSc took, which is less where the step was cut."""
        status = self._stepper.step(size)
        if status is not None:
            raise self._stop(status, size=size)
        state, end = self._stepper.state, self._stepper.time
        taken = end - self._start
        if not taken > 0:  # cut until nothing was left of it
            if self._stepper.cut_by is None:
                raise self._stop(Status.STEP_TOO_SMALL, size=taken)
            raise self._stop(*self._stepper.why_cut(self._stepper.cut_by), size=taken)
        if self._trajectory.n_steps == 0:
            self._trajectory.half = self._stepper.half
        state, stages = state.copy(), self._stepper.stages
        self._trajectory.append(end, taken)
        at_event = None if self._finder is None else self._finder.reached(state)
        if at_event is not None:
            state = at_event.states[-1]
            if stages is not None and at_event.stages is not None:
                stages = at_event.stages[0]
        no_room: OSError | None = None
        try:
            self._run.checkpoints.append(state, stages)
        except OSError as error:
            no_room = error
        if not self._system.space.every(no_room is None):
            self._trajectory.drop_last_step()
            why = "" if no_room is None else str(no_room)
            raise Stop(Failure(Status.NO_ROOM, self._start, taken, None, why)) from no_room
        self._previous, self._state, self._start = self._state, state, end
        self.reader.read(self._trajectory.n_steps, state, stages)
        if at_event is not None:
            self._run.outputs.append(state)
            raise Finished(float(self._trajectory.times[-1]))
        return taken

    def _mark_output(self) -> None:
        if self._run.returned[len(self._trajectory.output_steps)]:
            self._run.outputs.append(self._state)
        self._trajectory.mark_output()

    def _initial_size(self, outputs: np.ndarray) -> float:
        """Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, "Starting step size"."""
        u0, s0 = self._state, outputs[0]
        weights = self._tolerances.atol + self._tolerances.rtol * np.abs(u0)

        space = self._system.space
        count = space.sum(u0.size)

        def norm(v: np.ndarray) -> float:
            return math.sqrt(space.sum(float(np.sum((v / weights) ** 2))) / count)

        f0 = self._slope()
        d0, d1 = norm(u0), norm(f0)
        span = outputs[-1] - s0
        # A state below its tolerance, such as a root that a run before ended on, counts as zero.
        h0 = 1e-6 if d0 < 1 or d1 < 1e-5 else 0.01 * d0 / d1
        h0 = min(max(h0, shortest_first(s0)), span)
        f1 = self._system.derivative(s0 + h0, u0 + h0 * f0)
        d2 = norm(f1 - f0) / h0 if space.every(np.isfinite(f1).all()) else 0.0
        # PETSc's implicit methods begin with a step of order 1 or without an error estimate.
        order = 1 if self._method.implicit else self._method.order
        largest = max(d1, d2)
        h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / (order + 1))
        return min(100 * h0, h1, span)

    def _allow_for_rounding_of_time(self) -> bool:
        """At the start, where a solution may be much faster than later: ask for no more than time resolves.

        No state is determined better than by what it changes between two neighbouring numbers. Where that is
        much (more than 1 % of a component), the solution is lost, and steps are left to fail.
        """
        change = float(np.spacing(abs(self._start))) * np.abs(self._slope())
        size = np.abs(self._state)
        wanted = self._tolerances.atol + self._tolerances.rtol * size
        every = self._system.space.every
        needed = not every(bool((change <= wanted).all()))
        serves = needed and every(bool((change <= wanted + 0.01 * size).all()))
        if serves or self._trajectory.n_steps:
            atol = self._tolerances.atol + (change if serves else 0.0)
            self._stepper.set_tolerances(Tolerances(self._tolerances.rtol, atol))
        return serves

    def _slope(self) -> np.ndarray:
        """du/ds at the state that the next step starts from."""
        if self._trajectory.n_steps or self._first_slope is None:
            self._first_slope = self._system.derivative(self._start, self._state)
        return self._first_slope

    def _lost(self, size: float) -> str:
        """Said of a step that is too short for its time."""
        spacing = float(np.spacing(abs(self._start)))
        if not size < LOST * spacing:
            return ""
        return (
            f"a step of {size:.1g} is lost in the rounding of t, whose neighbouring numbers are "
            f"{spacing:.1g} apart here"
        )

    def _stop(self, status: Status, detail: str | None = None, *, size: float) -> Stop:
        component = self._component(status)
        if detail is None:
            detail = self._stepper.detail
        if status is Status.STEP_TOO_SMALL:
            detail = detail or self._lost(min(size, self._stepper.next_size))
        if status in BY_DERIVATIVES:
            infinite = self._stepper.infinite_derivative()
            if infinite:
                status, detail, component = Status.INFINITE_DERIVATIVE, infinite, None
        return Stop(Failure(status, self._start, size, component, detail))

    def _component(self, status: Status) -> int | None:
        """The component most in the way: not finite, far from converged, or changing the fastest."""
        if status is Status.NON_FINITE:
            slopes = [part.last_slope for part in self._system.parts]
            if self._stepper.bad_slope is not None:
                slopes.insert(0, self._stepper.bad_slope)
            found = (first_not_finite(slope) for slope in slopes)
            return next((component for component in found if component is not None), None)
        if status is Status.OUT_OF_BOUNDS:
            return None if self._limits is None else self._limits.component
        state = self._state
        newton = status in (Status.NEWTON_FAILED, Status.LINEAR_FAILED)
        change = self._stepper.newton_update if newton else state - self._previous
        if change is None or not np.isfinite(change).all():
            return None
        return int(
            np.argmax(np.abs(change) / (self._tolerances.atol + self._tolerances.rtol * np.abs(state)))
        )
