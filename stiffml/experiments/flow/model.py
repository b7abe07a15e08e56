"""A continuous normalizing flow: an ODE that carries points to a normal distribution, and their density.

Along z' = f(t, z) the logarithm of the density changes by −tr ∂f/∂z (Chen et al., arXiv 1806.07366). With
a' = tr ∂f/∂z from t = 0, where the data are, to t = 1, log p(x) = log N(z(1)) + a(1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import stiffml

TRACES = ("exact", "Hutchinson")
TO_NORMAL, TO_DATA = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.0]).double()
Pair = tuple[Tensor, Tensor]
Solve = Callable[..., Any]
"""``solve(func, y0, t)`` gives states at all times of t."""


class ConcatSquash(nn.Module):
    """(W x + b) · σ(gate) + bias; gate and bias are linear in time (Grathwohl et al., arXiv 1810.01367)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        self.gate = nn.Linear(1, outputs, dtype=torch.float64)
        self.bias = nn.Linear(1, outputs, bias=False, dtype=torch.float64)

    def gated(self, t: Tensor) -> Tensor:
        """(outputs,)"""
        return torch.sigmoid(self.gate(t[None]))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.linear(x) * self.gated(t) + self.bias(t[None])


class Dynamics(nn.Module):
    """(z', a') of points z (n, columns) and their traces a (n,): two hidden layers, tanh.

    The trace is exact, a bilinear form of the slopes of the two layers: tr(W₃ D₂ W₂ D₁ W₁) = Σ d₂ᵢ Vᵢⱼ d₁ⱼ
    with V = W₂ ∘ (W₁ W₃)ᵀ. Or it is Hutchinson's estimate εᵀ ∂f/∂z ε, with ``noise`` ε of ±1 (n, columns),
    which is drawn before a solve and stays as it is until the gradient is there.
    """

    noise: Tensor | None

    def __init__(self, columns: int, hidden: int, trace: str = "exact", samples: int = 0) -> None:
        super().__init__()
        self.hidden = hidden
        self.first = ConcatSquash(columns, hidden)
        self.second = ConcatSquash(hidden, hidden)
        self.last = ConcatSquash(hidden, columns)
        noise = None if trace == "exact" else torch.ones(samples, columns, dtype=torch.float64)
        self.register_buffer("noise", noise)

    def draw_noise(self, generator: torch.Generator) -> None:
        """Draw ε anew; with the exact trace nothing is to be drawn."""
        if self.noise is not None:
            self.noise.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)

    def forward(self, t: Tensor, y: Pair) -> Pair:
        z, _ = y
        if self.noise is None:
            return self._with_exact_trace(t, z)
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            slope = self.velocity(t, z)
            (along,) = torch.autograd.grad(slope, z, self.noise, create_graph=True)
        return slope, (along * self.noise).sum(1)

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        """z' alone, which is all that sampling needs."""
        return self.last(t, torch.tanh(self.second(t, torch.tanh(self.first(t, z)))))

    def _with_exact_trace(self, t: Tensor, z: Tensor) -> Pair:
        first, second, last = self.first, self.second, self.last
        x1 = torch.tanh(first(t, z))
        x2 = torch.tanh(second(t, x1))
        d1 = (1 - x1**2) * first.gated(t)
        d2 = (1 - x2**2) * second.gated(t)
        around = first.linear.weight @ (last.gated(t)[:, None] * last.linear.weight)
        trace = (d2 @ (second.linear.weight * around.T) * d1).sum(1)
        return last(t, x2), trace


def log_density(dynamics: Dynamics, x: Tensor, solve: Solve) -> Tensor:
    """log p (n,) of points x (n, columns)."""
    z, a = (state[-1] for state in solve(dynamics, (x, torch.zeros_like(x[:, 0])), TO_NORMAL))
    return a - (z**2).sum(1) / 2 - math.log(2 * math.pi) * x.shape[1] / 2


def carried(dynamics: Dynamics, points: Tensor, t: Tensor, rtol: float) -> Tensor:
    """Points carried along t: ``TO_NORMAL``, or ``TO_DATA`` in reverse time, which draws samples."""
    velocity: Any = dynamics.velocity
    with torch.no_grad():
        return stiffml.odeint(velocity, points, t, method="dopri5", rtol=rtol, atol=rtol)[-1]
