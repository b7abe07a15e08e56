"""Theta methods in endpoint form: backward Euler, Crank-Nicolson and what lies between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stiffml.dynamics import Dynamics
from stiffml.linearization import Linearization
from stiffml.methods.base import AtNodes, Method, Nodes, Pending, Sweep
from stiffml.trajectory import Segment


@dataclass(frozen=True)
class Theta(Method):
    """u₁ = u₀ + h(θ f(t₁, u₁) + (1−θ) f(t₀, u₀)); A-stable, order 1, or 2 for θ = 1/2.

    The adjoint of a step solves (I − hθJ₁)ᵀ μ = λ₁; f at the two ends then has the cotangents hθμ and
    h(1−θ)μ, and λ₀ = μ + h(1−θ) J₀ᵀ μ. The two ends have different states: the parameter gradient
    needs ∂f/∂θ at both.

    Parameters
    ----------
    theta : float
        From 1/2 (Crank-Nicolson) to 1 (backward Euler).

    Source: Hairer & Wanner, Solving ODEs II, section IV.3; adjoint: Zhang, Constantinescu & Smith,
    PETSc TSAdjoint (2022), section 3.
    """

    theta: float

    def __post_init__(self) -> None:
        if not 0.5 <= self.theta <= 1:
            raise ValueError(f"Theta: theta must lie in [0.5, 1], where it is A-stable, not {self.theta}")

    @property
    def order(self) -> int:
        return 2 if self.theta == 0.5 else 1

    implicit = True
    adaptive = True

    def petsc_options(self) -> dict[str, object]:
        if self.theta == 1:
            return {"ts_type": "beuler"}
        return {"ts_type": "theta", "ts_theta_theta": self.theta, "ts_theta_endpoint": True}

    def nodes(self, segment: Segment, dynamics: Dynamics) -> Nodes:
        return Nodes(torch.from_numpy(segment.times), segment.states)

    def sweep(self, segment: Segment, jacobian: Linearization, pending: Pending) -> Sweep:
        implicit, explicit = self.theta * segment.sizes, (1 - self.theta) * segment.sizes
        multipliers = np.empty((segment.steps, segment.states.shape[1]))
        for k in reversed(range(segment.steps)):
            shift = 1 / implicit[k]
            mu = jacobian.solve_transpose(k + 1, shift, pending.pop(segment.first + k + 1)) * shift
            multipliers[k] = mu
            if explicit[k]:
                pending.add(segment.first + k, mu + explicit[k] * jacobian.apply_transpose(k, mu))
            else:
                pending.add(segment.first + k, mu)
        cotangents = np.zeros((segment.steps + 1, multipliers.shape[1]))
        cotangents[1:] = implicit[:, None] * multipliers
        cotangents[:-1] += explicit[:, None] * multipliers
        return Sweep(cotangents, multipliers)

    def time_gradient(
        self, segment: Segment, sweep: Sweep, at_nodes: AtNodes, boundaries: np.ndarray
    ) -> None:
        mean = self.theta * at_nodes.slopes[1:] + (1 - self.theta) * at_nodes.slopes[:-1]
        wrt_size = np.einsum("ks,ks->k", sweep.multipliers, mean)
        boundaries[segment.first + 1 : segment.last + 1] += wrt_size
        boundaries[segment.first : segment.last] -= wrt_size
        boundaries[segment.first : segment.last + 1] += at_nodes.time_gradient


def BackwardEuler() -> Theta:
    """Backward Euler: order 1, L-stable."""
    return Theta(1.0)


def CrankNicolson() -> Theta:
    """Crank-Nicolson (the trapezoidal rule): order 2, A-stable, does not damp the stiffest modes."""
    return Theta(0.5)
