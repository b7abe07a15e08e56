"""From the arguments of a solve to its request; every message names the argument and what to pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described, flag, several_times
from stiffml.interface.arguments import Arguments
from stiffml.interface.changing import changed
from stiffml.interface.checking_steps import (
    require_options,
    require_possible,
    require_right_estimate,
    steps_of,
)
from stiffml.interface.equations import system_of
from stiffml.interface.events import events_of
from stiffml.interface.feasibility import require_schedule
from stiffml.interface.initial_state import checked_layout
from stiffml.interface.jumps import jumps_of
from stiffml.interface.output_times import increasing, merged_ends
from stiffml.interface.planning import plan_of
from stiffml.interface.tolerances import newton_limits, tolerances_of
from stiffml.linear.choice import Wanted, choose
from stiffml.linear.given_jacobian import GivenJacobian
from stiffml.linear.krylov.solver import KrylovSolver
from stiffml.methods import Method, resolve
from stiffml.parameters.passed import collected, in_forward_mode, require_reverse_mode
from stiffml.petsc.known_options import require_understood
from stiffml.petsc.options import require_free
from stiffml.run.request import Request
from stiffml.run.stepping import Plan
from stiffml.run.watching import StepLimit
from stiffml.settings import Discrete, Newton
from stiffml.steps import Adaptive, KeptSteps, Recorded, landings
from stiffml.steps.landings import ends_of_steps
from stiffml.system.bounds import bounds_of
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.function.batching import Func
from stiffml.system.function.cache import remembered
from stiffml.system.function.span import Span
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.state import State
from stiffml.system.statistics import require_fixed_statistics
from stiffml.system.system import System
from stiffml.system.trial_memory import Facts, PassedTrials, keep, rely_on
from stiffml.system.trials import try_out
from stiffml.system.unnamed_parameters import find_parameters, note_operations

OUTPUTS = ("auto", "steps", "interpolate")


def check(arguments: Arguments) -> Request:
    """Check the arguments and fill in what was left to default; but for what sections are made of.

    Raises
    ------
    TypeError, ValueError
        For anything wrong.
    """
    y0, options = arguments.y0, arguments.options
    params = collected(arguments.params)
    require_reverse_mode(y0=y0, t=arguments.t, params=params, mass=arguments.mass)
    method = resolve(arguments.method)
    require_callables(arguments)
    layout = checked_layout(y0, arguments.batch_dims)
    t, times, direction = increasing(arguments.t)
    interpolated = interpolated_outputs(arguments.outputs)
    make_consistent = flag("make_consistent", arguments.make_consistent)
    through = () if arguments.through is None else arguments.through
    passed = several_times("through", through).to(t.device, torch.float64)
    on_steps, on_passed = landings(times, interpolated, direction * passed.detach().cpu().numpy())
    ends, returned = merged_ends(t, on_steps, passed, on_passed, direction)
    outputs = direction * ends.detach().cpu().double().numpy()
    steps = steps_of(arguments.steps, method)
    require_possible(steps, method, arguments.rtol, arguments.atol, times)
    require_options(options)
    require_effect(arguments, method)
    adjoint = Discrete() if arguments.adjoint is None else arguments.adjoint
    if not isinstance(adjoint, Discrete):
        raise TypeError(f"adjoint must be Discrete(checkpoints=…), not {described(adjoint)}")
    require_schedule(steps, outputs, layout.size, adjoint)
    tolerances = tolerances_of(arguments.rtol, arguments.atol, y0, layout)
    # Extrapolation of this degree keeps the order: its error in the first and last steps is one order higher.
    degree = 0 if method.within_step else (method.order - 1) | 1
    span = Span(float(times[0]), float(times[-1]), direction, layout.dtype, degree)
    bounds = bounds_of(arguments.bounds, y0, layout)
    system = system_of(arguments, method, layout, direction, span)
    require_right_estimate(steps, method, system.mass)
    with torch.inference_mode(False), torch.no_grad():
        u0 = layout.flatten(y0).detach().double().cpu().numpy()
    # Before any other call of func, which may keep what it computes: that must have a graph.
    if torch.is_grad_enabled() or in_forward_mode():
        find_parameters(system, float(times[0]), u0)
        system.keep_members()
    elif method.implicit and _comes_again(arguments.func):  # its Jacobians call func that way too
        note_operations(system, float(times[0]), u0)
        system.keep_members()
    if flag("compile", arguments.compile):
        with torch.inference_mode(False), torch.no_grad():
            system.compile(u0)
    solver = None
    if method.implicit:
        limits = tolerances if isinstance(steps, Adaptive) else None
        constant = system.constant_jacobian
        wanted = Wanted(arguments.linear, arguments.jacobian, method, constant, limits, dict(options or {}))
        with torch.inference_mode(False), torch.no_grad():
            solver = choose(wanted, system.f, system.mass, float(times[0]), u0)
    require_free(options or {})
    krylov = isinstance(solver, KrylovSolver)
    require_understood(options or {}, method, isinstance(steps, Adaptive), krylov)
    plan = plan_of(arguments, steps, outputs, method, system, solver, adjoint)
    if len(times) > 1:
        plan = try_out_system(system, method, solver, float(times[0]), u0, (t, y0), plan, relies=True)
    return Request(
        method=method,
        system=system,
        solver=solver,
        t=t,
        on_steps=on_steps,
        ends=ends,
        outputs=outputs,
        returned=returned,
        between=times[~on_steps],
        steps=steps,
        tolerances=tolerances,
        newton=newton_limits(arguments.newton, steps, tolerances, y0, layout),
        options=dict(options or {}),
        adjoint=adjoint,
        make_consistent=make_consistent,
        events={n: one for n, one in enumerate(events_of(arguments.event)) if one.terminal},
        bounds=bounds,
        plan=plan,
        has_callback=not isinstance(arguments.callback, StepLimit | None),
        is_differentiated=is_differentiated((t, y0), system),
    )


def _comes_again(func: Func) -> bool:
    """Whether a function has come before, so that what is noted of it may be of use."""
    if torch.is_inference_mode_enabled():
        return False
    known = remembered(func)
    came = "came" in known
    known["came"] = True
    return came


def require_callables(arguments: Arguments) -> None:
    func = arguments.func
    if not callable(func):
        raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
    require_fixed_statistics(func)
    events_of(arguments.event)


def with_outputs_chosen(arguments: Arguments) -> Arguments:
    """Arguments whose ``outputs`` say "steps" or "interpolate", if they have said "auto"."""
    if not isinstance(arguments.outputs, str) or arguments.outputs != "auto":
        return arguments
    steps, chosen = arguments.steps, "steps"
    if resolve(arguments.method).interpolates_outputs and arguments.t.dim() == 1:
        # Recorded steps tell by the number of their intervals.
        is_new = steps is None or isinstance(steps, Adaptive | KeptSteps)
        on_steps = 0 if is_new else int(ends_of_steps(_all_ends(arguments), False).sum()) - 1
        if is_new or (isinstance(steps, Recorded) and len(steps.ends) < on_steps):
            chosen = "interpolate"
    return changed(arguments, outputs=chosen)


def _all_ends(arguments: Arguments) -> np.ndarray:
    """All times on which steps end if they end on outputs."""
    t = arguments.t.detach().cpu().double().numpy()
    named = {"breakpoints": arguments.breakpoints, "through": arguments.through}
    given = [several_times(name, () if times is None else times) for name, times in named.items()]
    given += [jump.time[None] for jump in jumps_of(arguments.jumps)]
    passed = np.concatenate([times.detach().cpu().double().numpy() for times in given])
    inside = passed[(passed > t.min(initial=np.inf)) & (passed < t.max(initial=-np.inf))]
    return np.unique(np.concatenate([t, inside]))


def interpolated_outputs(outputs: object) -> bool:
    """Whether outputs are interpolated between steps."""
    if not isinstance(outputs, str) or outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {', '.join(OUTPUTS)}, not {described(outputs)}")
    return outputs == "interpolate"


def require_effect(arguments: Arguments, method: Method) -> None:
    """Refuse settings of a solver that the method does not have."""
    newton = arguments.newton
    if newton is not None and not isinstance(newton, Newton):
        raise TypeError(f"newton must be Newton(rtol=…, atol=…) or None, not {described(newton)}")
    for name in ("linear", "jacobian"):
        wanted = getattr(arguments, name)
        is_default = wanted is None or (isinstance(wanted, str) and wanted == "auto")
        if not (method.implicit or is_default):
            raise ValueError(f"{name} has no effect with the explicit method {method}; leave it out")
    if callable(arguments.jacobian) and flag("compile", arguments.compile):
        raise ValueError(
            "jacobian: with compile=True derivatives are of compiled code; leave out one of them"
        )
    if newton is not None and not method.newton:
        kind = "method, which solves linear systems only," if method.implicit else "explicit method"
        raise ValueError(f"newton has no effect with the {kind} {method}; leave it out")


def try_out_system(
    system: System,
    method: Method,
    solver: LinearSolver | None,
    s0: float,
    u0: np.ndarray,
    given: tuple[Tensor, State],
    plan: Plan | None = None,
    relies: bool = False,
) -> Plan | None:
    """Try what the solve relies on in func, near the initial state.

    With ``relies`` trials that were made for another solve may serve, which is noted in the plan for steps
    all at once, or else in the system.
    """
    differentiated = is_differentiated(given, system)
    narrow = differentiated and system.layout.width <= NARROW
    trials: list[tuple[Dynamics, bool, bool]] = []
    for part in system.parts:
        implicit = method.implicit and part is system.f
        if implicit or differentiated:
            # Newton's steps get their Jacobian from the solver, backwards too.
            blocks = (implicit and solver is not None and solver.uses_blocks) or (
                narrow and not (implicit and method.newton)
            )
            # A given Jacobian has a comparison of its own.
            blocks = blocks and part.may_replicate and not isinstance(part, GivenJacobian)
            # Newton's iteration also converges with a part of the Jacobian; a Rosenbrock step needs all.
            trials.append((part, differentiated or method.time_is_state, blocks))
    kinds = [(exact, blocks) for _, exact, blocks in trials]
    values = tuple(read.values for read in system.reads)
    facts = system.facts = Facts(kinds, values, system.operations, system.used)
    may_rely = relies and len(trials) == len(system.parts) and may_rely_on_trials(system, plan)

    def make() -> None:
        with torch.inference_mode(False), torch.no_grad():
            found = [try_out(part, s0, u0, exact=exact, blocks=blocks) for part, exact, blocks in trials]
        if may_rely and any(found):
            counted = system.counted()
            for (part, _, _), passed in zip(trials, found, strict=True):
                if passed:
                    keep(part, facts, counted)

    passed = rely_on(system.parts, system.facts, make) if may_rely else None
    if passed is not None:
        return relying_on(passed, system, plan)
    make()
    return plan


def is_differentiated(given: tuple[Tensor, State], system: System) -> bool:
    """Whether gradients by t, y0 or parameters of a solve may be asked for."""
    t, y0 = given
    inputs = (t, *(y0 if isinstance(y0, tuple) else (y0,)), *system.parameters)
    return torch.is_grad_enabled() and any(value.requires_grad for value in inputs)


def may_rely_on_trials(system: System, plan: Plan | None) -> bool:
    """Whether trials may serve for several solves.

    These show that the Jacobian is right, but for wide systems, which therefore rely on trials less often.
    """
    return system.operations is not None and (plan is not None or not system.space.is_distributed)


def relying_on(trials: PassedTrials, system: System, plan: Plan | None) -> Plan | None:
    """Note in a plan, or for steps one by one in the system, which trials a solve relies on."""
    if plan is not None:
        return changed(plan, trials=trials)
    system.trials = trials
    return None
