"""Backward differentiation formulas on variable steps, as PETSc's TSBDF takes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import whole
from stiffml.discretization.equations import Block, Form, Numbers, Pattern, Scheme
from stiffml.discretization.interpolation import Stencil
from stiffml.discretization.numbering import HALF, half_step
from stiffml.discretization.trajectory import Segment
from stiffml.methods.base import Method


@dataclass(frozen=True)
class BDF(Method):
    """α₀ u₁ + Σ αᵢ Uᵢ = f(t₁, u₁) with the k newest states Uᵢ.

    The coefficients α are the derivatives at t₁ of the Lagrange basis on the times of the k + 1 states.

    Start: PETSc takes a backward Euler step to t₀ + h/2. Its result u½ counts as a state until there are k
    others, so step m (from 0) has order min(m + 2, k).

    Adjoint of a step: (α₀ I − J₁)ᵀ w = λ₁. Then w is the cotangent of f, and each Uᵢ receives −αᵢ w. u½ has
    an equation of its own.

    Parameters
    ----------
    order : int
        1 to 6, default 5. Orders 1 and 2 are A-stable. Orders 3 to 6 are A(α)-stable with α = 86°, 73°, 52°,
        18°: high orders suit decaying modes, not oscillating ones.

    Source: Hairer & Wanner, Solving ODEs II, section V.1; the start: PETSc, src/ts/impls/bdf/bdf.c.
    """

    order: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", whole("BDF: order", self.order, most=6))

    implicit = True
    adaptive = True

    @property
    def growth(self) -> float:
        # If every step grows by the same ratio, BDF of orders 2 to 5 is zero-stable up to ratios of 2.41,
        # 1.53, 1.28, 1.13. Slightly more is harmless, since only few steps of a run grow. PETSc's ratio of 2
        # would amplify rounding errors a million times within 30 steps from order 4 on.
        return (2.0, 2.0, 1.5, 1.25, 1.12, 1.05)[self.order - 1]

    @property
    def jump(self) -> float:
        # A jump by a ratio r multiplies rounding errors of states by r^order; this allows a factor of 100.
        return 100 ** (1 / self.order)

    @property
    def starting_order(self) -> int:
        # With a ramp order 6 was unstable for every growth ratio tried, so it keeps its second-order start.
        return self.order if 3 <= self.order <= 5 else 0

    @property
    def starts_with_half_step(self) -> bool:
        return self.order > 1

    def petsc_options(self) -> dict[str, object]:
        return {"ts_type": "bdf", "ts_bdf_order": self.order}

    @property
    def history(self) -> int:
        return self.order

    def _known(self, n: int, start: int = 0) -> list[int]:
        """The states that step n starts from, newest last. ``start`` is the first of its trajectory."""
        count = min(n - start + 2, self.order) if self.starts_with_half_step else 1
        states = list(range(max(n - count + 1, start), n + 1))
        # The first step computes the half step in a row of its own, so it does not start from it.
        return states if len(states) == count or n == start else [half_step(start), *states]

    own_interpolant = True

    @property
    def interpolation(self) -> Stencil:
        # The interpolation polynomial of the BDF formula itself, which PETSc uses too.
        def stencil(step: int, last: int | None) -> list[int]:
            half = [HALF] if step == 0 and self.starts_with_half_step else []
            return [*half, *self._known(step), step + 1]

        return stencil

    def blocks(self, segment: Segment, form: Form) -> list[Block]:
        """Blocks of consecutive steps that start from as many states."""
        steps = segment.which
        starts = segment.starts_of(steps)
        is_first = steps == starts
        count = np.minimum(steps - starts + 2, self.order)
        count[is_first] = 1
        changes = np.flatnonzero((np.diff(count) != 0) | is_first[1:] | is_first[:-1]) + 1
        blocks = []
        for begin, end in pairwise([0, *changes.tolist(), len(steps)]):
            which, start = steps[begin:end], starts[begin:end]
            known = which[:, None] + np.arange(1 - count[begin], 1)
            known[:, 0] = np.where(known[:, 0] < start, half_step(start), known[:, 0])
            times = np.column_stack([segment.times_at(states) for states in (*known.T, which + 1)])
            starting = self.starts_with_half_step and is_first[begin]
            scheme = Scheme(_START, _starting_numbers) if starting else _scheme(known.shape[1])
            blocks.append(Block(scheme, which, known, times))
        return blocks


_START = Pattern(
    1, alpha=[[1, 1, 0], [1, 1, 1]], beta=[[0, 1, 0], [0, 0, 1]], keeps_half=True, differences=True
)
"""u½ by backward Euler, then u₁ from u₀ and u½."""


def _starting_numbers(times: Tensor) -> Numbers:
    begin, end = times.unbind(dim=1)
    middle = (begin + end) / 2
    one, nothing = torch.ones_like(begin), torch.zeros_like(begin)
    half = torch.stack([-one, one, nothing], dim=1)
    h = end - begin
    whole = h[:, None] * lagrange_derivatives(torch.stack([end, middle, begin], dim=1)).flip(1)
    return _with_f_at_the_end(_START, torch.stack([half, whole], dim=1), torch.stack([h / 2, h], dim=1))


@cache
def _scheme(count: int) -> Scheme:
    """The scheme of steps that start from ``count`` states."""
    alpha, beta = np.ones((1, count + 1)), np.eye(1, count + 1, count)
    pattern = Pattern(count, alpha, beta, differences=True)

    def numbers(times: Tensor) -> Numbers:
        h = times[:, -1:] - times[:, -2:-1]
        return _with_f_at_the_end(pattern, (h * lagrange_derivatives(times.flip(1)).flip(1))[:, None], h)

    return Scheme(pattern, numbers)


def _with_f_at_the_end(pattern: Pattern, alpha: Tensor, h: Tensor) -> Numbers:
    """The coefficients of rows that evaluate f at their own unknown only, multiplied by h.

    ``alpha`` (K, R, C) and ``h`` (K, R) are multiplied by h already, so α depends on the ratios of step sizes
    only. The step size enters through h·f. Otherwise it would enter through differences of states divided by
    h, and their derivative by h would be mere rounding error for tiny steps.
    """
    beta = torch.as_tensor(pattern.beta, dtype=alpha.dtype) * h[:, :, None]
    none = torch.zeros_like(beta)
    nowhere = none[:, 0]  # f is evaluated at states only, so there are no stage times
    return Numbers(alpha, beta, none, nowhere, nowhere, none[:, :, 0])


def lagrange_derivatives(times: Tensor) -> Tensor:
    """The derivatives ℓᵢ′(T₀) of the Lagrange basis on M sets of times T₀ … T_k: (M, k+1) -> (M, k+1)."""
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
