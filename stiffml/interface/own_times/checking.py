"""Checks of the arguments of a solve in which every sample has times of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described, flag
from stiffml.interface.arguments import DEFAULTS, Arguments
from stiffml.interface.checking import interpolated_outputs, require_callables, require_effect, try_out_system
from stiffml.interface.checking_steps import require_right_estimate
from stiffml.interface.equations import parameters_of, space_of, system_of
from stiffml.interface.initial_state import checked_layout
from stiffml.interface.own_times.steps import steps_by_sample
from stiffml.interface.own_times.times import OwnTimes, own_times
from stiffml.interface.own_times.together import are_together, near_states
from stiffml.interface.tolerances import newton_limits, tolerances_of
from stiffml.linear.choice import Wanted, choose
from stiffml.linear.dense.exponential import Exponentials
from stiffml.linear.dense.lu import DenseLU
from stiffml.methods import METHODS, Method, resolve
from stiffml.parameters.passed import collected, in_forward_mode, require_reverse_mode
from stiffml.settings import Discrete, NewtonLimits, Tolerances
from stiffml.steps import Adaptive, KeptSteps, Recorded
from stiffml.system.function.batching import Func
from stiffml.system.function.one_sample import one_sample, times_of_trial
from stiffml.system.function.span import Span
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.split import Split
from stiffml.system.state import Layout
from stiffml.system.system import System
from stiffml.system.unnamed_parameters import find_parameters

WITHOUT = {
    "event": "solve samples with events one at a time",
    "bounds": "leave it out",
    "breakpoints": "solve samples one at a time, or give func the jumps smoothly",
    "jumps": "solve samples one at a time",
    "through": "add these times to t; what repeats is allowed",
    "options": "leave it out: PETSc takes no part",
    "callback": "solve samples one at a time; there is no order among the steps of several",
    "max_seconds": "limit the steps: Adaptive(max_steps=…)",
    "progress": "leave it out",
}
"""The arguments that such a solve does not take, and what to do."""


@dataclass(frozen=True)
class OwnRequest:
    """The arguments of such a solve, checked and with all defaults filled in.

    Attributes
    ----------
    method, solver
        As in :class:`stiffml.run.request.Request`.
    system : System
        On the states of one sample.
    layout : Layout
        Of the whole batch.
    times : OwnTimes
    on_steps : tuple of ndarray
        For each sample (distinct,) bool: on which of its distinct times steps end.
    outputs : tuple of ndarray
        These, in solver time.
    steps : Adaptive, or tuple of ndarray
        Adaptive steps, or for each sample the ends of its steps.
    ramp_steps : int
        The steps that starting ramps have added.
    tolerances, newton
        With each tolerance as a number or (samples, width).
    together : bool
        Whether known steps are solved for all at once.
    near : tuple of ndarray, or None
        For each sample (steps, width) states from which that starts; None for the initial states.
    keeps_stages, make_consistent : bool
    """

    method: Method
    system: System
    solver: LinearSolver | None
    layout: Layout
    times: OwnTimes
    on_steps: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    steps: Adaptive | tuple[np.ndarray, ...]
    ramp_steps: int
    tolerances: Tolerances
    newton: NewtonLimits
    together: bool
    near: tuple[np.ndarray, ...] | None
    keeps_stages: bool
    make_consistent: bool

    def where(self, sample: int) -> list[int]:
        """The index of a sample in y0."""
        return list(map(int, np.unravel_index(sample, self.layout.batch)))

    def tolerances_of(self, sample: int) -> Tolerances:
        """The tolerances of one sample."""
        given = (self.tolerances.rtol, self.tolerances.atol)
        return Tolerances(*(one[sample] if isinstance(one, np.ndarray) else one for one in given))


def check(arguments: Arguments) -> OwnRequest:
    """Check the arguments and fill in what was left to default.

    Raises
    ------
    TypeError, ValueError
        For anything wrong, or that such a solve does not take.
    """
    y0, params = arguments.y0, collected(arguments.params)
    require_reverse_mode(y0=y0, t=arguments.t, params=params, mass=arguments.mass)
    method = resolve(arguments.method)
    require_callables(arguments)
    layout = checked_layout(y0, arguments.batch_dims)
    times = own_times(arguments.t, layout.batch)
    _require_taken(arguments, method)
    interpolated = interpolated_outputs(arguments.outputs)
    make_consistent = flag("make_consistent", arguments.make_consistent)
    require_effect(arguments, method)
    adjoint = Discrete() if arguments.adjoint is None else arguments.adjoint
    if not isinstance(adjoint, Discrete):
        raise TypeError(f"adjoint must be Discrete(checkpoints=…), not {described(adjoint)}")
    if not isinstance(adjoint.checkpoints, str):
        raise _not_taken("adjoint", 'it keeps all states: Discrete("stages") or Discrete("solutions")')
    tolerances = tolerances_of(arguments.rtol, arguments.atol, y0, layout)
    of_one = Layout.of(_first(y0, len(layout.batch)), 0)
    with torch.inference_mode(False), torch.no_grad():
        u0 = layout.flatten(y0).detach().double().cpu().numpy().reshape(layout.samples, layout.width)
    begin = min(float(own[0]) for own in times.distinct)
    end = max(float(own[-1]) for own in times.distinct)
    direction = times.direction
    span = Span(begin, end, direction, layout.dtype)
    trial = direction * times_of_trial(times.distinct)
    single = _single(arguments, layout, of_one, trial, u0)
    system = system_of(single, method, of_one, direction, span)
    given = arguments.steps
    on_steps = times.on_steps(interpolated)
    outputs = tuple(own[chosen] for own, chosen in zip(times.distinct, on_steps, strict=True))
    known, ramp_steps = steps_by_sample(given, method, arguments, outputs, layout, adjoint)
    require_right_estimate(known if isinstance(known, Adaptive) else Recorded(()), method, system.mass)
    s0 = float(times.distinct[0][0])
    if torch.is_grad_enabled() or in_forward_mode():
        find_parameters(system, s0, u0[0])
        system.keep_members()
    if flag("compile", arguments.compile):
        with torch.inference_mode(False), torch.no_grad():
            system.compile(u0[0])
    solver = _solver(
        arguments, method, system, tolerances if isinstance(known, Adaptive) else None, s0, u0[0]
    )
    if isinstance(known, Adaptive) and not method.has_estimates(system.form):
        raise ValueError(f"method: {method} {_NO_ESTIMATE}")
    if any(len(own) > 1 for own in outputs):
        try_out_system(system, method, solver, s0, u0[0], (times.t, y0))
    together = are_together(arguments, known, method, system, solver)
    near = near_states(arguments.guess, () if isinstance(known, Adaptive) else known, system, layout)
    adaptive = Adaptive() if isinstance(known, Adaptive) else Recorded(())
    newton = newton_limits(arguments.newton, adaptive, tolerances, y0, layout)
    return OwnRequest(
        method=method,
        system=system,
        solver=solver,
        layout=layout,
        times=times,
        on_steps=on_steps,
        outputs=outputs,
        steps=known,
        ramp_steps=ramp_steps,
        tolerances=Tolerances(_rows(tolerances.rtol, layout), _rows(tolerances.atol, layout)),
        newton=dataclasses.replace(newton, atol=_rows(newton.atol, layout)),
        together=together,
        near=near,
        keeps_stages=adjoint.checkpoints == "stages",
        make_consistent=make_consistent,
    )


_NO_ESTIMATE = (
    "estimates errors with a mass matrix in PETSc only, which does not take steps of every sample's own; "
    "pass steps=Fixed(h) or steps=Grid(substeps), or use bdf"
)


def _not_taken(name: str, advice: str) -> ValueError:
    return ValueError(f"{name}: not available if every sample has times of its own; {advice}")


def _require_taken(arguments: Arguments, method: Method) -> None:
    """Raise ValueError for what does not go with times of every sample's own."""
    for name, advice in WITHOUT.items():
        value = getattr(arguments, name)
        if value is not DEFAULTS[name] and not (name == "options" and not value):
            raise _not_taken(name, advice)
    if callable(arguments.jacobian):
        raise _not_taken("jacobian", "a function of it would have to know its sample; leave it out")
    if isinstance(arguments.steps, KeptSteps):
        raise _not_taken("steps", "KeptSteps keep those of one t for all; pass Adaptive() or known steps")
    if not method.within_step:
        able = ", ".join(name for name, other in METHODS.items() if other.within_step and other.implicit)
        raise ValueError(
            f"method: {method} has stages beyond its step, where a sample would depend on the times of "
            f"others; use one of {able}"
        )
    if space_of(arguments.func).is_distributed:
        raise _not_taken("func", "a field over several processes has one time")


