"""Backward differentiation formulas on variable steps, as PETSc's TSBDF takes them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from stiffml.dynamics import Dynamics
from stiffml.linearization import Linearization
from stiffml.methods.base import AtNodes, Method, Nodes, Pending, Sweep
from stiffml.trajectory import Segment

HALF = -1
"""Stands for the half step of the start where the states of a stencil are numbered."""


@dataclass(frozen=True)
class BDF(Method):
    """α₀ u₁ + Σ αᵢ Uᵢ = f(t₁, u₁) with the k newest states Uᵢ; A-stable to order 2, stiffly stable to 6.

    The α are the derivatives at t₁ of the Lagrange basis on the times of the stencil. PETSc starts
    with backward Euler to t₀ + h/2, whose result u½ stays in the stencil until order k has k states of
    its own; step m (from 0) then has order min(m + 2, k). The adjoint of a step solves
    (α₀ I − J₁)ᵀ w = λ₁; f has the cotangent w and each Uᵢ receives −αᵢ w; u½ has an equation of its
    own.

    Parameters
    ----------
    order : int
        1 to 6, default 5. Orders 3 to 6 are A(α)-stable with α = 86°, 73°, 52°, 18°: the higher ones
        suit decaying modes, not oscillating ones.

    Source: Hairer & Wanner, Solving ODEs II, section V.1; the start: PETSc, src/ts/impls/bdf/bdf.c.
    """

    order: int = 5

    def __post_init__(self) -> None:
        if self.order not in range(1, 7):
            raise ValueError(f"BDF: order must be 1 to 6, not {self.order}")

    implicit = True
    adaptive = True

    @property
    def growth(self) -> float:
        # Variable-step BDF is zero-stable up to 2.41, 1.53, 1.28, 1.13 for orders 2 to 5 when every
        # step grows; a little more is harmless for the few steps of a run that do, while PETSc's factor
        # of 2 amplifies rounding a million times within 30 steps from order 4 on.
        return (2.0, 2.0, 1.5, 1.25, 1.12, 1.05)[self.order - 1]

    @property
    def starting_order(self) -> int:
        # The ramp makes order 6 unstable at any growth tried; it keeps the second-order start.
        return self.order if 3 <= self.order <= 5 else 0

    @property
    def starts_with_half_step(self) -> bool:
        return self.order > 1

    def petsc_options(self) -> dict[str, object]:
        return {"ts_type": "bdf", "ts_bdf_order": self.order}

    def _stencil(self, n: int) -> list[int]:
        """The states that step n (from 0) uses, the new one first, in PETSc's order."""
        count = min(n + 2, self.order) if self.starts_with_half_step else 1
        states = list(range(n + 1, max(n - count, -1), -1))
        return states if len(states) == count + 1 else [*states, HALF]

    def _coefficients(self, segment: Segment, differentiable: bool = False) -> list[_Coefficients]:
        """The α of every step of the segment, with the steps of one order together."""
        times, half = segment.trajectory.times, segment.trajectory.half
        groups = []
        for _, steps in groupby(range(segment.first, segment.last), key=lambda n: len(self._stencil(n))):
            stencils = [self._stencil(n) for n in steps]
            rows = [[half[0] if m == HALF and half else times[m] for m in s] for s in stencils]
            where = torch.tensor(rows, dtype=torch.float64)
            with torch.set_grad_enabled(differentiable):
                where.requires_grad_(differentiable)
                groups.append(_Coefficients(stencils, where, lagrange_derivatives(where)))
        return groups

    def nodes(self, segment: Segment, dynamics: Dynamics) -> Nodes:
        s, u = torch.from_numpy(segment.times[1:]), segment.states[1:]
        if segment.half is not None:
            time, state = segment.half
            s = torch.cat([s, torch.tensor([time], dtype=s.dtype)])
            u = torch.cat([u, torch.from_numpy(state)[None]])
        return Nodes(s, u)

    def sweep(self, segment: Segment, jacobian: Linearization, pending: Pending) -> Sweep:
        rows = [
            (stencil, alpha)
            for group in self._coefficients(segment)
            for stencil, alpha in zip(group.stencils, group.alphas.tolist(), strict=True)
        ]
        with_half = segment.half is not None
        w = np.zeros((segment.steps + with_half, segment.states.shape[1]))
        for k in reversed(range(segment.steps)):
            stencil, alpha = rows[k]
            w[k] = jacobian.solve_transpose(k, alpha[0], pending.pop(stencil[0]))
            for state, a in zip(stencil[1:], alpha[1:], strict=True):
                pending.add(state, -a * w[k])
        if with_half:
            shift = 2 / segment.sizes[0]
            w[-1] = jacobian.solve_transpose(segment.steps, shift, pending.pop(HALF))
            pending.add(0, shift * w[-1])
        return Sweep(w, w)

    def time_gradient(
        self, segment: Segment, sweep: Sweep, at_nodes: AtNodes, boundaries: np.ndarray
    ) -> None:
        w, half, states = sweep.multipliers, segment.trajectory.half, segment.trajectory.states.numpy()
        k = 0
        for group in self._coefficients(segment, differentiable=True):
            # The residual is Σ αᵢ Uᵢ − f, so dL/dαᵢ = −w·Uᵢ; torch carries it on to the times.
            cotangent = torch.empty_like(group.alphas)
            for row, stencil in enumerate(group.stencils):
                used = [half[1] if m == HALF and half else states[m] for m in stencil]
                cotangent[row] = torch.tensor([-float(w[k + row] @ u) for u in used], dtype=cotangent.dtype)
            (gradient,) = torch.autograd.grad(group.alphas, group.times, cotangent)
            for stencil, values in zip(group.stencils, gradient.tolist(), strict=True):
                for m, value in zip(stencil, values, strict=True):
                    if m == HALF:
                        boundaries[:2] += value / 2  # t½ is the middle of the first step
                    else:
                        boundaries[m] += value
            k += len(group.stencils)
        boundaries[segment.first + 1 : segment.last + 1] += at_nodes.time_gradient[: segment.steps]
        if segment.half is not None:
            # (u½ − u₀)/d − f = 0 with d = t½ − t₀ and the multiplier w, so dL/dd = w·f/d.
            wrt_size = float(w[-1] @ at_nodes.slopes[-1]) * 2 / segment.sizes[0]
            boundaries[0] -= wrt_size
            boundaries[:2] += (at_nodes.time_gradient[-1] + wrt_size) / 2


@dataclass(frozen=True)
class _Coefficients:
    """Steps of one order: their stencils, the times of these (M, k+1), and the α (M, k+1)."""

    stencils: list[list[int]]
    times: Tensor
    alphas: Tensor


def lagrange_derivatives(times: Tensor) -> Tensor:
    """ℓᵢ′(T₀) of the Lagrange basis on T₀ … T_k, for many stencils: (M, k+1) -> (M, k+1)."""
    count = times.shape[1]
    differences = times[:, :, None] - times[:, None, :]  # [i, j] = Tᵢ − Tⱼ
    from_new = differences[:, 0, 1:]  # T₀ − Tⱼ
    columns = [(1 / from_new).sum(dim=1)]
    for i in range(1, count):
        others = [j for j in range(1, count) if j != i]
        numerator = differences[:, 0, others].prod(dim=1)
        denominator = differences[:, i, [0, *others]].prod(dim=1)
        columns.append(numerator / denominator)
    return torch.stack(columns, dim=1)
