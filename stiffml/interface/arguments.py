"""Checks and defaults of a solve's arguments; every message names the argument and what to pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import described, flag, number, positive, several_times, whole, with_numbers
from stiffml.checks import times as checked_times
from stiffml.interface.feasibility import require_schedule
from stiffml.linear.choice import Wanted, choose
from stiffml.linear.krylov.solver import KrylovSolver
from stiffml.linear.settings import LU, Krylov
from stiffml.linear.sparsity import Sparsity
from stiffml.methods import METHODS, Method, resolve
from stiffml.parameters.passed import collected, in_forward_mode, module_of, require_reverse_mode
from stiffml.petsc.known_options import require_understood
from stiffml.petsc.matrix import PETScSolver
from stiffml.petsc.options import require_free
from stiffml.run.events import EventFunc
from stiffml.settings import Discrete, Newton, NewtonLimits, Tolerances
from stiffml.steps import RESOLVED, Adaptive, Fixed, Grid, Recorded, Steps, landings
from stiffml.system.bounds import Bounds, bounds_of
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.function.batching import Func
from stiffml.system.function.span import Span
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.mass import Mass
from stiffml.system.space import HasSpace, Space
from stiffml.system.split import Split
from stiffml.system.state import Layout, State
from stiffml.system.statistics import require_fixed_statistics
from stiffml.system.system import System
from stiffml.system.trials import try_out
from stiffml.system.unnamed_parameters import find_parameters

OUTPUTS = ("steps", "interpolate")
FIXED_NEWTON = 1e-10


@dataclass(frozen=True)
class Request:
    """A checked solve: everything the engine needs, nothing left to default.

    ``on_steps`` (n,) bool says which of the times t steps end on; the others are ``between``. With the times
    to pass through they are the ``ends``, in solver time ``outputs``; ``returned`` (n_ends,) bool says which
    of these are times of t. ``continues``: y0 is where a solve came to a breakpoint.
    """

    method: Method
    system: System
    solver: PETScSolver | None  # of the implicit part
    t: Tensor
    on_steps: np.ndarray
    ends: Tensor
    outputs: np.ndarray
    returned: np.ndarray
    between: np.ndarray
    steps: Steps
    tolerances: Tolerances
    newton: NewtonLimits
    options: Mapping[str, object]
    adjoint: Discrete
    make_consistent: bool
    event: EventFunc | None
    continues: bool
    bounds: Bounds | None


def check(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    method: str | Method,
    rtol: float | None,
    atol: float | Tensor | None,
    steps: Steps,
    outputs: str,
    linear: LU | Krylov | str,
    jacobian: str | Sparsity,
    batch_dims: int,
    mass: Tensor | None,
    params: Iterable[Tensor],
    adjoint: Discrete,
    newton: Newton | None,
    options: Mapping[str, object] | None,
    make_consistent: bool,
    event: EventFunc | None,
    bounds: Any,
    through: Tensor | Sequence[float] | None,
    continues: bool = False,
) -> Request:
    """Raise TypeError or ValueError for anything wrong, else the request."""
    params = collected(params)
    require_reverse_mode(y0=y0, t=t, params=params, mass=mass)
    method = resolve(method)
    if not callable(func):
        raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
    require_fixed_statistics(func)
    if event is not None and not callable(event):
        raise TypeError(f"event must be callable as event(t, y), not {described(event)}")
    layout = _layout(y0, batch_dims)
    t, times, direction = _times(t)
    if not isinstance(outputs, str) or outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {', '.join(OUTPUTS)}, not {described(outputs)}")
    make_consistent = flag("make_consistent", make_consistent)
    passed = several_times("through", () if through is None else through).to(t.device, torch.float64)
    passed_values = direction * passed.detach().cpu().numpy()
    on_steps, on_passed = landings(times, outputs == "interpolate", passed_values)
    ends, returned = _ends(t, on_steps, passed, on_passed, direction)
    _check_steps(steps, method, rtol, atol, times)
    _check_options(options)
    if newton is not None and not isinstance(newton, Newton):
        raise TypeError(f"newton must be Newton(rtol=…, atol=…) or None, not {described(newton)}")
    _check_implicit_only(method, linear=_asked_for(linear), jacobian=_asked_for(jacobian))
    if newton is not None and not method.newton:
        kind = "method, which solves linear systems only," if method.implicit else "explicit method"
        raise ValueError(f"newton has no effect with the {kind} {method}; leave it out")
    if not isinstance(adjoint, Discrete):
        raise TypeError(f"adjoint must be Discrete(checkpoints=…), not {described(adjoint)}")
    require_schedule(steps, direction * ends.detach().double().cpu().numpy(), layout.size, adjoint)
    tolerances = _tolerances(rtol, atol, y0, layout)
    # Of a degree that keeps the order: the error made in the first and last steps is one order higher.
    degree = 0 if method.within_step else (method.order - 1) | 1
    span = Span(float(times[0]), float(times[-1]), direction, layout.dtype, degree)
    within = bounds_of(bounds, y0, layout)
    system = _system(func, layout, direction, _parameters(func, params), method, mass, span)
    _check_algebraic(steps, method, system.mass)
    with torch.inference_mode(False), torch.no_grad():
        u0 = layout.flatten(y0).detach().double().cpu().numpy()
    # Before any other call of func: what it computes once, and keeps, it must compute with a graph.
    if torch.is_grad_enabled() or in_forward_mode():
        find_parameters(system, float(times[0]), u0)
        system.keep_members()
    solver = None
    if method.implicit:
        limits = tolerances if isinstance(steps, Adaptive) else None
        wanted = Wanted(linear, jacobian, method, system.constant_jacobian, limits, dict(options or {}))
        with torch.inference_mode(False), torch.no_grad():
            solver = choose(wanted, system.f, system.mass, float(times[0]), u0)
    require_free(options or {})
    krylov = isinstance(solver, KrylovSolver)
    require_understood(options or {}, method, isinstance(steps, Adaptive), krylov)
    if len(times) > 1:
        _try_out(system, method, solver, float(times[0]), u0, (t, y0))
    return Request(
        method=method,
        system=system,
        solver=solver,
        t=t,
        on_steps=on_steps,
        ends=ends,
        outputs=direction * ends.detach().cpu().double().numpy(),
        returned=returned,
        between=times[~on_steps],
        steps=steps,
        tolerances=tolerances,
        newton=_newton(newton, steps, tolerances, y0, layout),
        options=dict(options or {}),
        adjoint=adjoint,
        make_consistent=make_consistent,
        event=event,
        continues=continues,
        bounds=within,
    )


def _try_out(
    system: System,
    method: Method,
    solver: LinearSolver | None,
    s0: float,
    u0: np.ndarray,
    given: tuple[Tensor, State],
) -> None:
    """Hold what the solve will rely on in func against what func does where it begins."""
    t, y0 = given
    inputs = (t, *(y0 if isinstance(y0, tuple) else (y0,)), *system.parameters)
    differentiated = torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
    narrow = differentiated and system.layout.width <= NARROW
    with torch.inference_mode(False), torch.no_grad():
        for part in system.parts:
            implicit = method.implicit and part is system.f
            if implicit or differentiated:
                # A step that solves for itself has its Jacobian from the solver, backwards too.
                blocks = (implicit and solver is not None and solver.uses_blocks) or (
                    narrow and not (implicit and method.newton)
                )
                blocks = blocks and part.may_replicate
                # Newton's iteration gets there with half a Jacobian too, a Rosenbrock step does not.
                exact = differentiated or method.time_is_state
                try_out(part, s0, u0, exact=exact, blocks=blocks)


def _layout(y0: State, batch_dims: int) -> Layout:
    parts = y0 if isinstance(y0, tuple) else (y0,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"y0 must be a tensor or a tuple of tensors, not {described(y0)}")
    for position, part in enumerate(parts):
        with_numbers(f"y0[{position}]" if isinstance(y0, tuple) else "y0", part)
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1 or dtypes - {torch.float64, torch.float32}:
        is_complex = any(dtype.is_complex for dtype in dtypes)
        real = (
            ". Try: y0 = torch.view_as_real(z0), and torch.view_as_complex(y) in func" if is_complex else ""
        )
        raise TypeError(f"y0 must be float64 or float32 throughout, not {', '.join(map(str, dtypes))}{real}")
    devices = {part.device for part in parts}
    if len(devices) > 1:
        raise ValueError(f"y0 must be on one device, not on {', '.join(sorted(map(str, devices)))}")
    if any(part.numel() == 0 for part in parts):
        raise ValueError("y0 is empty")
    least = min(part.dim() for part in parts)
    batch_dims = whole("batch_dims", batch_dims, least=0)
    if not 0 <= batch_dims <= least:
        raise ValueError(f"batch_dims must lie between 0 and y0's {least} dimensions, not {batch_dims}")
    if len({part.shape[:batch_dims] for part in parts}) > 1:
        raise ValueError("y0: all tensors of a tuple must share the leading batch_dims dimensions")
    layout = Layout.of(y0, batch_dims)
    with torch.no_grad():
        finite = torch.isfinite(layout.flatten(y0))
    if not finite.all():
        where = layout.component(int(finite.int().argmin()))
        raise ValueError(f"y0 is not finite at component {list(where)}")
    return layout


def _times(t: Tensor) -> tuple[Tensor, np.ndarray, int]:
    t = checked_times("t", t)
    values = t.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"t is not finite at position {int(np.argmin(np.isfinite(values)))}")
    direction = -1 if len(values) > 1 and values[1] < values[0] else 1
    outputs = direction * values
    rising = np.diff(outputs) > 0
    if not rising.all():
        at = int(np.argmin(rising))
        raise ValueError(
            "t must be strictly increasing or strictly decreasing, "
            f"but t[{at}] = {values[at]:.17g} and t[{at + 1}] = {values[at + 1]:.17g}"
        )
    same = np.diff(outputs) <= 4 * np.finfo(float).eps * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
    if same.any():
        at = int(np.argmax(same))
        raise ValueError(
            f"t[{at}] = {values[at]:.17g} and t[{at + 1}] = {values[at + 1]:.17g} differ by rounding only, "
            "and no step is that short: leave one of them out"
        )
    return t, outputs, direction


def _ends(
    t: Tensor, on_steps: np.ndarray, passed: Tensor, on_passed: np.ndarray, direction: int
) -> tuple[Tensor, np.ndarray]:
    """The times that steps end on, in their order, and (n_ends,) bool which of them are outputs."""
    ends = t[torch.from_numpy(on_steps).to(t.device)]
    if not len(on_passed):
        return ends, np.ones(len(ends), dtype=bool)
    merged = torch.cat([ends.double(), passed[torch.from_numpy(on_passed).to(t.device)]])
    order = torch.argsort(direction * merged.detach())
    return merged[order], (order < len(ends)).cpu().numpy()


def _check_steps(
    steps: Steps, method: Method, rtol: float | None, atol: float | Tensor | None, times: np.ndarray
) -> None:
    if not isinstance(steps, Adaptive | Fixed | Grid | Recorded):
        raise TypeError(
            f"steps must be Adaptive(), Fixed(h), Grid(substeps) or Recorded(ends), not {described(steps)}"
        )
    if isinstance(steps, Adaptive):
        if not method.adaptive:
            able = ", ".join(name for name, other in METHODS.items() if other.adaptive)
            raise ValueError(
                f"method: {method} has no error estimate to adapt steps with; pass steps=Fixed(h) or "
                f"steps=Grid(substeps), or use one of {able}"
            )
        latest = times[np.argmax(np.abs(times))]
        shortest = RESOLVED * float(np.spacing(abs(latest)))
        if steps.maximum is not None and steps.maximum < shortest:
            raise ValueError(
                f"Adaptive: maximum = {steps.maximum:g} is lost in the rounding of t, which resolves steps "
                f"of {shortest:.1e} at t = {abs(latest):.10g}; raise it, or let t begin at 0"
            )
    elif rtol is not None or atol is not None:
        raise ValueError(
            f"rtol and atol choose adaptive steps and have no effect with {type(steps).__name__}; leave "
            "them out, or pass newton=Newton(rtol=…, atol=…) for the accuracy of the implicit stages"
        )


def _check_algebraic(steps: Steps, method: Method, mass: Mass | None) -> None:
    """Refuse an error estimate that is wrong about algebraic equations where there are some."""
    if mass is not None and mass.singular and isinstance(steps, Adaptive) and not method.adaptive_dae:
        able = ", ".join(name for name, other in METHODS.items() if other.adaptive_dae)
        raise ValueError(
            f"steps: mass is singular, and the error estimate of {method} is wrong about what a step leaves "
            "of algebraic equations, so that adaptive steps end up too short; pass steps=Fixed(h) or "
            f"steps=Grid(substeps), or use one of {able}"
        )


def _check_options(options: object) -> None:
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise TypeError(
            'options must be a mapping of PETSc options, such as {"ts_adapt_safety": 0.8}, '
            f"not {described(options)}"
        )
    for name, value in options.items():
        if not isinstance(name, str) or not name.strip("-"):
            raise TypeError(f"options: names must be texts such as 'ksp_type', not {described(name)}")
        if isinstance(value, np.ndarray | Tensor) or not (
            value is None or isinstance(value, str | bool | int | float | np.number | np.bool_)
        ):
            raise TypeError(f"options: {name} must be a text, a number or a bool, not {described(value)}")


def _asked_for(argument: object) -> object | None:
    """None if the choice is left to us."""
    return None if isinstance(argument, str) and argument == "auto" else argument


def _check_implicit_only(method: Method, **arguments: object) -> None:
    if not method.implicit:
        for name, value in arguments.items():
            if value is not None:
                raise ValueError(f"{name} has no effect with the explicit method {method}; leave it out")


def _tolerances(rtol: float | None, atol: float | Tensor | None, y0: State, layout: Layout) -> Tolerances:
    single = layout.dtype == torch.float32
    rtol = (1e-4 if single else 1e-6) if rtol is None else number("rtol", rtol)
    atol = (1e-6 if single else 1e-9) if atol is None else atol
    resolution = 10 * torch.finfo(layout.dtype).eps
    if not rtol >= resolution:
        advice = "raise rtol or pass y0 as float64" if single else "raise rtol"
        raise ValueError(
            f"rtol = {rtol:g} is below what {layout.dtype} resolves ({resolution:.1e}); {advice}"
        )
    return Tolerances(rtol, _by_component("atol", positive("atol", atol), y0, layout))


def _by_component(name: str, value: float | Tensor, y0: State, layout: Layout) -> float | np.ndarray:
    """A number, or one a flat component (size,) where a tensor in y0's shape is given."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(y0, tuple) or value.shape != y0.shape:
        wanted = "a number" if isinstance(y0, tuple) else f"a number or of y0's shape {tuple(y0.shape)}"
        raise ValueError(f"{name} must be {wanted}, not of shape {tuple(value.shape)}")
    return layout.flatten(value.detach()).double().cpu().numpy()


