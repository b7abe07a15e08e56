"""The step loop of a forward run: chooses the next step size and stores each step that was taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from stiffml.discretization.trajectory import Growing
from stiffml.errors import Status
from stiffml.methods.growth import Growth
from stiffml.run.crossings import Crossing
from stiffml.run.dense_output import reader_for
from stiffml.run.endings import (
    DERIVATIVE_FAILURES,
    LEAST_SPACINGS,
    STALLED,
    Finished,
    Stop,
    lost,
    where_infinite,
    worst_component,
)
from stiffml.run.events import EventFinder
from stiffml.run.first_step import blur, initial_size, shortest_first
from stiffml.run.nonstop import Course, keep
from stiffml.run.record import Failure, Run
from stiffml.run.schedule import all_ends
from stiffml.run.solvers import Solvers
from stiffml.run.stepping import Counts, Stepper, Task
from stiffml.settings import Tolerances
from stiffml.steps import Adaptive, Steps


class Drive:
    """Takes the steps of a run one by one and stores their times, states and outputs.

    Parameters
    ----------
    run : Run
        Its trajectory and checkpoints are filled.
    task : Task
    solvers : Solvers
    between : ndarray
        (Q,) output times between step ends, in solver time.
    tolerances : Tolerances
        Used for the first step size and to name the worst component in messages, also when steps are not
        adaptive.
    events : mapping of int to Crossing
        The run ends at the first of these.

    Attributes
    ----------
    reader : Reader
        Computes the outputs between step ends.
    outputs : Growing
        The returned states (size,) at step ends, and the state at the event.
    ramp_steps : int
        Number of steps that a starting ramp has added to those asked for.
    """

    def __init__(
        self,
        run: Run,
        task: Task,
        solvers: Solvers,
        between: np.ndarray,
        tolerances: Tolerances,
        events: Mapping[int, Crossing],
    ) -> None:
        self._run, self._task, self._tolerances = run, task, tolerances
        self._system, self._method, self._limits = task.system, task.method, task.limits
        self._every = task.system.space.every
        self._n_steps = self._looked = 0
        self._trajectory = run.trajectory
        self._start = task.s0  # where the current step begins
        self._state = self._previous = task.u0
        self.outputs, self.ramp_steps = Growing((task.u0.size,)), 0
        self.outputs.append(task.u0)
        self._first_slope: np.ndarray | None = None
        self._stalled = self._linear_failures = 0  # steps cut by linear failures; linear failures so far
        again = solvers.again(run.trajectory, task.method, task.system, task.solver)
        self._has_between = len(between) > 0
        self.reader = reader_for(between, again)
        self.reader.read(0, task.u0)
        self._finder = EventFinder(events, again, task.s0, task.u0) if events else None
        if self._finder is not None and task.limits is not None:
            task.limits.ends_run = self._finder.crosses
        self._solvers = solvers
        self._taken_nonstop: Counts | None = None

    @cached_property
    def stepper(self) -> Stepper:
        """Takes the steps one by one; made when first asked for."""
        return self._solvers.stepper(self._task)

    @cached_property
    def _growth(self) -> Growth:
        return self._method.growth_limit()

    @property
    def counts(self) -> Counts:
        """The work of all steps so far."""
        return self._taken_nonstop or self.stepper.counts

    def close(self) -> None:
        """Free all memory of the stepper."""
        if "stepper" in self.__dict__:
            self.stepper.close()

    def _passes(self, course: Course) -> bool:
        """Whether all steps have been taken in one call. Otherwise nothing has happened."""
        if self._solvers.nonstop is None:
            return False
        taken = self._solvers.nonstop(self._task, course)
        self._run.given_up = taken.given_up
        if taken.given_up:
            return False
        self._taken_nonstop = taken.counts
        keep(taken, self._run, self.outputs, self.reader if self._has_between else None)
        self._n_steps = len(taken.ends)
        if self._n_steps:
            self._start, self._state = float(taken.ends[-1]), taken.states[-1]
            self._previous = taken.states[-2] if self._n_steps > 1 else self._previous
        self._looked = self._n_steps  # the watch has seen them
        if taken.out_of_time and self._task.watch is not None:
            raise self._stop(Status.MAX_SECONDS, self._task.watch.spent, size=taken.wanted)
        if len(taken.output_steps) < len(course.outputs):
            raise self._stop(Status.MAX_STEPS, "", size=taken.wanted)
        return True

    def adaptively(self, steps: Adaptive) -> None:
        """Take adaptive steps through all output times."""
        outputs = self._trajectory.outputs
        minimum = steps.minimum or 0.0
        proposal = steps.initial
        if proposal is None or not self._method.estimates_first_step:
            # No error estimate checks the first step of these methods, so the caller's size is limited too.
            given, at = (self._system, self._method, self._tolerances), (self._state, self._slope())
            found = initial_size(*given, self._start, outputs[-1], *at)
            proposal = min(proposal or math.inf, max(found, minimum))
        proposal = min(max(proposal, shortest_first(self._start)), steps.maximum or math.inf)
        if not self._blur()[1] and self._passes(Course(outputs, steps, proposal)):
            return
        blurred = True  # whether f may change the state by more than its tolerance within one spacing of time
        for target in outputs[1:]:
            landed = False
            while not landed:
                if self._n_steps >= steps.max_steps:
                    raise self._stop(Status.MAX_STEPS, size=proposal)
                remaining = target - self._start
                lands = proposal >= remaining * (1 - 1e-9)
                # Two even steps rather than a full step and a tiny one.
                size = remaining if lands else min(proposal, remaining / 2)
                blurred = blurred and self._allow_for_rounding_of_time()
                taken = self._step(size)
                uncut = taken >= size * (1 - 1e-9)
                if self._task.watches_stiffness:
                    self._require_not_stiff(outputs[-1] - self._start, taken)
                if not uncut:
                    self._count_stalled(taken)
                landed = lands and uncut
                suggestion, least = self.stepper.next_size, LEAST_SPACINGS * np.spacing(abs(self._start))
                if uncut and size < proposal:  # only to land on an output: the longer proposal is still good
                    suggestion = max(suggestion, proposal)
                wanted = suggestion if uncut else taken
                if not landed and wanted < max(minimum, least):
                    if self.stepper.cut_by is None:
                        raise self._stop(Status.STEP_TOO_SMALL, size=taken)
                    raise self._stop(*self._why_cut(self.stepper.cut_by), size=taken)
                proposal = self._growth.next_size(taken, suggestion, not uncut)
            self._mark_output()
        self._look(has_ended=True)

    def _require_not_stiff(self, left: float, taken: float) -> None:
        if self.stepper.is_stiff(left):
            detail = f"{left / taken:.2g} more such steps would be needed"
            raise Stop(Failure(Status.STIFF, self._start, taken, None, detail))

    def _count_stalled(self, taken: float) -> None:
        """Stop the run if linear solver failures cut too many steps.

        With ever shorter steps the linear systems could be solved, but the run would hardly advance.
        """
        before, self._linear_failures = self._linear_failures, self.stepper.linear_failures
        if self._linear_failures > before and self.stepper.cut_by is None:
            self._stalled += 1
            if self._stalled > STALLED and 5 * self._stalled > self._n_steps:
                raise self._stop(*self.stepper.why_cut(), size=taken)

    def on_schedule(self, steps: Steps) -> None:
        """Take the steps of ``Fixed``, ``Grid`` or ``Recorded`` through all output times."""
        outputs = self._trajectory.outputs
        assert not isinstance(steps, Adaptive)
        plan = self._task.plan
        known = None if plan is None else (plan.ends, plan.is_output, plan.ramp_steps)
        ends, is_output, self.ramp_steps = known or all_ends(steps, outputs, self._method)
        if self._passes(Course(outputs, (ends, is_output))):
            return
        done = 0
        while done < len(ends):
            count = self._take_ahead(ends[done:], is_output[done:])
            if not count:
                self._reach(float(ends[done]))
                if is_output[done]:
                    self._mark_output()
            done += count or 1
        self._look(has_ended=True)

    def _take_ahead(self, ends: np.ndarray, is_output: np.ndarray) -> int:
        """Take of the next steps, which end at ``ends``, those that are solved for; return how many."""
        run, trajectory = self._run, self._trajectory
        self._look()
        # Events, outputs between steps, and states kept elsewhere than in memory take steps one by one.
        if self._finder is not None or self._has_between or run.checkpoints.states is None:
            return 0
        states, stages = self.stepper.take_ahead(ends)
        if not len(states):
            return 0
        if self._n_steps == 0:
            trajectory.half = self.stepper.half
        count = len(states)
        trajectory.extend(ends[:count], np.diff(ends[:count], prepend=self._start))
        run.checkpoints.extend(states, stages)
        marks = np.flatnonzero(is_output[:count]) + 1
        returned = run.returned[len(trajectory.output_steps) :][: len(marks)]
        self.outputs.extend(states[marks[returned] - 1])
        trajectory.output_steps += (self._n_steps + marks).tolist()
        self._previous = states[-2] if count > 1 else self._state
        self._state, self._start = states[-1], float(ends[count - 1])
        self._n_steps += count
        return count

    def _reach(self, target: float) -> None:
        """Step to ``target``; where Newton fails, halve the step as often as needed."""
        smallest = (target - self._start) * 2.0**-16
        targets, cut_by = [target], None
        while targets:
            start, size = self._start, targets[-1] - self._start
            taken = self._step(size)
            cut_by = self.stepper.cut_by or cut_by
            cuts = round(math.log2(size / taken)) if taken > 0 else 99
            if taken < smallest:
                raise self._stop(*self._why_cut(cut_by), size=taken)
            if cuts == 0:
                targets.pop()
            else:
                targets.extend(start + size * 2.0**-i for i in range(1, cuts))

    def _step(self, size: float) -> float:
        """Take one step and store it; return the size taken, less than ``size`` if the step was cut."""
        self._look()
        status = self.stepper.step(size)
        if status is not None:
            raise self._stop(status, size=size)
        state, end = self.stepper.state, self.stepper.time
        taken = end - self._start
        if not taken > 0:  # cut until nothing was left of it
            if self.stepper.cut_by is None:
                raise self._stop(Status.STEP_TOO_SMALL, size=taken)
            raise self._stop(*self._why_cut(self.stepper.cut_by), size=taken)
        if self._n_steps == 0:
            self._trajectory.half = self.stepper.half
        state, stages = state.copy(), self.stepper.stages
        self._trajectory.append(end, taken)
        at_event = None if self._finder is None else self._finder.reached(state)
        if at_event is not None:
            state = at_event.states[-1]
            stages = stages if stages is None or at_event.stages is None else at_event.stages[0]
        no_room: OSError | None = None
        try:
            self._run.checkpoints.append(state, stages)
        except OSError as error:
            no_room = error
        if not self._every(no_room is None):
            self._trajectory.drop_last_step()
            why = "" if no_room is None else str(no_room)
            raise Stop(Failure(Status.NO_ROOM, self._start, taken, None, why)) from no_room
        self._previous, self._state, self._start = self._state, state, end
        self._n_steps += 1
        known = self.stepper.columns if self._has_between and at_event is None else None
        self.reader.read(self._n_steps, state, *known or (stages,))
        if at_event is not None and self._finder is not None:
            self.outputs.append(state)
            self._look(has_ended=True)
            raise Finished(float(self._trajectory.times[-1]), self._finder.number)
        return taken

    def _look(self, has_ended: bool = False) -> None:
        """Let the watch see the steps that were taken since it last looked; outputs there are marked."""
        watch, count = self._task.watch, self._n_steps - self._looked
        if watch is None or not count:
            return
        self._looked = self._n_steps
        end, size = float(self._trajectory.times[-1]), self._trajectory.last_size
        watch.passed(self._system, end, size, count)
        watch.require_wanted(self._system, end, self._state, size)
        if not has_ended and watch.is_over(self._system):
            raise self._stop(Status.MAX_SECONDS, watch.spent, size=size)

    def _mark_output(self) -> None:
        if self._run.returned[len(self._trajectory.output_steps)]:
            self.outputs.append(self._state)
        self._trajectory.mark_output()

    def _allow_for_rounding_of_time(self) -> bool:
        """Loosen atol at the start of a run where the solution is too fast for the resolution of time.

        Between two neighbouring floating-point times the state changes by spacing · |du/ds|. No step can be
        more accurate than that, so this change is added to atol where it exceeds the tolerance. Where it
        exceeds the tolerance by more than 1 % of a component, tolerances stay and steps may fail.

        Returns whether atol was loosened.
        """
        change, _, serves = self._blur()
        if serves or self._n_steps:
            atol = self._tolerances.atol + (change if serves else 0.0)
            self.stepper.set_tolerances(Tolerances(self._tolerances.rtol, atol))
        return serves

    def _blur(self) -> tuple[np.ndarray, bool, bool]:
        return blur(self._start, self._state, self._slope(), self._tolerances, self._every)

    def _slope(self) -> np.ndarray:
        """du/ds (size,) at the state that the next step starts from."""
        if self._n_steps or self._first_slope is None:
            self._first_slope = self._system.derivative(self._start, self._state)
        return self._first_slope

    def _stop(self, status: Status, detail: str | None = None, *, size: float) -> Stop:
        component = worst_component(
            status, self._task, self.__dict__.get("stepper"), (self._previous, self._state), self._tolerances
        )
        if detail is None:
            detail = self.stepper.detail
        if status is Status.STEP_TOO_SMALL:
            detail = detail or lost(min(size, self.stepper.next_size), self._start)
        if status in DERIVATIVE_FAILURES:
            infinite = where_infinite(self._method, self._system, self._start, self._state)
            if infinite:
                status, detail, component = Status.INFINITE_DERIVATIVE, infinite, None
        return Stop(Failure(status, self._start, size, component, detail))

    def _why_cut(self, cut_by: Status | None) -> tuple[Status, str]:
        if cut_by is None:
            return self.stepper.why_cut()
        limits = self._limits if cut_by is Status.OUT_OF_BOUNDS else None
        return cut_by, "" if limits is None else limits.detail
