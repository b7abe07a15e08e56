"""Steady states: by implicit Euler steps that grow, then Newton's iteration, with conserved totals kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stiffml.checks import described, number, whole
from stiffml.display import readable
from stiffml.errors import SolveError, Status
from stiffml.gradients.refusals import differentiable_no_further
from stiffml.interface.initial_state import checked_layout
from stiffml.system.function.batching import Func
from stiffml.system.split import Split
from stiffml.system.state import Layout, State

FOLLOWED = 0.02
"""Relative error of the Euler steps: enough to come to the steady state that the solution goes to."""

NEAR = 1e-3
"""Relative change over a long step below which Newton's iteration begins."""

NEWTON = 20
"""Its iterations."""

NULL = 1e-11
"""Singular values below this, relative to the largest, are zero."""


@readable
@dataclass(frozen=True)
class SteadyState:
    """Where func is zero.

    Attributes
    ----------
    y : Tensor or tuple of Tensor
        The steady state, in the form of y0, differentiable.
    totals : Tensor
        (\\*batch, k, width) for each sample the orthonormal weights of conserved sums of its components.
    residual : float
        The largest absolute value of func there.
    steps : int
        Euler steps taken.

    Examples
    --------
    >>> found = stiffml.steady_state(lambda t, y: 3 - y, y0)
    >>> found.y, found.residual < 1e-12
    (tensor([3., 3.], dtype=torch.float64), True)
    """

    y: State
    totals: Tensor
    residual: float
    steps: int


def steady_state(
    func: Func,
    y0: State,
    *,
    t: float = 0.0,
    batch_dims: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 1000,
) -> SteadyState:
    """The steady state that y' = func(t, y) comes to from y0: func(t, y) = 0, differentiable.

    Implicit Euler steps follow the solution with an error of a few percent and grow as it settles; Newton's
    iteration ends it. Where the Jacobian is singular because sums of components are conserved, as atoms are
    in a
    closed reaction network, these sums stay those of y0. The gradient is that of the implicit function
    theorem: by all tensors that func uses, and by y0 through the conserved sums. There are no second
    derivatives.

    Parameters
    ----------
    func : callable or nn.Module
        func(t, y) -> dy/dt, as for :func:`stiffml.solve`.
    y0 : Tensor or tuple of Tensor
        The start, any shape, float64 or float32. All components of a sample are solved for by one dense
        matrix.
    t : float
        The time that func is called with. Default 0.
    batch_dims : int
        How many leading dimensions are independent samples. Default 0.
    rtol, atol : float
        Of the last Newton update, for each component. Default 1e-10 and 1e-12 (float32: 1e-5 and 1e-7).
    max_steps : int
        Euler steps after which it is an error. Default 1000.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments.
    SolveError
        If there is no steady state, as for an oscillator, or Newton's iteration does not converge, or the
        Jacobian is singular without a conserved sum. It names the component that changes most, and its rate.

    References
    ----------
    C. T. Kelley & D. E. Keyes, Convergence analysis of pseudo-transient continuation, SIAM J. Numer. Anal. 35
    (1998).

    Examples
    --------
    >>> k = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)
    >>> net = lambda t, y: torch.stack([k[1] * y[1] - k[0] * y[0], k[0] * y[0] - k[1] * y[1]])
    >>> stiffml.steady_state(net, torch.tensor([3.0, 0.0], dtype=torch.float64)).y
    tensor([1.0000, 2.0000], dtype=torch.float64, grad_fn=<...>)
    """
    if not callable(func):
        raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
    layout = checked_layout(y0, batch_dims)
    single = layout.dtype == torch.float32
    rtol = (1e-5 if single else 1e-10) if rtol is None else number("rtol", rtol, above=0)
    atol = (1e-7 if single else 1e-12) if atol is None else number("atol", atol, above=0)
    time = torch.tensor(number("t", t), dtype=layout.dtype, device=layout.device)
    problem = _Problem(func, time, layout)
    start = layout.flatten(y0).reshape(layout.samples, layout.width)
    with torch.no_grad():
        u, steps = _followed(problem, start.detach(), whole("max_steps", max_steps), rtol, atol)
        u, matrix = _converged(problem, start.detach(), u, rtol, atol, steps)
        residual = float(problem.rate(u).abs().max())
    y = _differentiable(problem, start, u, matrix)
    count = matrix.totals.shape[-1]
    return SteadyState(
        layout.unflatten(y.reshape(-1)),
        matrix.totals.mT.reshape(*layout.batch, count, layout.width),
        residual,
        steps,
    )


