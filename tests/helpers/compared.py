"""A model and runs for comparisons; here, since other processes must be able to import the model."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from stiffml.training import Run, Runs


class Relaxation(nn.Module):
    """dy/dt = −exp(fast)·(y − cos t) − slow·y: as stiff as its weights say."""

    def __init__(self, seed: int, fast: float = 0.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shift = 0.2 * torch.rand(2, generator=generator, dtype=torch.float64)
        self.weights = nn.Parameter(torch.tensor([fast, 0.1], dtype=torch.float64) + shift)

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        fast, slow = self.weights
        return -torch.exp(fast) * (y - torch.cos(t)) - slow * y


class Stiff(Relaxation):
    """So stiff that explicit methods give up."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, fast=14.0)


def runs() -> tuple[Runs, Runs]:
    """Two runs of y' = −3 (y − cos t), to fit to and held out."""

    def run(name: str, start: float) -> Run:
        t = np.linspace(0, 2, 9)
        particular = (9 * np.cos(t) + 3 * np.sin(t)) / 10
        return Run(name, t, (particular + (start - 0.9) * np.exp(-3 * t))[:, None])

    made = (run("fitted", 0.2), run("unseen", 1.5))
    return tuple(Runs([one], ["y"], initial="known") for one in made)  # type: ignore[return-value]
