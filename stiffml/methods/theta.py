"""Theta methods in endpoint form: backward Euler, Crank-Nicolson and what lies between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stiffml.dynamics import Dynamics
from stiffml.linearization import Linearization
from stiffml.methods.base import Method, Nodes, Pending, Sweep
from stiffml.trajectory import Trajectory


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

    def nodes(self, trajectory: Trajectory, dynamics: Dynamics, first: int, last: int) -> Nodes:
        ends = slice(first, last + 1)
        return Nodes(torch.from_numpy(trajectory.times[ends]), trajectory.states[ends])

    def sweep(
        self, trajectory: Trajectory, first: int, last: int, jacobian: Linearization, pending: Pending
    ) -> Sweep:
        size = trajectory.states.shape[1]
        sizes = trajectory.sizes[first:last]
        implicit, explicit = self.theta * sizes, (1 - self.theta) * sizes
        multipliers = np.empty((last - first, size))
        for k in reversed(range(last - first)):
            shift = 1 / implicit[k]
            mu = jacobian.solve_transpose(k + 1, shift, pending.pop(first + k + 1)) * shift
            multipliers[k] = mu
            if explicit[k]:
                pending.add(first + k, mu + explicit[k] * jacobian.apply_transpose(k, mu))
            else:
                pending.add(first + k, mu)
        cotangents = np.zeros((last - first + 1, size))
        cotangents[1:] = implicit[:, None] * multipliers
        cotangents[:-1] += explicit[:, None] * multipliers
        return Sweep(cotangents, multipliers)

    def time_gradient(
        self,
        trajectory: Trajectory,
        first: int,
        last: int,
        sweep: Sweep,
        slopes: np.ndarray,
        node_gradient: np.ndarray,
        boundaries: np.ndarray,
    ) -> None:
        mean = self.theta * slopes[1:] + (1 - self.theta) * slopes[:-1]
        wrt_size = np.einsum("ks,ks->k", sweep.multipliers, mean)
        boundaries[first + 1 : last + 1] += wrt_size
        boundaries[first:last] -= wrt_size
        boundaries[first : last + 1] += node_gradient


def BackwardEuler() -> Theta:
    """Backward Euler: order 1, L-stable."""
    return Theta(1.0)


def CrankNicolson() -> Theta:
    """Crank-Nicolson (the trapezoidal rule): order 2, A-stable, does not damp the stiffest modes."""
    return Theta(0.5)