def _newton(
    newton: Newton | None, steps: Steps, tolerances: Tolerances, y0: State, layout: Layout
) -> NewtonLimits:
    newton = newton or Newton()
    eps = torch.finfo(layout.dtype).eps
    atol: float | np.ndarray | None
    if isinstance(steps, Adaptive):
        rtol = max(0.01 * tolerances.rtol, 4 * eps)
        atol = 0.01 * tolerances.atol
    else:
        rtol, atol = max(FIXED_NEWTON, 100 * eps), None
    if newton.atol is not None:
        atol = _by_component("Newton: atol", newton.atol, y0, layout)
    return NewtonLimits(newton.rtol or rtol, atol, newton.max_iterations)


def _parameters(func: Func, params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    extra = collected(params)
    for position, tensor in enumerate(extra):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"params[{position}] must be a tensor, not {type(tensor).__name__}")
    module = module_of(func)
    own = () if module is None else tuple(module.parameters())
    return tuple({id(p): p for p in (*own, *extra)}.values())


def _system(
    func: Func,
    layout: Layout,
    direction: int,
    parameters: tuple[Tensor, ...],
    method: Method,
    mass: Tensor | None,
    span: Span,
) -> System:
    matrix = None if mass is None else _mass(mass, layout, method)
    space = space_of(func)
    if isinstance(func, Split) and method.split:
        if mass is not None:
            raise ValueError(
                f"mass: {method} with Split needs an identity mass matrix; solve M y' = f + g for y', or "
                "pass the sum as one function, which is then implicit as a whole"
            )
        parts = (func.implicit, func.explicit)
        f, g = (Dynamics(part, layout, direction, parameters, space, span) for part in parts)
        return System(f, g, constant_jacobian=func.linear)
    if not method.whole:
        able = ", ".join(name for name, other in METHODS.items() if other.split and other.whole)
        raise ValueError(
            f"method: {method} is not stiffly accurate and needs Split(implicit, explicit); for a right-hand "
            f"side that is implicit as a whole use one of {able}"
        )
    return System(Dynamics(func, layout, direction, parameters, space, span), mass=matrix)