@dataclass(frozen=True)
class _Problem:
    """func on rows (samples, width)."""

    func: Func
    t: Tensor
    layout: Layout

    def rate(self, u: Tensor) -> Tensor:
        y = self.layout.unflatten(u.reshape(-1))
        parts = [self.func.implicit, self.func.explicit] if isinstance(self.func, Split) else [self.func]
        found = [self.layout.flatten(part(self.t, y)).reshape(u.shape) for part in parts]
        return found[0] if len(found) == 1 else found[0] + found[1]

    def jacobian(self, u: Tensor) -> Tensor:
        """(samples, width, width); samples must not depend on each other."""
        with torch.enable_grad():
            leaf = u.detach().clone().requires_grad_()
            rate = self.rate(leaf)
            rows = [
                torch.autograd.grad(rate[:, i].sum(), leaf, retain_graph=True, allow_unused=True)[0]
                if rate.requires_grad
                else None
                for i in range(u.shape[1])
            ]
        return torch.stack([torch.zeros_like(u) if row is None else row for row in rows], dim=1)

    def pushed(self, u: Tensor, x: Tensor) -> Tensor:
        """J x (samples, width) at ``u``, differentiable by what func uses."""
        leaf = u.detach().clone().requires_grad_()
        rate = self.rate(leaf)
        weights = torch.zeros_like(rate, requires_grad=True)
        (pulled,) = torch.autograd.grad(rate, leaf, weights, create_graph=True)
        return torch.autograd.grad(pulled, weights, x, create_graph=True)[0]

    def failure(self, status: Status, reason: str, u: Tensor, s: float, h: float) -> SolveError:
        rate = self.rate(u)
        worst = int((rate.abs() / (u.abs() + 1e-300)).nan_to_num(posinf=1e300).argmax())
        return SolveError(
            status,
            f"no steady state was found: {reason}; the component named changes at a rate of "
            f"{float(rate.flatten()[worst]):.3g} where it is {float(u.flatten()[worst]):.6g}",
            "solve to a late time and plot: an oscillation, growth, or a drift along a continuum has no "
            "steady state; else a start that is closer, larger max_steps, rtol, atol, or other units of y",
            t=s,
            h=h,
            component=self.layout.component(worst),
        )


def _followed(
    problem: _Problem, start: Tensor, max_steps: int, rtol: float, atol: float
) -> tuple[Tensor, int]:
    """Follow the solution by linearly implicit Euler steps until it hardly moves; samples have their own."""
    u, rate = start, problem.rate(start)
    scale = FOLLOWED * (start.abs() + start.abs().amax(1, keepdim=True) * 1e-6) + atol
    speed = (rate / scale).abs().amax(1)
    h = torch.where(speed > 0, 0.1 / speed, torch.ones_like(speed))
    slope, s = rate, torch.zeros_like(h)
    eye = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    longest = torch.full_like(h, 1e-3 / torch.finfo(u.dtype).eps ** 2)
    for step in range(max_steps):
        jacobian = problem.jacobian(u)
        matrix = eye / h[:, None, None] - jacobian
        change, info = torch.linalg.solve_ex(matrix, rate[..., None])
        change = change[..., 0]
        new = u + change
        scale = FOLLOWED * (torch.maximum(u.abs(), new.abs()) + u.abs().amax(1, keepdim=True) * 1e-6) + atol
        # The change of the slope over the step is twice the error of implicit Euler, relative to the step.
        error = (0.5 * (change - h[:, None] * slope) / scale).abs().amax(1)
        if step == 0:
            error = (change / scale).abs().amax(1)
        later = problem.rate(new)
        good = torch.isfinite(later).all(1) & torch.isfinite(error) & (error <= 1) & (info == 0)
        relative = (change / (scale / FOLLOWED)).abs().amax(1)
        slow = (h[:, None, None] * jacobian).abs().amax((1, 2)) > 1 / NEAR
        still = good & ((relative < NEAR) & slow | (change == 0).all(1))
        if bool(still.all()):
            return new, step + 1
        s = torch.where(good, s + h, s)
        slope = torch.where(good[:, None], change / h[:, None], slope)
        u, rate = torch.where(good[:, None], new, u), torch.where(good[:, None], later, rate)
        factor = (0.9 / error.clamp(min=1e-4).sqrt()).clamp(0.2, 5.0)
        h = (h * torch.where(torch.isfinite(error), factor, 0.2 * torch.ones_like(h))).minimum(longest)
    at = int(problem.rate(u).abs().amax(1).argmax())
    reason = f"{max_steps} implicit Euler steps were taken"
    raise problem.failure(Status.MAX_STEPS, reason, u, float(s[at]), float(h[at]))


