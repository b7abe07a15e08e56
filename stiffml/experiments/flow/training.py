"""Fitting a flow to points, and what it has learned: densities, samples, round trips."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stiffml.experiments.flow.data import Points
from stiffml.experiments.flow.model import TO_DATA, TO_NORMAL, Dynamics, carried, log_density
from stiffml.experiments.flow.solvers import OURS, SOLVERS, TAPE, solver

RATE, DECAY = 5e-2, 1e-5
EVERY = 10
"""Iterations between checks of the weights."""
RTOL = 1e-3
"""Of training; what is reported is computed with TIGHT."""
TIGHT = 1e-6
EDGE, CELLS = 3.0, 60
"""The square on which a density of two columns is shown."""


def train(data: Points, hidden: int, iterations: int, told: Callable[[str], None]) -> Dynamics:
    """Maximum likelihood by AdamW, all points in each iteration, one cycle of its rate; exact trace.

    A fifth of the points is not fitted to: the weights that find these the most likely are kept. Without
    that a flow learns each point by heart, and finds unseen ones less likely than a normal distribution does.
    """
    torch.manual_seed(0)
    dynamics = Dynamics(data.seen.shape[1], hidden)
    optimizer = torch.optim.AdamW(dynamics.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=iterations)
    solve, held = solver(OURS, "dopri5", RTOL), len(data.seen) // 5
    checked, fitted = data.seen[:held], data.seen[held:]
    best, kept = -float("inf"), dynamics.state_dict()
    for iteration in range(1, iterations + 1):
        optimizer.zero_grad()
        loss = -log_density(dynamics, fitted, solve).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        if iteration % EVERY == 0 or iteration == iterations:
            with torch.no_grad():
                likelihood = float(log_density(dynamics, checked, solve).mean())
            if likelihood > best:
                best, kept = likelihood, copy.deepcopy(dynamics.state_dict())
        if iteration % 50 == 0:
            told(f"iteration {iteration} of {iterations}: {loss.item():.3f} nat, the best check {-best:.3f}")
    dynamics.load_state_dict(kept)
    return dynamics


@torch.no_grad()
def likelihoods(dynamics: Dynamics, points: Tensor, rtol: float) -> dict[str, np.ndarray]:
    """log p of every point by stiffml and by torchdiffeq, at the same weights and tolerance."""
    return {
        name: log_density(dynamics, points, solver(name, "dopri5", rtol)).numpy()
        for name in SOLVERS
        if name in (OURS, TAPE)
    }


def normal_likelihood(data: Points) -> float:
    """The mean log p of unseen points by the normal distribution that fits the others best."""
    mean, covariance = data.seen.mean(dim=0), torch.cov(data.seen.T)
    return float(torch.distributions.MultivariateNormal(mean, covariance).log_prob(data.unseen).mean())


def round_trip(dynamics: Dynamics, points: Tensor) -> float:
    """The largest change of points carried to the normal distribution and back."""
    there = carried(dynamics, points, TO_NORMAL, TIGHT)
    return float((carried(dynamics, there, TO_DATA, TIGHT) - points).abs().max())


def samples(dynamics: Dynamics, count: int, columns: int) -> np.ndarray:
    """(count, columns) points of a normal distribution, carried to the data in reverse time."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(count, columns, generator=generator, dtype=torch.float64)
    return carried(dynamics, start, TO_DATA, TIGHT).numpy()


@torch.no_grad()
def density(dynamics: Dynamics) -> np.ndarray:
    """(CELLS, CELLS) p at the middles of the cells of a square, rows along the second column."""
    middles = (torch.arange(CELLS, dtype=torch.float64) + 0.5) * (2 * EDGE / CELLS) - EDGE
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)
    return log_density(dynamics, points, solver(OURS, "dopri5", TIGHT)).exp().reshape(CELLS, CELLS).numpy()
