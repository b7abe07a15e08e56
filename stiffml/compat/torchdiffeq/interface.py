"""``odeint``, ``odeint_adjoint``, ``odeint_event`` and ``odeint_dense`` of torchdiffeq."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from stiffml.compat.torchdiffeq.adaptive import adaptive_solution, adaptively
from stiffml.compat.torchdiffeq.adjoint_equation import by_adjoint_equation, seminorm
from stiffml.compat.torchdiffeq.backward import AtBackward, adjoint_callbacks
from stiffml.compat.torchdiffeq.call import DEFAULT_RTOL, Call, Taken, call_of
from stiffml.compat.torchdiffeq.events import until_event
from stiffml.compat.torchdiffeq.grid import on_grid
from stiffml.compat.torchdiffeq.names import SCIPY, is_fixed
from stiffml.compat.torchdiffeq.scipy_solver import by_scipy
from stiffml.compat.torchdiffeq.warning import warn_once
from stiffml.parameters.passed import collected
from stiffml.settings import Discrete

Func = Callable[[Tensor, Any], Any]
EventFn = Callable[[Tensor, Any], Tensor]


def odeint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = DEFAULT_RTOL,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
) -> Any:
    """Integrate dy/dt = func(t, y) from y0 at t[0], with torchdiffeq's arguments.

    Parameters
    ----------
    func : callable
        func(t, y) -> dy/dt in the form of y. Callbacks are attributes of it: ``callback_step``,
        ``callback_accept_step``, ``callback_reject_step``, each called as (t0, y0, dt).
    y0 : Tensor or tuple of Tensor
        Real or complex.
    t : Tensor
        (n,) increasing or decreasing. With ``event_fn`` two times: where to begin, and which way.
    rtol, atol : float, Tensor, or for a tuple state a tuple of these
        Default 1e-7, which float32 does not resolve: there 1.2e-6; and 1e-9.
    method : str
        A name of torchdiffeq, or of ``stiffml.METHODS``. Default ``"dopri5"``.
    options : dict
        Adaptive methods: ``first_step, safety, ifactor, dfactor, min_step, max_step, max_num_steps, norm``,
        ``step_t`` (times that steps end on), ``jump_t`` (times at which func jumps), ``dtype`` (without
        effect: times are in double precision). On a grid: ``step_size``, ``grid_constructor`` (func, y0, t)
        -> times, ``interp`` (``"linear"`` or ``"cubic"`` between its points), ``perturb`` (func is not
        evaluated on both sides of a point of the grid). ``scipy_solver``: ``solver, min_step, max_step``.
    event_fn : callable
        event_fn(t, y) -> tensor. The solve ends where one of its elements first changes its sign.

    Returns
    -------
    Tensor or tuple of Tensor
        (n, \\*y0.shape), differentiable with respect to y0, t and all that func uses. With ``event_fn``: the
        time of the event, and (2, \\*y0.shape), y0 and the state there.

    Raises
    ------
    ValueError, TypeError
        For wrong arguments, and methods that stiffml does not have.
    SolveError
        If the solve stops early.

    Examples
    --------
    >>> from stiffml.compat.torchdiffeq import odeint
    >>> odeint(lambda t, y: -y, y0, t, method="dopri5", rtol=1e-8)[-1, 0]
    tensor(0.3679, dtype=torch.float64)
    >>> odeint(func, y0, t, method="bdf")[-1, 0]  # one of stiffml's own, for what is stiff
    tensor(0.3679, dtype=torch.float64)
    >>> grid = {"step_size": 0.1}
    >>> odeint(lambda t, y: -y, y0, t, method="rk4", options=grid)[-1, 0]
    tensor(0.3679, dtype=torch.float64)
    """
    call = call_of(func, y0, t, rtol, atol, method, options)
    if event_fn is not None:
        return _to(t, *until_event(call, event_fn))
    return _solved(call).y


def odeint_adjoint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = DEFAULT_RTOL,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """The same as :func:`odeint`, whose gradients are those of an adjoint already, of the very steps taken.

    It keeps the states of the steps and no graphs of func, which is evaluated again in the backward pass.

    func may have ``callback_step_adjoint``, ``callback_accept_step_adjoint`` and
    ``callback_reject_step_adjoint``. The first two are called in the backward pass for each step of the run,
    from the last to the first, with the end of the step, the state there and the size of the step. None is
    rejected there.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        As of :func:`odeint`.
    adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options
        Without effect: no differential equation is solved backwards, and no error made in it. A warning says
        so where one is given. They are for ``scipy_solver``, whose steps have no derivatives: there the
        adjoint equation is solved, by default with rtol, atol, method and options of the solve.
    adjoint_params : iterable of Tensor
        Tensors that get a gradient, zero if nothing depends on them. Default: the parameters of func. Other
        tensors that func uses get their gradient too, except with ``scipy_solver``.

    Examples
    --------
    >>> from stiffml.compat.torchdiffeq import odeint_adjoint
    >>> model = Decay()
    >>> odeint_adjoint(model, y0, t, method="dopri5")[-1, 0].backward()
    >>> model.k.grad  # d/dk exp(−k) is −exp(−2)
    tensor(-0.1353, dtype=torch.float64)
    """
    given = {"rtol": adjoint_rtol, "atol": adjoint_atol, "method": adjoint_method, "options": adjoint_options}
    useless = [f"adjoint_{name}" for name, value in given.items() if value is not None]
    if useless and method != SCIPY:
        warn_once(
            f"odeint_adjoint: {', '.join(useless)} without effect: gradients are those of the steps taken, "
            "and no differential equation is solved backwards"
        )
    own = func.parameters() if adjoint_params is None and isinstance(func, nn.Module) else adjoint_params
    params = tuple(p for p in collected(() if own is None else own) if p.requires_grad)
    # Its memory is to be that of the states alone: func is evaluated again backwards.
    call = call_of(func, y0, t, rtol, atol, method, options, params, Discrete("solutions"))
    if event_fn is not None:
        return _to(t, *until_event(call, event_fn))
    if method == SCIPY and len(call.t) > 1:
        if adjoint_params is None and not isinstance(func, nn.Module):
            raise ValueError(
                "adjoint_params: scipy_solver has gradients for y0, t and these tensors alone; pass them, or "
                "() for none, if func is not a torch.nn.Module"
            )
        return by_adjoint_equation(call, _backwards(call, given))
    taken = _solved(call)
    leaves, spec = tree_flatten(taken.y)
    if not torch.is_grad_enabled() or not any(leaf.requires_grad for leaf in leaves):
        return taken.y
    found = AtBackward.apply(adjoint_callbacks(call, taken), len(leaves), *leaves, *params)
    return tree_unflatten(list(found), spec)


def _backwards(call: Call, given: Mapping[str, Any]) -> Callable[..., Any]:
    """The solve of the adjoint equation: as the call, but for what is ``given`` for it."""
    own = {"rtol": call.rtol, "atol": call.atol, "method": call.method}
    chosen = {name: own[name] if given[name] is None else given[name] for name in own}
    options = dict(call.options if chosen["method"] == call.method else {})
    if given["options"] is not None:
        options = dict(given["options"])
    if options.get("norm") == "seminorm":
        options["norm"] = seminorm(len(tree_flatten(call.y0)[0]))
    return functools.partial(odeint, **chosen, options=options)


def odeint_event(
    func: Func,
    y0: Any,
    t0: Tensor,
    *,
    event_fn: EventFn,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The time of an event and (2, \\*y0.shape), y0 and the state there, with gradients through the event.

    Parameters
    ----------
    t0 : Tensor
        () where to begin.
    event_fn : callable
        event_fn(t, y) -> tensor, of which one element changes its sign.
    reverse_time : bool
        Whether time decreases. Default False.
    func, y0
        As of :func:`odeint`.
    odeint_interface : callable
        :func:`odeint` (default) or :func:`odeint_adjoint`.
    **kwargs
        Further arguments of that.

    Examples
    --------
    >>> from stiffml.compat.torchdiffeq import odeint_event
    >>> when, states = odeint_event(lambda t, y: -y, y0, t[0], event_fn=lambda t, y: y[0] - 0.5)
    >>> when, states[-1, 0]  # ln 2, 0.5
    (tensor(0.6931, dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """
    begin = torch.as_tensor(t0).reshape(1)
    t = torch.cat([begin, begin.detach() + (-1 if reverse_time else 1)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)


def odeint_dense(
    func: Func,
    y0: Any,
    t0: Tensor,
    t1: Tensor,
    *,
    rtol: Any = DEFAULT_RTOL,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Tensor], Any]:
    """The solution from t0 to t1 as a function of time, differentiable.

    It takes times of any shape and returns (\\*shape, \\*y0.shape). The method must have adaptive steps.

    Parameters
    ----------
    t0, t1 : Tensor
        () where the solution begins and ends.
    func, y0, rtol, atol, method, options
        As of :func:`odeint`.

    Returns
    -------
    callable
        t -> the state there. Times outside of t0 and t1 are an error.

    Examples
    --------
    >>> from stiffml.compat.torchdiffeq import odeint_dense
    >>> solution = odeint_dense(lambda t, y: -y, y0, t[0], t[1])
    >>> solution(torch.tensor(0.5).double())[0]  # exp(−1/2)
    tensor(0.6065, dtype=torch.float64)
    """
    t = torch.stack([torch.as_tensor(t0).reshape(()), torch.as_tensor(t1).reshape(())])
    call = call_of(func, y0, t, rtol, atol, method, options)
    if call.method == SCIPY or is_fixed(call.method):
        raise ValueError(
            f"odeint_dense: method must have adaptive steps, such as dopri5, unlike {call.method}"
        )
    solution = adaptive_solution(call)

    def dense(at: Tensor) -> Any:
        at = torch.as_tensor(at)
        found = solution.interpolate(at.reshape(-1).double())
        return tree_map(lambda part: part.reshape(*at.shape, *part.shape[1:]), found)

    return dense


def _solved(call: Call) -> Taken:
    if len(call.t) == 1:
        return Taken(tree_map(lambda part: part[None], call.y0), call.t.detach(), lambda: call.y0)
    if call.method == SCIPY:
        return by_scipy(call)
    return on_grid(call) if is_fixed(call.method) else adaptively(call)


def _to(t: Tensor, event_t: Tensor, y: Any) -> tuple[Tensor, Any]:
    return event_t.to(t) if t.is_floating_point() else event_t, y