@dataclass(frozen=True)
class _Matrix:
    """A = J + c N Nᵀ, where N has the left null vectors of J: c keeps Nᵀ u while J u changes.

    Attributes
    ----------
    values : Tensor
        (samples, width, width)
    size : Tensor
        (samples,) c.
    totals : Tensor
        (samples, width, k) N, orthonormal.
    """

    values: Tensor
    size: Tensor
    totals: Tensor

    def projected(self, v: Tensor) -> Tensor:
        """N Nᵀ v (samples, width)."""
        return torch.einsum("sik,sjk,sj->si", self.totals, self.totals, v)


def _converged(
    problem: _Problem, start: Tensor, u: Tensor, rtol: float, atol: float, steps: int
) -> tuple[Tensor, _Matrix]:
    """Newton's iteration on func and the conserved sums: the state, and the matrix there."""
    last = float("nan")
    for _ in range(NEWTON):
        matrix = _matrix(problem, start, u)
        right = matrix.size[:, None] * matrix.projected(start - u) - problem.rate(u)
        change, info = torch.linalg.solve_ex(matrix.values, right[..., None])
        update = change[..., 0]
        if bool((info != 0).any()) or not bool(torch.isfinite(update).all()):
            break
        u, last = u + update, float(update.abs().max())
        if bool((update.abs() <= rtol * u.abs() + atol).all()):
            return u, _matrix(problem, start, u)
    reason = (
        f"Newton's iteration did not converge after {steps} implicit Euler steps (last update {last:.3g})"
    )
    raise problem.failure(Status.NEWTON_FAILED, reason, u, float(problem.t), 0.0)


def _matrix(problem: _Problem, start: Tensor, u: Tensor) -> _Matrix:
    jacobian = problem.jacobian(u)
    left, values, _ = torch.linalg.svd(jacobian)
    size = values[:, 0].clamp(min=torch.finfo(u.dtype).tiny)
    tolerance = max(NULL, 1e3 * torch.finfo(u.dtype).eps)
    null = values <= tolerance * size[:, None]
    count = int(null.sum(1).max())
    totals = left[:, :, u.shape[1] - count :]
    # A null vector of this Jacobian is a conserved sum if func has no part along it elsewhere either.
    for state in (start, 1.1 * u):
        rate = problem.rate(state)
        moved = torch.einsum("sik,si->sk", totals, rate).abs()
        most = torch.einsum("sik,si->sk", totals.abs(), rate.abs())
        if bool((moved > 1e3 * tolerance * most).any()) or bool((null.sum(1) != count).any()):
            reason = "the Jacobian is singular there, and not because sums of components are conserved"
            raise problem.failure(Status.NEWTON_FAILED, reason, u, float(problem.t), 0.0)
    outer = torch.einsum("sik,sjk->sij", totals, totals)
    return _Matrix(jacobian + size[:, None, None] * outer, size, totals)


def _differentiable(problem: _Problem, start: Tensor, u: Tensor, matrix: _Matrix) -> Tensor:
    """The state with its gradient: that of one more Newton iteration, whose matrix is held constant.

    With A = J + c N Nᵀ: A du = −∂f/∂θ dθ + c N Nᵀ dy0 + c N Nᵀ (∂J/∂θ dθ) x, where A x = u − y0. The last
    term is the change of N with the parameters, from Nᵀ J = 0.
    """
    u = u.detach()
    rate = problem.rate(u)
    if not (torch.is_grad_enabled() and (rate.requires_grad or start.requires_grad)):
        return u
    total = start
    if rate.requires_grad and matrix.totals.shape[-1]:
        x = torch.linalg.solve(matrix.values, (u - start.detach())[..., None])[..., 0]
        total = total + problem.pushed(u, x)
    right = matrix.size[:, None] * matrix.projected(total) - rate
    moved = torch.linalg.solve(matrix.values, (right - right.detach())[..., None])[..., 0]
    return _Once.apply(u + moved)


class _Once(torch.autograd.Function):
    """The identity, with one derivative: a second one would hold the Jacobian constant."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.clone()

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        inputs = [cotangent, *ctx.saved_tensors]
        return differentiable_no_further([cotangent.clone()], inputs, "the gradient of steady_state")[0]
