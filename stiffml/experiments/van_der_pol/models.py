"""Data of the oscillator, and the models that are to learn it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import problems
from problems.trajectories import reference_trajectory
from stiffml.training import Run, Runs

COMPONENTS = ["position", "velocity"]


@dataclass(frozen=True)
class Data:
    """Observations in units of the ranges, in slow time: ``seen`` to fit to, ``unseen`` between them.

    ``sizes`` (2,): what position and velocity are divided by. ``eps`` is 1/μ².
    """

    seen: Runs
    unseen: Runs
    sizes: np.ndarray
    eps: float


def observations(mu: float, points: int, end: float) -> Data:
    """Where a solver would step: at equal distances along the curve, so that the jumps are seen too."""
    problem = problems.load("vanderpol", eps=mu**-2)
    fine = problem.solve(torch.tensor([0.0, end], dtype=torch.float64), method="bdf", rtol=1e-6)
    times = np.unique(np.concatenate([fine.step_times.numpy(), np.linspace(0, end, 40 * points)]))
    states = reference_trajectory(problem, times)
    sizes = np.ptp(states, axis=0) / 2
    states = states / sizes
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(states, axis=0), axis=1))])
    length += length[-1] * times / end  # half of the points by length, half by time
    even = np.searchsorted(length, np.linspace(0, length[-1], 2 * points + 1))
    places = np.unique(even.clip(max=len(times) - 1))
    run = [Run(name, times[p], states[p]) for name, p in (("seen", places[::2]), ("unseen", places))]
    seen, unseen = (Runs([one], COMPONENTS, initial="known") for one in run)
    return Data(seen, unseen, sizes, mu**-2)


class Polynomial(nn.Module):
    """dy/dt as polynomials of the third degree, all coefficients unknown: a polynomial neural ODE.

    The oscillator is one of them.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first = 0.1 * torch.randn(2, 10, generator=generator, dtype=torch.float64)
        self.coefficients = nn.Parameter(first)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y[..., 0], y[..., 1]
        ones = torch.ones_like(x)
        xs, vs = [ones, x, x * x, x * x * x], [ones, v, v * v, v * v * v]
        terms = torch.stack([xs[i] * vs[j] for i in range(4) for j in range(4 - i)], dim=-1)
        return terms @ self.coefficients.T


def layers(outputs: int, seed: int) -> nn.Sequential:
    """A network 2→16→16→outputs, tanh."""
    generator = torch.Generator().manual_seed(seed)
    made: list[nn.Module] = []
    for before, after in itertools.pairwise([2, 16, 16, outputs]):
        layer = nn.Linear(before, after, dtype=torch.float64)
        nn.init.normal_(layer.weight, 0.0, before**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
        made += [layer, nn.Tanh()]
    return nn.Sequential(*made[:-1])


class Network(nn.Module):
    """dy/dt as sinh of a network, which spans the decades between creeping and jumping."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layers = layers(2, seed)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.sinh(self.layers(y))


class LogTime(nn.Module):
    """A model in the time τ = ln(1 + t / first)."""

    def __init__(self, func: nn.Module, first: float) -> None:
        super().__init__()
        self.func, self.first = func, first

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.func(t, y) * self.first * torch.exp(t)


class TimeMap(nn.Module):
    """Position, velocity and time along the curve: d(y, t)/ds, of which dt/ds is positive.

    dy/dt is the ratio of the two. Neither is large, so nothing here is stiff.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layers = layers(3, seed)

    def forward(self, s: Tensor, state: Tensor) -> Tensor:
        found = self.layers(state[..., :2])
        return torch.cat([found[..., :2], torch.exp(found[..., 2:] - 2)], dim=-1)


def in_log_time(runs: Runs, first: float) -> Runs:
    (run,) = runs
    return Runs([Run(run.name, np.log1p(run.times / first), run.values)], COMPONENTS, initial="known")


def along_the_curve(runs: Runs) -> Runs:
    """With time as a third component, over the length of the chords between observations."""
    (run,) = runs
    states = np.concatenate([run.values, run.times[:, None]], axis=1)
    length = np.cumsum(np.linalg.norm(np.diff(states, axis=0), axis=1))
    return Runs(
        [Run(run.name, np.concatenate([[0.0], length]), states)], [*COMPONENTS, "time"], initial="known"
    )
