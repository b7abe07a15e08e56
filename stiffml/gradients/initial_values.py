"""Derivatives of consistent initial values with respect to given initial values and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.gradients.directions import Directions
from stiffml.gradients.hooks import without_hooks
from stiffml.gradients.refusals import differentiable_no_further, require_single
from stiffml.native.constraints import Constraints


class MakeConsistent(torch.autograd.Function):
    """(constraints, t0, u0 (size,), *parameters) -> consistent initial state (size,).

    The gradient follows from the implicit function theorem for P f(u) + M(u − u0) = 0.
    """

    @staticmethod
    def forward(ctx, constraints: Constraints, t0: Tensor, u0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.constraints, ctx.system, ctx.s = constraints, constraints.system, constraints.s
        given = u0.detach().double().cpu().numpy()
        # Jacobians need autograd, which cannot be enabled in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            ctx.state = ctx.constraints.satisfy(given)
        ctx.change = ctx.state - given
        ctx.save_for_backward(t0, u0, *parameters)  # makes torch detect changes in place
        return torch.from_numpy(ctx.state).to(u0, copy=True)

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        require_single(cotangent, "the gradient of make_consistent")
        inputs = ctx.saved_tensors
        with ctx.system.as_it_was(), without_hooks(ctx.system.parameters):
            if torch.is_grad_enabled() and not ctx.system.mass_has_gradient:
                return None, *_differentiable(ctx, cotangent, inputs)
            with torch.no_grad():
                found = MakeConsistent._gradients(ctx, cotangent)
        what = "the gradient of make_consistent, with a mass matrix that needs one too,"
        return None, *differentiable_no_further(found, [cotangent, *inputs], what)

    @staticmethod
    def _gradients(ctx, cotangent: Tensor) -> list[Tensor | None]:
        t0 = ctx.saved_tensors[0]
        system, constraints = ctx.system, ctx.constraints
        w = constraints.solve(ctx.state, cotangent.double().cpu().numpy(), transpose=True)
        into_f = torch.from_numpy(-constraints.project(w, transpose=True))[None]
        time = torch.tensor([ctx.s], dtype=torch.float64)
        _, gradients, wrt_s, _ = system.f.vjp(
            time, torch.from_numpy(ctx.state)[None], into_f, ctx.needs_input_grad[1]
        )
        wrt_u0 = torch.from_numpy(system.weigh(w, transpose=True)).to(cotangent)
        wrt_t0 = (system.direction * wrt_s[0]).to(t0)
        if system.mass_has_gradient:
            gradients.append(_mass_gradient(constraints, ctx.state, ctx.change, w))
        return [wrt_t0, wrt_u0, *gradients]


def _differentiable(ctx, cotangent: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of :class:`MakeConsistent` in a form that torch can differentiate once more.

    It differentiates Newton steps u ← u − K⁻¹(P f(u) + M(u − u0)) from the solution, with K held constant.
    Each step makes one more derivative of the result exact. Two steps make the first and second derivatives
    exact.
    """
    constraints, system, state = ctx.constraints, ctx.system, ctx.state

    def solve(v: np.ndarray, transpose: bool) -> np.ndarray:
        return constraints.solve(state, v, transpose)

    t0, u0, *_ = inputs
    with torch.enable_grad():
        s = (system.direction * t0).to("cpu", torch.float64)[None]
        given = u0.to("cpu", torch.float64)
        u = torch.from_numpy(state.copy())
        for _ in range(2):
            slope = system.f.evaluate_differentiably(s, u[None])[0]
            residual = _Linear.apply(constraints.project, slope) + _Linear.apply(system.weigh, u - given)
            u = u - _Linear.apply(solve, residual)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        gradients = iter(
            torch.autograd.grad(u.to(u0), wanted, cotangent, create_graph=True, allow_unused=True)
        )
    return [next(gradients) if tensor.requires_grad else None for tensor in inputs]


class _Linear(torch.autograd.Function):
    """The linear map ``apply(v, transpose)`` of vectors v (size,), for autograd."""

    @staticmethod
    def forward(ctx, apply: Callable[[np.ndarray, bool], np.ndarray], v: Tensor, transpose: bool = False):
        ctx.map, ctx.transpose = apply, transpose
        with torch.no_grad():
            return torch.from_numpy(np.array(apply(v.detach().numpy(), transpose)))

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        require_single(cotangent, "the gradient of make_consistent")
        return None, _Linear.apply(ctx.map, cotangent, not ctx.transpose), None


def consistent_tangents(
    constraints: Constraints,
    u: np.ndarray,
    given: np.ndarray,
    directions: Directions,
) -> np.ndarray:
    """Tangents (P, size) of the consistent state, from K u̇ = M u̇0 − P ∂f/∂θ θ̇.

    Parameters
    ----------
    constraints : Constraints
    u : ndarray
        (size,) the consistent state.
    given : ndarray
        (P, size) tangents u̇0 of the given initial state.
    directions : Directions
        P directions θ̇ of the parameters.
    """
    system, f = constraints.system, constraints.system.f
    time, state = torch.tensor([constraints.s], dtype=torch.float64), torch.from_numpy(u)[None]
    moved = zip(system.weigh(given), directions.through(f, time, state)[0].T, strict=True)
    return np.array([constraints.solve(u, weighed - constraints.project(slope)) for weighed, slope in moved])


def _mass_gradient(constraints: Constraints, u: np.ndarray, change: np.ndarray, w: np.ndarray) -> Tensor:
    """dL/dM through the consistent state u (size,).

    ``change`` (size,) is u − u0, and ``w`` (size,) is K⁻ᵀ dL/du.

    It follows from K du = −dM (u − u0) − dP f, with dP f = −P dM M⁺f where P f = 0 (Golub & Pereyra 1973,
    eq. 4.2). It is exact for changes of M that keep its rank; for those P dM (u − u0) is zero.
    """
    mass = constraints.system.mass
    assert mass is not None
    constrained = constraints.project(w)
    slope = mass.solve(constraints.system.f.evaluate(constraints.s, u))
    left, right = np.stack([constrained - w, constrained]), np.stack([change, slope])
    return mass.as_given(mass.gradient(left, right))
