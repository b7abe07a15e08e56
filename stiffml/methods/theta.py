"""Theta methods in endpoint form, from Crank-Nicolson to backward Euler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stiffml.checks import number
from stiffml.discretization.equations import Form, Numbers, Pattern, Scheme
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

    Source: Hairer & Wanner, Solving ODEs II, section IV.3; adjoint: Zhang, Constantinescu & Smith,
    PETSc TSAdjoint (2022), section 3.
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
        weights = torch.tensor([[1 - self.theta, self.theta]], dtype=torch.float64)

        def numbers(times: Tensor) -> Numbers:
            h = (times[:, 1] - times[:, 0])[:, None, None]
            alpha = torch.tensor([[-1.0, 1.0]], dtype=h.dtype).expand(len(h), 1, 2)
            none = torch.zeros_like(alpha)
            return Numbers(alpha, h * weights, none, times, times, none[:, :, 0])

        return Scheme(_PATTERN_END if self.theta == 1 else _PATTERN_BOTH, numbers)


_PATTERN_BOTH = Pattern(1, alpha=[[1, 1]], beta=[[1, 1]])
_PATTERN_END = Pattern(1, alpha=[[1, 1]], beta=[[0, 1]])


def BackwardEuler() -> Theta:
    """Backward Euler: order 1, L-stable."""
    return Theta(1.0)


def CrankNicolson() -> Theta:
    """Crank-Nicolson (the trapezoidal rule): order 2, A-stable, does not damp the stiffest modes."""
    return Theta(0.5)
