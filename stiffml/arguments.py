"""Checks and defaults of a solve's arguments; every message names the argument and what to pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.linear.choice import Wanted, choose
from stiffml.linear.settings import LU, Krylov, Sparsity
from stiffml.methods import METHODS, Method, resolve
from stiffml.run.events import EventFunc
from stiffml.settings import Discrete, Newton, Tolerances
from stiffml.split import Split
from stiffml.steps import Adaptive, Fixed, Grid, Recorded, Steps, ends_of_steps
from stiffml.system.batching import Func
from stiffml.system.curvature import WIDEST_BLOCK
from stiffml.system.dynamics import Dynamics
from stiffml.system.mass import Mass
from stiffml.system.space import HasSpace, Space
from stiffml.system.state import Layout, State
from stiffml.system.statistics import require_fixed_statistics
from stiffml.system.system import System
from stiffml.system.trials import try_out

OUTPUTS = ("steps", "interpolate")
FIXED_NEWTON = 1e-10


@dataclass(frozen=True)
class Request:
    """A checked solve: everything the engine needs, nothing left to default.

    ``on_steps`` (n,) bool says which of the times t are ``outputs`` that steps end on; the others are
    ``between`` them.
    """

    method: Method
    system: System
    t: Tensor
    on_steps: np.ndarray
    outputs: np.ndarray
    between: np.ndarray
    steps: Steps
    tolerances: Tolerances
    newton: Newton
    options: Mapping[str, object]
    adjoint: Discrete
    make_consistent: bool
    event: EventFunc | None


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
) -> Request:
    """Raise TypeError or ValueError for anything wrong, else the request."""
    method = resolve(method)
    if not callable(func):
        raise TypeError(f"func must be callable as func(t, y), not {type(func).__name__}")
    require_fixed_statistics(func)
    if event is not None and not callable(event):
        raise TypeError(f"event must be callable as event(t, y), not {type(event).__name__}")
    layout = _layout(y0, batch_dims)
    t, times, direction = _times(t)
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {', '.join(OUTPUTS)}, not {outputs!r}")
    on_steps = ends_of_steps(times, outputs == "interpolate")
    _check_steps(steps, method, rtol, atol)
    _check_implicit_only(method, linear=_asked_for(linear), jacobian=_asked_for(jacobian))
    if newton is not None and not method.newton:
        kind = "method, which solves linear systems only," if method.implicit else "explicit method"
        raise ValueError(f"newton has no effect with the {kind} {method}; leave it out")
    if not isinstance(adjoint, Discrete):
        raise TypeError(f"adjoint must be Discrete(), not {adjoint!r}")
    tolerances = _tolerances(rtol, atol, y0, layout)
    system = _system(func, layout, direction, _parameters(func, params), method, mass)
    if method.implicit:
        limits = tolerances if isinstance(steps, Adaptive) else None
        wanted = Wanted(linear, jacobian, method, system.linear, limits, dict(options or {}))
        with torch.inference_mode(False), torch.no_grad():
            u0 = layout.flatten(y0).detach().double().cpu().numpy()
            system.solver = choose(wanted, system.f, system.mass, float(times[0]), u0)
    if len(times) > 1:
        _try_out(system, method, times, y0, t)
    return Request(
        method=method,
        system=system,
        t=t,
        on_steps=on_steps,
        outputs=times[on_steps],
        between=times[~on_steps],
        steps=steps,
        tolerances=tolerances,
        newton=_newton(newton, steps, tolerances, layout.dtype),
        options=dict(options or {}),
        adjoint=adjoint,
        make_consistent=make_consistent,
        event=event,
    )


def _try_out(system: System, method: Method, times: np.ndarray, y0: State, t: Tensor) -> None:
    """Hold what the solve will rely on in func against what func does where it begins."""
    inputs = (t, *(y0 if isinstance(y0, tuple) else (y0,)), *system.parameters)
    differentiated = torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
    narrow = differentiated and system.layout.width <= WIDEST_BLOCK
    with torch.inference_mode(False), torch.no_grad():
        u0 = system.layout.flatten(y0).detach().double().cpu().numpy()
        for part in system.parts:
            part.span = float(times[0]), float(times[-1])
            implicit = method.implicit and part is system.f
            if implicit or differentiated:
                blocks = narrow or (implicit and system.solver.uses_blocks)
                blocks = blocks and part.may_replicate
                # Newton's iteration gets there with half a Jacobian too, a Rosenbrock step does not.
                exact = differentiated or method.time_is_state
                try_out(part, float(times[0]), u0, exact=exact, blocks=blocks)


def _layout(y0: State, batch_dims: int) -> Layout:
    parts = y0 if isinstance(y0, tuple) else (y0,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"y0 must be a tensor or a tuple of tensors, not {type(y0).__name__}")
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1 or dtypes - {torch.float64, torch.float32}:
        raise TypeError(f"y0 must be float64 or float32 throughout, not {', '.join(map(str, dtypes))}")
    devices = {part.device for part in parts}
    if len(devices) > 1 or parts[0].device.type == "meta":
        raise ValueError(f"y0 must be on one device with data, not on {', '.join(sorted(map(str, devices)))}")
    if any(part.numel() == 0 for part in parts):
        raise ValueError("y0 is empty")
    least = min(part.dim() for part in parts)
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
    t = torch.as_tensor(t)
    if t.dim() != 1 or len(t) == 0:
        raise ValueError(f"t must be one-dimensional with at least one time, not of shape {tuple(t.shape)}")
    if not t.is_floating_point():
        t = t.double()
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


def _check_steps(steps: Steps, method: Method, rtol: float | None, atol: float | Tensor | None) -> None:
    if not isinstance(steps, Adaptive | Fixed | Grid | Recorded):
        raise TypeError(f"steps must be Adaptive(), Fixed(h) or Grid(substeps), not {steps!r}")
    if isinstance(steps, Adaptive):
        if not method.adaptive:
            able = ", ".join(name for name, other in METHODS.items() if other.adaptive)
            raise ValueError(
                f"method: {method} has no error estimate to adapt steps with; pass steps=Fixed(h) or "
                f"steps=Grid(substeps), or use one of {able}"
            )
    elif rtol is not None or atol is not None:
        raise ValueError(
            f"rtol and atol choose adaptive steps and have no effect with {type(steps).__name__}; leave "
            "them out, or pass newton=Newton(rtol=…, atol=…) for the accuracy of the implicit stages"
        )


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
    rtol = (1e-4 if single else 1e-6) if rtol is None else float(rtol)
    atol = (1e-6 if single else 1e-9) if atol is None else atol
    resolution = 10 * torch.finfo(layout.dtype).eps
    if not rtol >= resolution:
        advice = "raise rtol or pass y0 as float64" if single else "raise rtol"
        raise ValueError(
            f"rtol = {rtol:g} is below what {layout.dtype} resolves ({resolution:.1e}); {advice}"
        )
    if isinstance(atol, Tensor) and atol.dim() > 0:
        if isinstance(y0, tuple) or atol.shape != y0.shape:
            wanted = "a number" if isinstance(y0, tuple) else f"a number or of y0's shape {tuple(y0.shape)}"
            raise ValueError(f"atol must be {wanted}, not of shape {tuple(atol.shape)}")
        values: float | np.ndarray = layout.flatten(atol.detach()).double().cpu().numpy()
    else:
        values = float(atol)
    if not np.all(np.asarray(values) > 0):
        raise ValueError(f"atol must be positive, not {atol}")
    return Tolerances(rtol, values)


def _newton(newton: Newton | None, steps: Steps, tolerances: Tolerances, dtype: torch.dtype) -> Newton:
    newton = newton or Newton()
    eps = torch.finfo(dtype).eps
    if isinstance(steps, Adaptive):
        rtol = max(0.01 * tolerances.rtol, 4 * eps)
        atol = 0.01 * float(np.min(tolerances.atol))
    else:
        rtol = max(FIXED_NEWTON, 100 * eps)
        atol = 0.01 * rtol
    return replace(newton, rtol=newton.rtol or rtol, atol=newton.atol or atol)


def _parameters(func: Func, params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    if isinstance(params, Tensor):
        raise TypeError("params must be a sequence of tensors, not one tensor")
    extra = tuple(params)
    for position, tensor in enumerate(extra):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"params[{position}] must be a tensor, not {type(tensor).__name__}")
    own = tuple(func.parameters()) if isinstance(func, nn.Module) else ()
    return tuple({id(p): p for p in (*own, *extra)}.values())


def _system(
    func: Func,
    layout: Layout,
    direction: int,
    parameters: tuple[Tensor, ...],
    method: Method,
    mass: Tensor | None,
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
        f, g = (Dynamics(part, layout, direction, parameters, space) for part in parts)
        return System(f, g, linear=func.linear)
    if not method.whole:
        able = ", ".join(name for name, other in METHODS.items() if other.split and other.whole)
        raise ValueError(
            f"method: {method} is not stiffly accurate and needs Split(implicit, explicit); for a right-hand "
            f"side that is implicit as a whole use one of {able}"
        )
    return System(Dynamics(func, layout, direction, parameters, space), mass=matrix)


def space_of(func: Func) -> Space:
    """Which processes hold the state: those of the field that func, or a part of it, belongs to."""
    parts: Iterable[object] = func.modules() if isinstance(func, nn.Module) else [func]
    fields = (getattr(part, "field", None) for part in parts)
    return next((field.space for field in fields if isinstance(field, HasSpace)), Space())


def _mass(mass: Tensor, layout: Layout, method: Method) -> Mass:
    if not isinstance(mass, Tensor):
        raise TypeError(f"mass must be a tensor, not {type(mass).__name__}")
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
