"""A neural ODE for Robertson's problem, which becomes too stiff to train on with explicit methods.

The set-up of Zhang & Zhao, arXiv 2206.01298: 40 log-spaced observations to t = 100, species scaled to [0, 1],
a network 3→5×6→3 without biases, Crank-Nicolson with one step between observations. There by AdamW; here by
Levenberg-Marquardt on a ladder of intervals, with restarts.

As a script it fits, and prints errors at times that nothing was fitted to: ``python -m
stiffml.experiments.robertson``. ``stiffml fit robertson`` is the same with files and pictures.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import problems
from problems.trajectories import reference_trajectory
from stiffml import Solution
from stiffml.training import Run, Runs, fit

LEARNING_RATE = 5e-3
METHOD, TARGET, ATTEMPTS = "cn", 1e-5, 20
"""Of the fit by Levenberg-Marquardt: the mean error at which it ends, and how often it may begin anew."""

END, POINTS, UNSEEN = 100.0, 40, 198
COMPONENTS = ["A", "B", "C"]


@dataclass(frozen=True)
class Data:
    """Observations (points + 1, 3) at ``times`` in s: ``y`` as concentrations, ``scaled`` to [0, 1].

    ``unseen`` has the scaled solution at other times, which nothing is fitted to.
    """

    times: Tensor
    y: np.ndarray
    scaled: Tensor
    lowest: np.ndarray
    ranges: np.ndarray
    unseen: Runs

    @property
    def runs(self) -> Runs:
        run = Run("robertson", self.times.numpy(), self.scaled.numpy())
        return Runs([run], COMPONENTS, time_units="s", initial="known")


def observations(points: int = POINTS) -> Data:
    """The reference solution at t = 0 and log-spaced times in [1e-5, 100]; 198 others as data never seen."""
    times = np.concatenate([[0.0], np.geomspace(1e-5, END, points)])
    others = np.concatenate([[0.0], np.geomspace(1e-5, END, UNSEEN)])
    every, where = np.unique(np.concatenate([times, others]), return_inverse=True)
    found = reference_trajectory(problems.load("robertson"), every, checked=False)[where]
    y, unseen = found[: len(times)], found[len(times) :]
    lowest, ranges = y.min(axis=0), np.ptp(y, axis=0)
    run = Run("unseen", others, (unseen - lowest) / ranges)
    return Data(
        times=torch.from_numpy(times),
        y=y,
        scaled=torch.from_numpy((y - lowest) / ranges),
        lowest=lowest,
        ranges=ranges,
        unseen=Runs([run], COMPONENTS, time_units="s", initial="known"),
    )


class Network(nn.Module):
    """dy/dt of the scaled species: 3→5×6→3, GELU, no biases, weights N(0, 0.5²)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        widths = [3, *[5] * 6, 3]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=False, dtype=torch.float64), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            nn.init.normal_(weight, 0.0, 0.5, generator=generator)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y)


def error_of(solution: Solution, data: Data) -> Tensor:
    """Mean absolute error of the scaled species over the observations after the start."""
    assert isinstance(solution.y, Tensor)
    return (solution.y - data.scaled)[1:].abs().mean()


def main() -> None:
    data = observations()
    result = fit(Network, data.runs, method=METHOD, scale=1.0, target=TARGET, attempts=ATTEMPTS)
    print(result.report(data.unseen))


if __name__ == "__main__":
    main()
