"""A small stiff model with rate constants, and runs of it: A → B → C, with k₁ = 4, k₂ = 900."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.training import Run, Runs

RATES = (4.0, 900.0)
COMPONENTS = ["A", "B"]


class Chain(nn.Module):
    """dA/dt = −k₁ A, dB/dt = k₁ A − k₂ B, with the logarithms of the rates as parameters."""

    def __init__(self, *rates: float) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.tensor([math.log(k) for k in rates or (1.0, 100.0)]).double())

    def reset_parameters(self) -> None:
        nn.init.normal_(self.logs, 2.0, 2.0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        k1, k2 = self.logs.exp()
        a, b = y.unbind(-1)
        return torch.stack([-k1 * a, k1 * a - k2 * b], dim=-1)

    @property
    def rates(self) -> np.ndarray:
        return self.logs.detach().exp().numpy()


def exact(t: np.ndarray, a0: float, b0: float = 0.0) -> np.ndarray:
    """(n, 2) the solution."""
    k1, k2 = RATES
    a = a0 * np.exp(-k1 * t)
    b = a0 * k1 / (k2 - k1) * (np.exp(-k1 * t) - np.exp(-k2 * t)) + b0 * np.exp(-k2 * t)
    return np.stack([a, b], axis=1)


TIMES = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 12)])
OTHER_TIMES = np.concatenate([[0.0], np.geomspace(3e-4, 2.0, 9)])


def chain_runs(noise: float = 0.0, seed: int = 0, initial: str = "known", **more: object) -> Runs:
    """Two runs at times of their own, with gaps; ``noise`` in units of the components' ranges."""
    generator = np.random.default_rng(seed)
    runs = []
    for name, times, a0 in (("a", TIMES, 1.0), ("b", OTHER_TIMES, 2.0)):
        values = exact(times, a0)
        values[1:] += noise * np.ptp(values, axis=0) * generator.standard_normal(values[1:].shape)
        runs.append(Run(name, times, values))
    runs[1].values.flags.writeable = True
    runs[1].values[[3, 4], [0, 1]] = np.nan
    runs[1].values.flags.writeable = False
    return Runs(runs, COMPONENTS, initial=initial, **more)


class Decay(nn.Module):
    """dy/dt = −k y."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * y


def lab_table(folder: Path) -> Path:
    """A file in the folder: a table of three runs of two components, A → B, of which the sum stays."""
    rows = ["run,t,A,B"]
    for name, start in (("x", 1.0), ("y", 0.5), ("z", 0.8)):
        for t in np.linspace(0, 2, 9):
            a = start * np.exp(-2 * t)
            rows.append(f"{name},{t:g},{a:.8g},{start - a:.8g}")
    (folder / "lab.csv").write_text("\n".join(rows))
    return folder / "lab.csv"


class Rising(nn.Module):
    """dy/dt = exp(k) y², which has no solution at t = 1 for k ≥ 0 and y = 1."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, t, y):
        return self.k.exp() * y**2


RISING = Runs([Run("up", [0.0, 0.5, 1.0], [[1.0], [1 / 0.6], [5.0]])], ["A"], initial="known")


class Interrupt:
    """A report that stops a fit after some calls."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, progress: object) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