def space_of(func: Func) -> Space:
    """Which processes hold the state: those of the field that func, or a part of it, belongs to."""
    parts: Iterable[object] = func.modules() if isinstance(func, nn.Module) else [func]
    fields = (getattr(part, "field", None) for part in parts)
    return next((field.space for field in fields if isinstance(field, HasSpace)), Space())


def _mass(mass: Tensor, layout: Layout, method: Method) -> Mass:
    if not isinstance(mass, Tensor):
        raise TypeError(f"mass must be a tensor, not {described(mass)}")
    mass = with_numbers("mass", mass)
    if mass.is_complex() or mass.dtype is torch.bool:
        raise TypeError(
            f"mass must hold real numbers, not {mass.dtype}: pass its real and imaginary parts as "
            "blocks of a real matrix, and the state likewise"
        )
    if not method.mass:
        able = ", ".join(name for name, other in METHODS.items() if other.mass)
        raise ValueError(f"mass: {method} takes no mass matrix; use one of {able}")
    matrix = Mass(mass, layout)
    if matrix.singular:
        if not method.dae:
            able = ", ".join(name for name, other in METHODS.items() if other.dae)
            raise ValueError(
                f"mass is singular, and {method} does not integrate such problems; use one of {able}"
            )
        if method.explicit_first_stage and not matrix.has_zero_rows:
            raise ValueError(
                f"mass: {method} begins with an explicit stage, for which every algebraic equation must be a "
                "zero row of the mass matrix, and its column zero too; combine equations so, or use a method "
                "such as bdf"
            )
    return matrix
