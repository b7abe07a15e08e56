"""A network with many more weights than there are data, and such data."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from stiffml.closures import mlp
from stiffml.training import Run, Runs


class Net(nn.Module):
    """Some thousands of weights for two components."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp([2, 60, 60, 2], seed=0, gain=0.1)

    def forward(self, t, y):
        return 20 * torch.sinh(self.net(y))


def relaxing() -> Runs:
    """The fast component follows cos 2b, from −2 times that; closed forms where b = exp(−t/2)."""
    t = np.concatenate([[0.0], np.geomspace(0.01, 5, 14)])
    runs = []
    for number, start in enumerate((1.0, 0.6)):
        b = start * np.exp(-t / 2)
        runs.append(Run(f"{number}", t, np.stack([np.cos(2 * b) + 0.5 * np.exp(-50 * t), b], axis=1)))
    return Runs(runs, ["a", "b"], initial="known")
