"""Data of the Kuramoto-Sivashinsky equation, and what a model of a chaotic system can be held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import problems
import stiffml
from stiffml.experiments.sinode.training import Windows

STEP = 0.05
"""Of arkimex-4 for the data: errors of 1e-5 over the time in which chaos lets one compare."""

EVERY = 0.2
"""Between two snapshots, and the length of a window."""

THRESHOLD = 0.5
"""Error over the root mean square of u up to which a prediction is valid (as in arXiv 1910.05266)."""


@dataclass(frozen=True)
class Series:
    """Snapshots (times, series, 1, points): ``seen`` and, after a gap, ``unseen``."""

    seen: Tensor
    unseen: Tensor

    def windows(self, most: int, seed: int) -> tuple[Windows, Windows]:
        """All pairs of neighbours in time to train on, and at most so many to validate on."""
        seen, unseen = (
            Windows(part[:-1].flatten(0, 1), part[1:].flatten(0, 1), EVERY)
            for part in (self.seen, self.unseen)
        )
        chosen = torch.randperm(len(unseen.start), generator=torch.Generator().manual_seed(seed))[:most]
        return seen, Windows(unseen.start[chosen], unseen.end[chosen], EVERY)


def along(func: nn.Module, start: Tensor, span: float, h: float, every: float = EVERY) -> Tensor:
    """The states (times, series, 1, points) at multiples of ``every``, up to where there are any."""
    times = torch.arange(round(span / every) + 1, dtype=torch.float64) * every
    how: dict[str, Any] = {"steps": stiffml.Fixed(h), "batch_dims": 1, "linear": stiffml.LU(), "throw": False}
    with torch.no_grad():
        found = stiffml.solve(func, start, times, method="arkimex-4", **how).y
    assert isinstance(found, Tensor)
    return found


def generate(problem: problems.Problem, series: int, span: float, settling: float, seed: int) -> Series:
    """From random long waves, after a time in which they have come to the attractor.

    The first seven tenths of the span are seen; the last quarter is not. The gap between them is used for
    nothing, so that no unseen state is near a seen one in time.
    """
    points = problem.y0.shape[-1]
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * np.arange(points) / points
    numbers = np.arange(1, 5)[:, None, None]
    size, shift = rng.normal(size=(4, series, 1)), rng.uniform(0, 2 * np.pi, size=(4, series, 1))
    start = torch.from_numpy((size * np.cos(numbers * phase + shift)).sum(axis=0))[:, None]
    ready = along(problem.split(), start, settling, STEP, settling)[-1]
    states = along(problem.split(), ready, span, STEP)
    return Series(states[: int(0.7 * len(states))], states[int(0.75 * len(states)) :])


def growth_rate(problem: problems.Problem, start: Tensor, span: float, seed: int) -> float:
    """The largest Lyapunov exponent, from the distance of neighbours that is made small again and again."""
    generator = torch.Generator().manual_seed(seed)
    small, length = 1e-6, 2.0
    away = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    away = away - away.mean(-1, keepdim=True)  # the mean is conserved
    here, rates = start, []
    for _ in range(round(span / length)):
        there = here + small * away / away.norm(dim=-1, keepdim=True)
        ends = along(problem.split(), torch.cat([here, there]), length, 2 * STEP, length)[-1]
        here, moved = ends.chunk(2)
        away = moved - here
        rates.append(np.log(away.norm(dim=-1).numpy() / small) / length)
    settled = rates[len(rates) // 10 :]
    return float(np.mean(settled))


def valid_times(predicted: Tensor, truth: Tensor) -> np.ndarray:
    """For each series, the time after which its error is above the threshold."""
    size = truth.square().mean().sqrt()
    count = min(len(predicted), len(truth))
    error = (predicted[:count] - truth[:count]).square().mean(dim=(2, 3)).sqrt() / size
    bad = ~(error <= THRESHOLD)
    first = torch.where(bad.any(0), bad.int().argmax(0), count)
    return first.numpy() * EVERY


def spectrum(states: Tensor) -> np.ndarray:
    """Mean energy of each number of waves, (points // 2 + 1,)."""
    energy = torch.fft.rfft(states, norm="forward").abs().square()
    return energy.mean(dim=tuple(range(energy.ndim - 1))).numpy()


def density(states: Tensor, edges: np.ndarray) -> np.ndarray:
    """How often u has which values."""
    return np.histogram(states.numpy().ravel(), edges, density=True)[0]
