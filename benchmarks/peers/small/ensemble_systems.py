"""The ensemble that both sides solve: Robertson's reaction, each sample with rates of its own. Only numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SPANS = {"100": (1e2, 40), "1e5": (1e5, 50)}
THRESHOLD = np.array([1e-2, 1e-6, 1e-2])
"""Absolute tolerances are rtol times this."""
START = np.array([1.0, 0.0, 0.0])


@dataclass(frozen=True)
class Ensemble:
    """``log_rates`` (samples, 3) are those of the three reactions; ``t`` (outputs,) is the same for all."""

    log_rates: np.ndarray
    t: np.ndarray

    def save(self, path: Path) -> None:
        np.savez(path, log_rates=self.log_rates, t=self.t)

    @classmethod
    def load(cls, path: str) -> Ensemble:
        with np.load(path) as file:
            return cls(file["log_rates"], file["t"])


def ensemble(samples: int, span: str) -> Ensemble:
    """Rates spread by a factor of two either way."""
    end, outputs = SPANS[span]
    spread = np.random.default_rng(0).uniform(-np.log(2), np.log(2), (samples, 3))
    t = np.concatenate([[0.0], end * np.geomspace(1e-3, 1, outputs)])
    return Ensemble(np.log([0.04, 1e4, 3e7]) + spread, t)
