"""The door: ``solve``, ``odeint`` and ``ODEBlock``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import described, flag, require_untransformed, times
from stiffml.errors import SolveError, Status, explain
from stiffml.gradients.autograd import Integrate, Outputs, Record
from stiffml.interface.arguments import Request, check, space_of
from stiffml.interface.breakpoints import solve_in_pieces
from stiffml.interface.feasibility import require_sane_span
from stiffml.interface.solution import Piece, Solution, Stats
from stiffml.linear import LU, Krylov, Sparsity
from stiffml.methods import Method
from stiffml.native.replay import Replay
from stiffml.parameters.names import reached
from stiffml.parameters.passed import collected
from stiffml.run.dense_output import with_outputs
from stiffml.run.events import Event, EventFunc, differentiable_event, moved_with_end
from stiffml.run.forward import integrate
from stiffml.run.initialization import Constraints, MakeConsistent
from stiffml.settings import Discrete, Newton
from stiffml.steps import Adaptive, Steps
from stiffml.system.function.batching import Func
from stiffml.system.space import solving_on
from stiffml.system.state import State

Bounded = tuple[Any, Any]
"""(low, high), each None, a number, or tensors like y0."""


def solve(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    method: str | Method = "bdf",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    steps: Steps | None = None,
    outputs: str = "steps",
    linear: LU | Krylov | str = "auto",
    jacobian: str | Sparsity = "auto",
    batch_dims: int = 0,
    mass: Tensor | None = None,
    make_consistent: bool = False,
    event: EventFunc | None = None,
    bounds: Bounded | None = None,
    breakpoints: Tensor | Sequence[float] | None = None,
    through: Tensor | Sequence[float] | None = None,
    params: Iterable[Tensor] = (),
    adjoint: Discrete | None = None,
    newton: Newton | None = None,
    options: Mapping[str, object] | None = None,
    throw: bool = True,
) -> Solution:
    """Integrate y' = func(t, y) from y0 at t[0] and return the states at all times of t.

    The result is differentiable with respect to ``y0``, the parameters and ``t``; its gradient is
    the exact discrete adjoint of the steps taken, which the backward pass holds fixed.

    Parameters
    ----------
    func : callable or nn.Module
        func(t, y) -> dy/dt in the shape of y, real, by operations of torch on y; t is a 0-d tensor, from t[0]
        to t[-1] also where a method has stages beyond its step (``Method.within_step``): there func is
        extrapolated in time. t may leave torch (to look into a table, say). Parameters of a module get
        gradients, and so do all other tensors that func uses at y0 and that require them. It is called a few
        times near y0 before the solve begins.
    y0 : Tensor or tuple of Tensor
        Initial state, any shape, float64 or float32.
    t : Tensor
        (n,) output times, strictly increasing or decreasing; t[0] is the initial time. Numbers in another
        sequence count in double precision. The span must lie between 1e-40 and 1e40, and hold at least 64
        numbers of double precision.
    method : str or Method
        Default ``"bdf"``. A name of ``stiffml.METHODS`` or a method object.
    rtol, atol : float, or for atol a Tensor shaped like y0
        Tolerances of adaptive steps. Default 1e-6 and 1e-9 (float32: 1e-4 and 1e-6).
    steps : Adaptive, Fixed, Grid or Recorded
        Default ``Adaptive()``. More steps than fit into memory are refused, unless fewer states of them are
        kept (``adjoint``).
    outputs : str
        ``"steps"`` (default): steps end on every time of t. ``"interpolate"``: only on the first and the
        last; the states between are interpolated (see :meth:`Solution.interpolate`), so that many outputs
        cost no steps.
    linear : str, LU, GMRES or Krylov
        How linear systems are solved: by factors of the Jacobian, or by a Krylov method with a
        preconditioner. ``"auto"`` (default): LU up to 256 components a sample; beyond that by the structure
        found. ``stats.linear`` says what was chosen.
    jacobian : str or Sparsity
        ``"auto"`` (default); ``"dense"``, one block a sample where ``batch_dims`` is given; ``"coloured"``, a
        sparse one whose pattern is found by trying func, or given as ``Sparsity(pattern)``;
        ``"matrix-free"``, only products of it.
    batch_dims : int
        How many leading dimensions of y are independent samples. Default 0. Samples that depend on each other
        are an error.
    mass : Tensor
        M of M y' = func(t, y): for the w components of a sample (w,), or in a sample's shape, if it is
        diagonal, or (w, w); with the batch dimensions in front if it differs between samples. For w samples
        (w, w) has two meanings: pass (1, w, w), or (w, w, w). It may be singular (an index-1 DAE), and gets
        a gradient if it requires one. Default: the identity.
    make_consistent : bool
        Whether the algebraic variables of y0 are first changed so that the algebraic equations of a singular
        mass matrix hold; the gradient includes this. Default False: inconsistent values are an error.
    event : callable
        event(t, y) -> tensor of one element, a real number and not a condition. The solve ends where it first
        changes its sign, looked at where steps end and at four times between; ``Solution.event`` has the time
        and the state there, with exact gradients, and the outputs are those before it. Two roots within a
        fifth of a step may go unnoticed. One at t[0], or there but for rounding, does not count, so that a
        solve can go on from an event. Where it is NaN it has no sign.
    bounds : (low, high)
        Where the state is to stay: each None, a number, or like y0 (tensors broadcast; tuples for a tuple
        state). Default: anywhere. An adaptive step that ends outside by more than ``atol`` is cut, and so
        is, up to 10 times, one that begins inside and ends outside by less, which may take many more steps.
        Of other steps those are halved that end outside by more than 1e-9 (float32: 1e-6). Only steps are
        cut, and states are not changed, so that gradients stay exact. Stages within a step and interpolated
        outputs may lie outside. Where func leads out, the solve stops with an error that says so. Bounds get
        no gradient.
    breakpoints : sequence of float or Tensor
        Times at which func jumps. Steps end there, func is evaluated on either side only, and methods
        start afresh; with a singular mass matrix from algebraic variables that satisfy the algebraic
        equations behind the jump (an output there holds the values before it). A tensor gets gradients.
        ``steps`` refers to the intervals between outputs and breakpoints.
    through : sequence of float or Tensor
        Times that steps end on besides those of t, so that nothing between them is stepped over: the corners
        of tabulated data, the begin of a pulse. Nothing is returned there, and methods go on as they do after
        an output, unlike at ``breakpoints``; those outside of t do not count. A tensor gets gradients.
        ``steps`` refers to the intervals between outputs and these times.
    params : iterable of Tensor
        Tensors besides a module's parameters that need gradients; none that is computed from another. Needed
        for those that func does not use at the start of the solve: that they are used later is an error.
    adjoint : Discrete
        What the forward run keeps for the backward pass.
    newton : Newton
        By default tied to the step tolerance of each component; tight, and relative to each component, for
        steps without error control.
    options : mapping
        PETSc options under this solve's own prefix, such as ``{"ts_adapt_safety": 0.8}``: those that leave
        the equations of a step, and their solution, as they are. What prints takes True.
    throw : bool
        Whether a solve that stops early raises; otherwise the outputs reached are returned.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, by name and before anything is solved; for options that would change the
        equations of a step, or that PETSc makes no use of; within ``torch.func`` and ``torch.vmap``. For a
        ``func`` that has two values at one state, layers that keep statistics in training mode, or complex
        values, or whose derivative torch does not see, if it is needed; for samples that depend on each
        other.
    SolveError
        If the solve stops early and ``throw`` is true; its ``solution`` holds the outputs reached.
    Exception
        Whatever ``func`` raises, unchanged.
    """
    require_untransformed()
    flag("throw", throw)
    t = times("t", t)
    require_sane_span(t)
    arguments = dict(
        method=method,
        rtol=rtol,
        atol=atol,
        steps=Adaptive() if steps is None else steps,
        outputs=outputs,
        linear=linear,
        jacobian=jacobian,
        batch_dims=batch_dims,
        mass=mass,
        params=collected(params),
        adjoint=Discrete() if adjoint is None else adjoint,
        newton=newton,
        options=options,
        make_consistent=make_consistent,
        event=event,
        through=through,
        bounds=bounds,
    )
    if breakpoints is None:
        solution, error = _solve(func, y0, t, Stats(), arguments)
    else:
        solution, error = solve_in_pieces(_solve, func, y0, t, breakpoints, arguments)
    if error is not None and throw:
        error.solution = solution
        raise error
    return solution


def _solve(
    func: Func, y0: State, t: Tensor, stats: Stats, arguments: dict[str, Any]
) -> tuple[Solution, SolveError | None]:
    """Check, integrate, and count the cost in ``stats``."""
    with solving_on(space_of(func)):
        return _integrate(check(func, y0, t, **arguments), y0, stats)


def _integrate(request: Request, y0: State, stats: Stats) -> tuple[Solution, SolveError | None]:
    system = request.system
    u0 = _initial(request, y0)
    if request.bounds is not None:
        request.bounds.require(u0.detach().double().cpu().numpy(), request.tolerances, system)
    records: list[Record] = []

    # Jacobians need autograd, which inference mode would switch off for good.
    @torch.inference_mode(False)
    @torch.no_grad()
    def compute() -> tuple[Outputs, np.ndarray]:
        run = integrate(
            system,
            request.method,
            request.outputs,
            request.returned,
            request.between,
            u0.detach().double().cpu().numpy(),
            request.steps,
            request.tolerances,
            request.newton,
            request.options,
            request.adjoint,
            request.event,
            request.bounds,
            solver=request.solver,
        )
        records.append(Record(run, Replay(run.trajectory, request.method, system, request.solver), stats))
        outputs = Outputs(records[0], with_outputs(records[0].replay, run.readings), run.readings)
        return outputs, run.hand_over()

    on_steps = torch.from_numpy(request.on_steps).to(request.t.device)
    t_ends, t_between = request.ends, request.t[~on_steps]
    u = Integrate.apply(compute, t_ends, t_between, u0, *system.parameters)
    return _finish(records[0], request, (t_ends, u0, *system.parameters), u)


def _initial(request: Request, y0: State) -> Tensor:
    """The flat initial state, checked against the algebraic equations if there are any."""
    system = request.system
    u0 = system.layout.flatten(y0)
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
    assert request.solver is not None
    constraints = Constraints(system, s0, request.solver)
    if request.make_consistent or request.continues:
        return MakeConsistent.apply(constraints, s0, request.t[0], u0, *system.parameters)
    with torch.inference_mode(False), torch.no_grad():
        constraints.check(u0.detach().double().cpu().numpy(), request.tolerances)
    return u0


def _finish(
    record: Record, request: Request, inputs: tuple[Tensor, ...], u: Tensor
) -> tuple[Solution, SolveError | None]:
    run, system = record.run, request.system
    trajectory, layout = run.trajectory, system.layout
    if request.solver is not None:
        record.stats.linear = request.solver.description
    record.stats.count(
        **run.counts,
        accepted=trajectory.n_steps,
        ramp_steps=run.ramp_steps,
        rhs_evals=system.rhs_evals,
        jacobians=system.f.jacobians,
        wall_s=run.wall_s,
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
    if run.event is not None and request.event is not None:
        t_event, u_event = differentiable_event(
            request.event, record.replay, run.checkpoints, run.event, u[-1]
        )
        replay = with_outputs(record.replay, run.readings)
        u = moved_with_end(u[:-1], t_event, replay, run.checkpoints, run.readings[:-1])
        event = Event(t_event, layout.unflatten(u_event))
        status, message = Status.EVENT, f"the event was reached at t = {t_event.item():.10g}"
    if len(request.between):
        u = u[run.in_time]
    solution = Solution(
        t=request.t[: len(u)],
        y=layout.unflatten(u),
        status=status,
        message=message,
        stats=record.stats,
        steps=trajectory.recorded(),
        event=event,
        pieces=(Piece(record, inputs, None if event is None else event.t),),
    )
    return solution, error


def odeint(func: Func, y0: State, t: Tensor, **arguments) -> State:
    """The states at the times of t, (len(t), *y0.shape), differentiable: ``solve(...).y``.

    Takes the arguments of :func:`solve` except ``throw``.
    """
    if "throw" in arguments:
        raise TypeError("odeint always raises if it cannot reach the last time; use solve for throw=False")
    return solve(func, y0, t, **arguments).y


_ARGUMENTS = {name for name, p in inspect.signature(solve).parameters.items() if p.kind is p.KEYWORD_ONLY}
_ARGUMENTS -= {"throw"}
"""What ``odeint`` takes by name."""


class ODEBlock(nn.Module):
    """A layer that integrates its input through the times t.

    Parameters
    ----------
    func : callable or nn.Module
        func(t, y) -> dy/dt; a module becomes a submodule.
    t : Tensor
        Times; a buffer that moves with the module but is not saved with its weights.
    **arguments
        As for :func:`odeint`. Each ``nn.Parameter`` among ``params`` becomes a parameter of the block,
        ``"params.i"``, for optimisers, ``state_dict`` and ``to``; other tensors stay as they are. A copy of
        the block has copies of them, but for those that a plain function (a lambda, say) reads: a copy of a
        function is the function itself, which goes on reading the same tensors.

    ``forward(y0)`` returns the states at all times, (len(t), *y0.shape).
    """

    t: Tensor

    def __init__(self, func: Func, t: Tensor, **arguments) -> None:
        super().__init__()
        if not callable(func):
            raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
        self.func = func
        self.register_buffer("t", t if isinstance(t, Tensor) else times("t", t), persistent=False)
        unknown = sorted(set(arguments) - _ARGUMENTS)
        if unknown:
            known = ", ".join(sorted(_ARGUMENTS))
            raise TypeError(f"ODEBlock: no argument {unknown[0]!r}; known are {known}")
        if "params" in arguments:
            arguments["params"] = collected(arguments["params"])  # an iterator would serve one forward only
            self._register(arguments["params"])
        self.arguments = arguments

    def _register(self, params: tuple[Tensor, ...]) -> None:
        known = {id(parameter) for parameter in self.parameters()}
        holder = nn.Module()
        for number, tensor in enumerate(params):
            if isinstance(tensor, nn.Parameter) and id(tensor) not in known:
                holder.register_parameter(str(number), tensor)
        if holder._parameters:
            self.params = holder

    def __deepcopy__(self, memo: dict[int, Any]) -> ODEBlock:
        held = reached(self.func)
        memo |= {id(tensor): tensor for tensor in held.tensors.values() if id(tensor) in held.shared}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def forward(self, y0: State) -> State:
        given = self.arguments.get("params", ())
        held = self.params._parameters if isinstance(getattr(self, "params", None), nn.Module) else {}
        if any(given[int(number)] is not tensor for number, tensor in held.items()):
            raise ValueError(
                "params: others stand in for parameters of this block that its func reads by itself, as with "
                "torch.func.functional_call, and would have no effect; make func a module that has them"
            )
        return odeint(self.func, y0, self.t, **self.arguments)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
