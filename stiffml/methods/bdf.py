"""Backward differentiation formulas on variable steps, as PETSc's TSBDF takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import whole
from stiffml.discretization.equations import Block, Form, Numbers, Pattern, Scheme
from stiffml.discretization.estimates import Estimate, estimated, with_difference
from stiffml.discretization.interpolation import Stencil
from stiffml.discretization.numbering import HALF, half_step
from stiffml.discretization.trajectory import Segment
from stiffml.methods.base import Method
from stiffml.methods.growth import Growth

ORDER_2 = 7.5
"""For order 2, √rtol times this is the part of the tolerance that steps aim at: from 2e-3 on, a third."""


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

    Raises
    ------
    ValueError
        For another order.

    References
    ----------
    Hairer & Wanner, Solving ODEs II, section V.1; the start: PETSc, src/ts/impls/bdf/bdf.c.

    Examples
    --------
    >>> sol = stiffml.solve(func, y0, t, method=stiffml.BDF(2), steps=stiffml.Fixed(0.01))  # or "bdf2"
    >>> sol.y[-1, 0]  # exp(-1) is 0.36788
    tensor(0.3679, dtype=torch.float64)
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

    def growth_limit(self, runs: int = 1) -> Growth:
        # Rounding errors are amplified by growth that goes on. After a step that was shortened the steps may
        # at once be as long as before: measured on Robertson's reaction and van der Pol's oscillator, errors
        # grow 20 times at most, and 300 times after steps that are 10 000 times shorter than the others.
        # Order 6 is hardly stable on even steps.
        if not 3 <= self.order <= 5:
            return super().growth_limit(runs)
        return Growth(self.growth, self.order, self.jump, runs)

    largest_factor = 2.0  # PETSc's for these methods

    def safety(self, rtol: float | np.ndarray) -> float:
        # Steps aim at a third of the tolerance: the errors of multistep methods add up over steps of about
        # the same size, and a rejected step costs more than somewhat shorter ones. CVODE aims at a sixth
        # (BIAS2), but such steps stay in the region where BDF5 is unstable, over which longer ones leap.
        aim = 1 / 3
        if self.order == 2:
            # If each step leaves an error ε, the sum is about ε to the power p/(p + 1): for order 2 it was 7
            # times the tolerance at 1e-3 and 400 times at 1e-8 (medians over the problems of the library).
            # With ε a power (p + 1)/p of the tolerance the ratio stays (G. Söderlind & L. Wang, Evaluating
            # numerical ODE/DAE methods, J. Comput. Appl. Math. 185 (2006) 244). Higher orders lose half as
            # many digits, and stay as they are.
            aim = min(aim, ORDER_2 * math.sqrt(float(np.min(rtol))))
        return aim ** (1 / (self.order + 1))

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

    @property
    def estimate_history(self) -> int:
        return self.order + 1

    def _known(self, step: int) -> list[int]:
        """The states that a step of a single trajectory starts from, newest last."""
        if step >= self.order - 1:  # most steps, at once
            return list(range(step + 1 - self.order, step + 1))
        (group,) = self._groups(np.array([step]), np.zeros(1, dtype=int), 0)
        return group.known[0].tolist()

    own_interpolant = True

    @property
    def interpolated_steps(self) -> int:
        return 1  # that the formula of the step is made from has its order however many there are

    @property
    def interpolation(self) -> Stencil:
        # The interpolation polynomial of the BDF formula itself, which PETSc uses too.
        def stencil(step: int, last: int | None) -> list[int]:
            half = [HALF] if step == 0 and self.starts_with_half_step else []
            return [*half, *self._known(step), step + 1]

        return stencil

    def blocks(self, segment: Segment, form: Form) -> list[Block]:
        return [
            Block(
                _STARTING if group.starting else _scheme(group.known.shape[1]),
                group.which,
                group.known,
                _times(segment, group),
            )
            for group in self._groups(segment.which, segment.starts_of(segment.which), 0)
        ]

    def has_estimates(self, form: Form) -> bool:
        return True

    def estimates(self, segment: Segment, form: Form) -> list[Estimate]:
        found = []
        for group in self._groups(segment.which, segment.starts_of(segment.which), 1):
            count = group.known.shape[1]
            if group.starting:
                scheme, count = _STARTING_ESTIMATE, 2
            elif count > 1:
                scheme = _estimating(count, min(count, self.order))
            else:
                continue
            found.append(estimated(scheme, group.which, group.known, _times(segment, group), count))
        return found

    def _groups(self, which: np.ndarray, starts: np.ndarray, more: int) -> Iterator[_Group]:
        """Steps (K,) of trajectories with the first states ``starts`` (K,), grouped by scheme.

        With ``more`` = 1 they start from one state more, where there is one, as their error estimate does.
        """
        most = self.order + more
        taken = np.minimum(which - starts, most - 1)  # steps before, in the same trajectory
        for before in np.unique(taken).tolist():
            part = np.flatnonzero(taken == before)
            known = which[part, None] + np.arange(-before, 1)
            # The first step computes the half step in a row of its own, so it does not start from it.
            if self.starts_with_half_step and 0 < before < most - 1:
                known = np.column_stack([half_step(starts[part]), known])
            yield _Group(self.starts_with_half_step and before == 0, which[part], known)


class _Group(NamedTuple):
    """Steps (K,) of one scheme, the states (K, history) they start from, and whether they begin a run."""

    starting: bool
    which: np.ndarray
    known: np.ndarray


def _times(segment: Segment, group: _Group) -> np.ndarray:
    """(K, history + 1) the times of the states of a group, with the new ones."""
    return np.column_stack([segment.times_at(states) for states in (*group.known.T, group.which + 1)])


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


_STARTING = Scheme(_START, _starting_numbers)


@cache
def _scheme(count: int) -> Scheme:
    """The scheme of steps that start from ``count`` states."""
    alpha, beta = np.ones((1, count + 1)), np.eye(1, count + 1, count)
    pattern = Pattern(count, alpha, beta, differences=True)

    def numbers(times: Tensor) -> Numbers:
        h = times[:, -1:] - times[:, -2:-1]
        return _with_f_at_the_end(pattern, (h * lagrange_derivatives(times.flip(1)).flip(1))[:, None], h)

    return Scheme(pattern, numbers)


@cache
def _estimating(count: int, order: int) -> Scheme:
    """The scheme of steps that start from ``order`` states, with an error from ``count`` states."""
    return with_difference(_scheme(order), count - order, lambda times: _difference(times.flip(1)).flip(1))


def _starting_difference(times: Tensor) -> Tensor:
    """The weights (K, 3) of u₀, u½, u₁, of which PETSc takes u½ for the oldest."""
    begin, end = times.unbind(dim=1)
    return _difference(torch.stack([end, begin, (begin + end) / 2], dim=1))[:, [1, 2, 0]]


def _difference(times: Tensor) -> Tensor:
    """The weights (K, k+1) of the states at times T₀ … T_k in the error of the step to T₀.

    The error is the distance between the formula on all these times and that without the last one.
    Source: PETSc, TSBDF_VecLTE in src/ts/impls/bdf/bdf.c.
    """
    shorter = torch.nn.functional.pad(lagrange_derivatives(times[:, :-1]), (0, 1))
    return (lagrange_derivatives(times) - shorter) / shorter[:, :1]


_STARTING_ESTIMATE = with_difference(_STARTING, 0, _starting_difference)


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
