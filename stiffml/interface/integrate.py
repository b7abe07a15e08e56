"""A solve: check the arguments, integrate, and make the solution."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import flag, times_of_samples
from stiffml.errors import SolveError, Status, explain
from stiffml.gradients.autograd import Integrate
from stiffml.gradients.events import differentiable_event, moved_with_end
from stiffml.gradients.initial_values import MakeConsistent
from stiffml.gradients.tape import Tape
from stiffml.interface.arguments import Arguments
from stiffml.interface.breakpoints import solve_in_sections
from stiffml.interface.changing import changed
from stiffml.interface.checking import check, with_outputs_chosen
from stiffml.interface.compiling import CompiledModule
from stiffml.interface.equations import space_of
from stiffml.interface.events import all_events, events_of
from stiffml.interface.feasibility import require_sane_span
from stiffml.interface.few_steps import warn_of_few_steps
from stiffml.interface.forms.form import Form, form_of
from stiffml.interface.forms.reformed import in_form, reformed
from stiffml.interface.interpolation import interpolate
from stiffml.interface.keeping import solve_on_kept_steps
from stiffml.interface.notes import with_notes
from stiffml.interface.open_end import is_open, with_far_end, without_event
from stiffml.interface.output_times import first_of_each
from stiffml.interface.own_times.integrate import solved_by_sample
from stiffml.interface.piece import Piece
from stiffml.interface.remembered import recall, remember
from stiffml.interface.solution import Solution
from stiffml.interface.steppers import solvers_for
from stiffml.interface.transforms.solving import may_be_transformed, solved_in_transforms
from stiffml.interface.watching import watching
from stiffml.native.constraints import Constraints
from stiffml.native.replay import Replay
from stiffml.parameters.passed import collected
from stiffml.run.crossings import Event
from stiffml.run.forward import integrate
from stiffml.run.record import Run
from stiffml.run.request import Request
from stiffml.run.watching import Watch
from stiffml.stats import Stats, named_solves, spend
from stiffml.steps import KeptSteps
from stiffml.system.function.precision import in_single_precision, without_autocast
from stiffml.system.space import solving_on
from stiffml.system.state import State
from stiffml.system.system import System
from stiffml.system.trial_memory import OutdatedError
from stiffml.system.unnamed_parameters import require_none_at_end


def solved(arguments: Arguments) -> Solution:
    """The solution; see :func:`stiffml.solve`."""
    y0 = in_single_precision(arguments.y0)
    arguments = arguments if y0 is arguments.y0 else dataclasses.replace(arguments, y0=y0)
    with without_autocast():
        return solved_in_transforms(arguments, _solved) if may_be_transformed() else _solved(arguments)


def _solved(arguments: Arguments) -> Solution:
    form, y0 = form_of(arguments.y0)
    if form is not None:
        return _solved_in_form(arguments, form, y0)
    flag("throw", arguments.throw)
    t, params = times_of_samples("t", arguments.t), collected(arguments.params)
    if t is not arguments.t or params is not arguments.params:
        arguments = changed(arguments, t=t, params=params)
    if isinstance(arguments.func, CompiledModule):
        arguments = dataclasses.replace(arguments, func=arguments.func.func, compile=True)
    arguments = with_outputs_chosen(arguments)
    if t.dim() > 1:
        solution, error = solved_by_sample(arguments)
    else:
        has_end = not is_open(arguments)
        arguments = arguments if has_end else with_far_end(arguments)
        with watching(arguments) as watch:
            if isinstance(arguments.steps, KeptSteps):
                once = partial(_with_repeated_times, watch=watch)
                solution, error = solve_on_kept_steps(once, arguments)
            else:
                solution, error = _with_repeated_times(arguments, watch)
        if not has_end and solution.status is Status.SUCCESS:
            error = without_event(solution)
    crossings = events_of(arguments.event)
    if crossings:
        with solving_on(space_of(arguments.func)):
            solution.events = all_events(crossings, solution.pieces, solution.event)
    if error is not None and arguments.throw:
        error.solution = solution
        raise error
    return solution


def _solved_in_form(arguments: Arguments, form: Form, y0: State) -> Solution:
    """The same for a state that is neither a real tensor nor a tuple of real tensors."""
    if isinstance(arguments.func, CompiledModule):
        arguments = dataclasses.replace(arguments, func=arguments.func.func, compile=True)
    try:
        return in_form(_solved(reformed(arguments, form, y0)), form)
    except SolveError as error:
        if isinstance(error.solution, Solution):
            error.solution = in_form(error.solution, form)
        raise


def _with_repeated_times(arguments: Arguments, watch: Watch | None) -> tuple[Solution, SolveError | None]:
    """Solve at times (n,), of which some may repeat the one before."""
    request = recall(arguments)
    if request is not None:
        with suppress(OutdatedError):
            return _solve(request, arguments, Stats(), watch)
    once = first_of_each(arguments.t)
    if once is None:
        return _at_distinct_times(arguments, watch)
    solution, error = _at_distinct_times(dataclasses.replace(arguments, t=once[0]), watch)
    which = once[1][once[1] < len(solution.t)]
    y = solution.y
    return dataclasses.replace(
        solution,
        t=solution.t[which],
        y=tuple(part[which] for part in y) if isinstance(y, tuple) else y[which],
    ), error


def _at_distinct_times(arguments: Arguments, watch: Watch | None) -> tuple[Solution, SolveError | None]:
    require_sane_span(arguments.t)
    if arguments.breakpoints is None and arguments.jumps is None:
        return _solve_section(arguments, Stats(), watch=watch)
    return solve_in_sections(partial(_solve_section, watch=watch), arguments)


def _solve_section(
    arguments: Arguments, stats: Stats, *, watch: Watch | None, continues: bool = False
) -> tuple[Solution, SolveError | None]:
    """Solve without breakpoints and jumps, and add the cost to ``stats``.

    ``continues``: y0 is the end of another section. Its algebraic variables are made consistent.
    """
    with solving_on(space_of(arguments.func)), with_notes(arguments):
        request = check(arguments)
        remember(arguments, request)
        with suppress(OutdatedError):
            return _solve(request, arguments, stats, watch, continues)
        return _solve(check(arguments), arguments, stats, watch, continues)  # its trials are made


def _solve(
    request: Request, arguments: Arguments, stats: Stats, watch: Watch | None, continues: bool = False
) -> tuple[Solution, SolveError | None]:
    """The same for checked arguments."""
    with solving_on(request.system.space):
        u0 = _initial(request, arguments, continues)
        return _integrate(request, u0, stats, watch)


def _integrate(
    request: Request, u0: Tensor, stats: Stats, watch: Watch | None
) -> tuple[Solution, SolveError | None]:
    system = request.system
    if request.bounds is not None:
        request.bounds.require(u0.detach().double().cpu().numpy(), request.tolerances, system)
    tapes: list[Tape] = []

    def compute() -> tuple[Tape, np.ndarray]:
        start = u0.detach().double().cpu().numpy()
        # Jacobians need autograd, which inference mode forbids.
        with torch.inference_mode(False), torch.no_grad():
            run, outputs = integrate(request, start, solvers_for(request), watch)
            for part in system.parts:
                part.confirm()
            _look_at_jacobian(run, system)
            tapes.append(Tape(run, Replay(run.trajectory, request.method, system, request.solver), (), stats))
            return tapes[0].with_readings(run.readings), outputs

    t_ends, t_between = request.ends, request.t[:0]
    if len(request.between):
        t_between = request.t[torch.from_numpy(~request.on_steps).to(request.t.device)]
    u = Integrate.apply(compute, t_ends, t_between, u0, *system.parameters)
    end = tapes[0].run.checkpoints.end
    if torch.is_grad_enabled() and not u.requires_grad and end is not None:
        require_none_at_end(system, float(tapes[0].run.trajectory.times[-1]), end)
    return _finish(tapes[0], request, (t_ends, u0, *system.parameters), u)


def _look_at_jacobian(run: Run, system: System) -> None:
    """Repeat trials that a run one by one has relied on, if it seems that they do not hold."""
    trials, end = system.trials, run.checkpoints.end
    if trials is not None and run.failure is None and end is not None:
        trials.look(float(run.trajectory.times[-1]), end)
    elif trials is not None and trials.repeat():
        raise OutdatedError


def _initial(request: Request, arguments: Arguments, continues: bool) -> Tensor:
    """The flat initial state, (size,), which satisfies the algebraic equations if there are any."""
    system = request.system
    u0 = system.layout.flatten(arguments.y0)
    mass, space = system.mass, system.space
    if mass is not None and space.is_distributed and not space.every(not mass.singular):
        raise ValueError(
            "mass: with a singular one the state must be whole in one process, because its initial values "
            "are checked against the algebraic equations with their Jacobian; solve these inside func"
        )
    if system.mass is None or not system.mass.singular:
        if request.make_consistent:
            raise ValueError("make_consistent has no effect without a singular mass matrix; leave it out")
        return u0
    s0 = float(request.outputs[0])
    assert request.solver is not None, "only implicit methods take a singular mass matrix"
    constraints = Constraints(system, s0, request.solver)
    if request.make_consistent or continues:
        return MakeConsistent.apply(constraints, request.t[0], u0, *system.parameters)
    with torch.inference_mode(False), torch.no_grad():
        constraints.check(u0.detach().double().cpu().numpy(), request.tolerances)
    return u0


def _is_krylov(request: Request) -> bool:
    return request.solver is not None and request.solver.is_krylov


def _finish(
    tape: Tape, request: Request, inputs: tuple[Tensor, ...], u: Tensor
) -> tuple[Solution, SolveError | None]:
    """The solution of a run whose outputs are u (n, size), and the error if it stopped early."""
    run, system = tape.run, request.system
    trajectory, layout = run.trajectory, system.layout
    if request.solver is not None:
        tape.stats.linear = request.solver.description
    tape.stats.given_up = run.given_up or tape.stats.given_up
    tape.stats.count(
        **named_solves(run.counts, request.method.newton, _is_krylov(request)),
        accepted=trajectory.n_steps,
        ramp_steps=run.ramp_steps,
        rhs_evals=system.rhs_evals,
        jacobians=system.f.jacobians,
        wall_s=run.wall_s,
    )
    spend(
        accepted=trajectory.n_steps,
        rejected=run.counts.get("rejected", 0),
        rhs_evals=system.rhs_evals,
        jacobians=system.f.jacobians,
    )
    error = event = None
    status, message = Status.SUCCESS, "reached the last output time"
    if run.failure is not None:
        failure = run.failure
        reason, hint = explain(failure.status, request.method.implicit)
        error = SolveError(
            failure.status,
            f"{reason}: {failure.detail}" if failure.detail else reason,
            hint,
            t=system.direction * failure.s,
            h=system.direction * failure.size,
            component=None if failure.component is None else layout.component(failure.component),
        )
        status, message = failure.status, str(error)
    if run.event is not None:
        function = request.events[run.event_number].function
        t_event, u_event = differentiable_event(function, tape, run.event, u[-1])
        u = moved_with_end(u[:-1], t_event, tape.with_readings(run.readings[:-1]))
        event = Event(t_event, layout.unflatten(u_event), run.event_number)
        status, message = Status.EVENT, f"the event was reached at t = {t_event.item():.10g}"
    if run.stopped:
        end = system.direction * trajectory.times[-1]
        status, message = Status.STOPPED, f"the callback ended the solve at t = {end:.10g}"
    if len(request.between):
        reached = request.between[request.between <= trajectory.times[-1]]
        warn_of_few_steps(tape.replay, trajectory.times, reached)
        u = u[run.in_time]
    pieces = (Piece(tape, inputs, None if event is None else event.t),)
    solution = Solution(
        t=request.t[: len(u)],
        y=layout.unflatten(u),
        status=status,
        message=message,
        stats=tape.stats,
        steps=trajectory.recorded(),
        event=event,
        interpolant=partial(interpolate, pieces),
        pieces=pieces,
    )
    return solution, error
