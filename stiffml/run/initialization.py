"""Initial values of differential-algebraic problems: whether they fit the algebraic equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csc_array, diags_array
from scipy.sparse.linalg import splu
from torch import Tensor

from stiffml.gradients.hooks import without_hooks
from stiffml.gradients.refusals import differentiable_no_further
from stiffml.native.rounding import MAX_ITERATIONS, Rounding
from stiffml.settings import Tolerances
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System

LARGEST = 2048
"""Components up to which the algebraic equations are solved with a dense matrix."""

NOT_INDEX_1 = (
    "mass: the algebraic equations do not determine the algebraic variables at y0 (their Jacobian is "
    "singular), so the problem is not of index 1; differentiate the constraints, or check y0"
)


class InconsistentError(ValueError):
    """No values of the algebraic variables were found that satisfy the algebraic equations."""


class Constraints:
    """The algebraic equations P f(s, u) = 0 of a system with a singular mass matrix.

    P projects on the left null space of M. For index 1, K = P ∂f/∂u + M is regular: it decides on the
    algebraic variables by the equations and on the others by M.

    Parameters
    ----------
    system : System
    s : float
        The initial time.
    solver : LinearSolver
        That of the method; it may have the Jacobian of a large system as a sparse matrix.
    """

    def __init__(self, system: System, s: float, solver: LinearSolver) -> None:
        assert system.mass is not None
        self.system = system
        self._s, self._solver = s, solver
        self._mass = system.mass
        self._is_large = system.layout.width > LARGEST

    def residual(self, u: np.ndarray) -> np.ndarray:
        """(size,) P f"""
        return self.project(self.system.f.evaluate(self._s, u))

    def project(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        layout = self.system.layout
        if self._mass.diagonal:
            return (self._mass.algebraic * v.reshape(layout.samples, layout.width)).reshape(-1)
        blocks = self._left.swapaxes(-1, -2) if transpose else self._left
        return (blocks @ v.reshape(layout.samples, layout.width, 1)).reshape(-1)

    @cached_property
    def _left(self) -> np.ndarray:
        return self._mass.constraints()[0]

    def solve(self, u: np.ndarray, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """The x of K x = v with K at u, or of Kᵀ x = v.

        Raises
        ------
        ValueError
            If K is singular: the problem has a higher index, or equations that contradict each other.
        """
        layout = self.system.layout
        if self._is_large:
            return self._solve_large(u, v, transpose)
        matrix = self._left @ self.system.f.jacobian_at(self._s, u) + self._mass.blocks
        # Rank by singular values relative to the rows' sizes: LU of a singular matrix passes by rounding.
        rows = np.abs(matrix).max(axis=-1, keepdims=True)
        smallest = np.linalg.svd(matrix / np.where(rows > 0, rows, 1), compute_uv=False).min()
        if not smallest > 1e-13:
            raise InconsistentError(NOT_INDEX_1)
        if transpose:
            matrix = matrix.swapaxes(-1, -2)
        return np.linalg.solve(matrix, v.reshape(layout.samples, layout.width, 1)).reshape(-1)

    def _solve_large(self, u: np.ndarray, v: np.ndarray, transpose: bool) -> np.ndarray:
        jacobian = self._solver.sparse_jacobian(self._s, u)
        if jacobian is None or not self._mass.diagonal:
            raise ValueError(
                f"mass: with a singular one, states of more than {LARGEST} components need a diagonal mass "
                "and linear=LU() with jacobian='coloured' or Sparsity(pattern)"
            )
        layout = self.system.layout
        algebraic = np.broadcast_to(self._mass.algebraic, (layout.samples, layout.width)).ravel()
        matrix = csc_array(diags_array(algebraic.astype(float)) @ jacobian + self._mass.sparse())
        try:
            return splu(matrix).solve(v, trans="T" if transpose else "N")
        except RuntimeError as error:
            raise InconsistentError(NOT_INDEX_1) from error

    def check(self, u: np.ndarray, tolerances: Tolerances) -> None:
        """Raise ValueError unless u is consistent within the tolerances."""
        residual = self.residual(u)
        correction = np.abs(self.solve(u, residual))
        scaled = correction / (tolerances.atol + tolerances.rtol * np.abs(u))
        worst = int(np.argmax(scaled))
        if not scaled[worst] <= 1:
            where = self.system.layout.component(worst)
            raise ValueError(
                f"y0 is not consistent: the algebraic equations have the residual "
                f"{np.abs(residual).max():.3g}, and component {list(where)} is off by about "
                f"{correction[worst]:.3g}; pass consistent values, or make_consistent=True"
            )

    def mass_gradient(self, u: np.ndarray, change: np.ndarray, w: np.ndarray) -> Tensor:
        """dL/dM through the consistent u, ``change`` away from the given one, where w = K⁻ᵀ dL/du.

        From K du = −dM (u − u0) − dP f, with dP f = −P dM M⁺f where P f = 0 (Golub & Pereyra 1973, eq. 4.2).
        Exact for changes of M that keep its rank; for those P dM (u − u0) is zero.
        """
        mass = self.system.mass
        assert mass is not None
        constrained = self.project(w)
        slope = mass.solve(self.system.f.evaluate(self._s, u))
        left, right = np.stack([constrained - w, constrained]), np.stack([change, slope])
        return mass.as_given(mass.gradient(left, right))

    def tangents(
        self, u: np.ndarray, given: np.ndarray, directions: Sequence[Sequence[Tensor | None]]
    ) -> np.ndarray:
        """How the consistent u moves with the given one, along P tangents (P, size), and with the parameters.

        From K u̇ = M u̇0 − P ∂f/∂θ θ̇.
        """
        f = self.system.f
        time, state = torch.tensor([self._s], dtype=torch.float64), torch.from_numpy(u)[None]
        slopes = f.jvps(time, state, [direction[: len(f.parameters)] for direction in directions])[:, 0]
        moved = zip(self.system.weigh(given), slopes.numpy(), strict=True)
        return np.array([self.solve(u, weighed - self.project(slope)) for weighed, slope in moved])

    def satisfy(self, u: np.ndarray) -> np.ndarray:
        """u with its algebraic variables changed so that the algebraic equations hold."""
        rounding = Rounding(self.system, u)
        for _ in range(MAX_ITERATIONS):
            change = self.solve(u, self.residual(u))
            u = u - change
            try:
                if rounding.reached(change, u):
                    return u
            except FloatingPointError:
                break
        raise InconsistentError(
            "make_consistent: Newton's iteration for the algebraic variables did not converge; pass a y0 "
            "that is closer to consistent"
        )


class MakeConsistent(torch.autograd.Function):
    """(t0, u0, *parameters) -> consistent u0, by the implicit function theorem on P f(u) + M(u − u0) = 0."""

    @staticmethod
    def forward(
        ctx, constraints: Constraints, s: float, t0: Tensor, u0: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.constraints, ctx.system, ctx.s = constraints, constraints.system, s
        given = u0.detach().double().cpu().numpy()
        # Jacobians need autograd, which inference mode would switch off for good.
        with torch.inference_mode(False), torch.no_grad():
            ctx.state = ctx.constraints.satisfy(given)
        ctx.change = ctx.state - given
        ctx.save_for_backward(t0, u0, *parameters)  # so that torch notices changes made in place
        return torch.from_numpy(ctx.state).to(u0, copy=True)

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        inputs = ctx.saved_tensors
        with ctx.system.as_it_was(), without_hooks(ctx.system.parameters):
            if torch.is_grad_enabled() and not ctx.system.mass_has_gradient:
                return None, None, *_differentiable(ctx, cotangent, inputs)
            with torch.no_grad():
                found = MakeConsistent._gradients(ctx, cotangent)
        what = "the gradient of make_consistent, with a mass matrix that needs one too,"
        return None, None, *differentiable_no_further(found, [cotangent, *inputs], what)

    @staticmethod
    def _gradients(ctx, cotangent: Tensor) -> list[Tensor | None]:
        t0 = ctx.saved_tensors[0]
        system, constraints = ctx.system, ctx.constraints
        w = constraints.solve(ctx.state, cotangent.double().cpu().numpy(), transpose=True)
        into_f = torch.from_numpy(-constraints.project(w, transpose=True))[None]
        time = torch.tensor([ctx.s], dtype=torch.float64)
        _, gradients, wrt_s, _ = system.f.vjp(
            time, torch.from_numpy(ctx.state)[None], into_f, ctx.needs_input_grad[2]
        )
        wrt_u0 = torch.from_numpy(system.weigh(w, transpose=True)).to(cotangent)
        wrt_t0 = (system.direction * wrt_s[0]).to(t0)
        if system.mass_has_gradient:
            gradients.append(constraints.mass_gradient(ctx.state, ctx.change, w))
        return [wrt_t0, wrt_u0, *gradients]


def _differentiable(ctx, cotangent: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """The same gradient, which torch can differentiate once more.

    Each Newton step u − K⁻¹(P f(u) + M(u − u0)) from the solution, with K as it is there, makes one more
    derivative of its result exact: after two that holds for the first and the second.
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
    """A linear map of vectors (size,): ``apply(v, transpose)``."""

    @staticmethod
    def forward(ctx, apply: Callable[[np.ndarray, bool], np.ndarray], v: Tensor, transpose: bool = False):
        ctx.map, ctx.transpose = apply, transpose
        with torch.no_grad():
            return torch.from_numpy(np.array(apply(v.detach().numpy(), transpose)))

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        return None, _Linear.apply(ctx.map, cotangent, not ctx.transpose), None
