"""Theta methods in endpoint form, from Crank-Nicolson to backward Euler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import number
from stiffml.discretization.equations import Form, Numbers, Pattern, Scheme
from stiffml.discretization.estimates import Estimate, estimated, with_difference
from stiffml.discretization.trajectory import Segment
from stiffml.methods.base import OneStep


@dataclass(frozen=True)
class Theta(OneStep):
    """M(u₁ − u₀) = h(θ f(t₁, u₁) + (1−θ) f(t₀, u₀)); A-stable, order 1, or 2 for θ = 1/2.

    The adjoint of a step solves (M − hθJ₁)ᵀ μ = λ₁. The cotangents of f are then hθμ at the end and h(1−θ)μ
    at the start, and λ₀ = Mᵀμ + h(1−θ) J₀ᵀ μ. The parameter gradient needs the derivative of f by the
    parameters at both ends.

    Parameters
    ----------
    theta : float
        From 1/2 (Crank-Nicolson) to 1 (backward Euler).

    Raises
    ------
    ValueError
        For a number out of that range.

    References
    ----------
    Hairer & Wanner, Solving ODEs II, section IV.3; adjoint: Zhang, Constantinescu & Smith,
    PETSc TSAdjoint (2022), section 3.

    Examples
    --------
    >>> y = stiffml.odeint(func, y0, t, method=stiffml.Theta(0.6), steps=stiffml.Fixed(0.1))
    >>> y[-1, 0]  # of order 1: exp(-1) is 0.3679
    tensor(0.3712, dtype=torch.float64)
    """

    theta: float

    def __post_init__(self) -> None:
        # Below 1/2 the method is not A-stable.
        object.__setattr__(self, "theta", number("Theta: theta", self.theta, least=0.5, most=1))

    @property
    def order(self) -> int:
        return 2 if self.theta == 0.5 else 1

    implicit = True
    adaptive = True
    # The error estimate of a step uses the two states before it, which the first step does not have.
    estimates_first_step = False

    def petsc_options(self) -> dict[str, object]:
        if self.theta == 1:
            return {"ts_type": "beuler"}
        return {"ts_type": "theta", "ts_theta_theta": self.theta, "ts_theta_endpoint": True}

    def scheme(self, form: Form) -> Scheme:
        return _scheme(self.theta)

    def has_estimates(self, form: Form) -> bool:
        return True

    @property
    def estimate_history(self) -> int:
        return 2

    def estimates(self, segment: Segment, form: Form) -> list[Estimate]:
        which = segment.which
        which = which[which > segment.starts_of(which)]
        if not len(which):
            return []
        states = which[:, None] + np.array([-1, 0, 1])
        return [estimated(_estimating(self.theta), which, states[:, :2], segment.trajectory.times[states], 2)]


@cache
def _scheme(theta: float) -> Scheme:
    weights = torch.tensor([[1 - theta, theta]], dtype=torch.float64)

    def numbers(times: Tensor) -> Numbers:
        h = (times[:, 1] - times[:, 0])[:, None, None]
        alpha = torch.tensor([[-1.0, 1.0]], dtype=h.dtype).expand(len(h), 1, 2)
        none = torch.zeros_like(alpha)
        return Numbers(alpha, h * weights, none, times, times, none[:, :, 0])

    return Scheme(_PATTERN_END if theta == 1 else _PATTERN_BOTH, numbers)


@cache
def _estimating(theta: float) -> Scheme:
    return with_difference(_scheme(theta), 1, _second_difference)


def _second_difference(times: Tensor) -> Tensor:
    """The weights (K, 3) of three states in h²/2 times their second derivative by divided differences.

    Source: PETSc, TSEvaluateWLTE_Theta in src/ts/impls/implicit/theta/theta.c.
    """
    before, h = times.diff(dim=1).unbind(dim=1)
    a = 1 + before / h
    return torch.stack([1 / (a * (a - 1)), -1 / (a - 1), 1 / a], dim=1)


_PATTERN_BOTH = Pattern(1, alpha=[[1, 1]], beta=[[1, 1]])
_PATTERN_END = Pattern(1, alpha=[[1, 1]], beta=[[0, 1]])


def BackwardEuler() -> Theta:
    """Backward Euler: order 1, L-stable.

    Examples
    --------
    >>> y = stiffml.odeint(func, y0, t, method=stiffml.BackwardEuler(), steps=stiffml.Grid())  # or "beuler"
    >>> y[-1, 0]  # 1/(1 + h) after one step of length 1
    tensor(0.5000, dtype=torch.float64)
    """
    return Theta(1.0)


def CrankNicolson() -> Theta:
    """Crank-Nicolson (the trapezoidal rule): order 2, A-stable, does not damp the stiffest modes.

    Examples
    --------
    >>> y = stiffml.odeint(func, y0, t, method=stiffml.CrankNicolson(), steps=stiffml.Grid())  # or "cn"
    >>> y[-1]  # (1 - hk/2)/(1 + hk/2) for k = 1 and 1000, which hardly decays
    tensor([ 0.3333, -0.9960], dtype=torch.float64)
    """
    return Theta(0.5)