def _first(y0, dims: int):
    """The first sample of a state."""
    if isinstance(y0, tuple):
        return tuple(part[(0,) * dims] for part in y0)
    return y0[(0,) * dims]


def _single(
    arguments: Arguments, layout: Layout, of_one: Layout, trial: np.ndarray, u0: np.ndarray
) -> Arguments:
    """The arguments for one sample: its function, its mass matrix, and the parameters of the batch's."""

    def one(func: Func) -> Func:
        with torch.inference_mode(False):
            return one_sample(func, layout, of_one, trial, u0.ravel())

    func, params = arguments.func, parameters_of(arguments.func, arguments.params)
    single: Func
    if isinstance(func, Split):
        single = Split(one(func.implicit), one(func.explicit), linear=func.linear)
    else:
        single = one(func)
    return dataclasses.replace(
        arguments, func=single, params=params, mass=_mass(arguments.mass, layout, of_one)
    )


def _mass(mass: Tensor | None, layout: Layout, of_one: Layout) -> Tensor | None:
    """The mass matrix of a sample."""
    lead = len(layout.batch)
    if not isinstance(mass, Tensor) or mass.dim() <= lead:
        return mass
    width, shapes = layout.width, [(layout.width,), (layout.width, layout.width)]
    shapes += [tuple(of_one.shapes[0])] if len(of_one.shapes) == 1 else []
    inner = tuple(mass.shape[lead:])
    if tuple(mass.shape[:lead]) == (1,) * lead and inner in shapes and tuple(mass.shape) != (width, width):
        return mass.reshape(inner)
    if tuple(mass.shape[:lead]) == layout.batch and inner in shapes and tuple(mass.shape) not in shapes:
        raise _not_taken(
            "mass", "one that differs between samples; pass one for all, (width,) or (width, width)"
        )
    return mass


def _solver(
    arguments: Arguments,
    method: Method,
    system: System,
    limits: Tolerances | None,
    s0: float,
    u0: np.ndarray,
) -> LinearSolver | None:
    if not method.implicit:
        return None
    if limits is not None:
        limits = dataclasses.replace(limits, atol=float(np.min(limits.atol)))
    wanted = Wanted(arguments.linear, arguments.jacobian, method, system.constant_jacobian, limits, {})
    with torch.inference_mode(False), torch.no_grad():
        solver = choose(wanted, system.f, system.mass, s0, u0)
    if not isinstance(solver, DenseLU | Exponentials):
        raise _not_taken(
            "linear",
            f"it needs a dense Jacobian of a sample, not {solver.description}; leave linear and "
            "jacobian out, or pass linear=LU(), jacobian='dense'",
        )
    return solver


def _rows(value, layout: Layout):
    """A number, or a flat vector (size,) as (samples, width)."""
    return value.reshape(layout.samples, layout.width) if isinstance(value, np.ndarray) else value
