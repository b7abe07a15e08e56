"""The reactions that are to be found, and observations of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml import odeint
from stiffml.training import Run, Runs

NOISE = 0.05
"""Standard deviation of errors, as a fraction of what is observed."""

SMALL = 0.05
"""What is observed below this counts as if it had the errors of this: its own value says too little."""

GAS_CONSTANT = 8.31446261815324


@dataclass(frozen=True)
class Case:
    """Reactions by mass action.

    Attributes
    ----------
    species : tuple of str
    stoichiometry : tuple of tuple of int
        A row for each reaction, consumed species negative; orders are what is consumed.
    rates : tuple of float
        Rate constants, at the middle temperature if there are temperatures.
    energies : tuple of float
        Activation energies in J/mol.
    temperatures : tuple of float
        From the least to the largest, in K; empty where nothing depends on it.
    span, points : float and int
        Observations begin at 0 and end at ``span``, at ``points`` equal distances.
    low, high : float
        Of the first two species at the start. There is nothing of the others.
    """

    name: str
    species: tuple[str, ...]
    stoichiometry: tuple[tuple[int, ...], ...]
    rates: tuple[float, ...]
    span: float
    points: int
    low: float
    high: float
    time_units: str
    energies: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """Those of the state: the temperature is the last one."""
        return (*self.species, "T") if self.temperatures else self.species

    @property
    def middle(self) -> float:
        """K."""
        return sum(self.temperatures) / 2

    def constants(self, T: Tensor) -> Tensor:
        """(…, r) at temperatures (…)."""
        k = torch.tensor(self.rates, dtype=torch.float64)
        energies = torch.tensor(self.energies, dtype=torch.float64) / GAS_CONSTANT
        return k * torch.exp(energies * (1 / self.middle - 1 / T.unsqueeze(-1))) if self.temperatures else k

    def times(self, points: int) -> np.ndarray:
        """(points + 1,) of observations."""
        return np.linspace(0.0, self.span, points + 1)

    def starts(self, count: int, random: np.random.Generator) -> np.ndarray:
        """(count, components)"""
        y0 = np.zeros((count, len(self.components)))
        y0[:, :2] = random.uniform(self.low, self.high, (count, 2))
        if self.temperatures:
            y0[:, -1] = random.uniform(self.temperatures[0], self.temperatures[-1], count)
        return y0

    def rhs(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, which is what a fit does not know."""
        nu = torch.tensor(self.stoichiometry, dtype=torch.float64)
        species = y[..., : len(self.species)]
        rate = self.constants(y[..., -1]) * (species.unsqueeze(-2) ** (-nu).clamp(min=0)).prod(dim=-1)
        change = rate @ nu
        return torch.cat([change, torch.zeros_like(y[..., :1])], dim=-1) if self.temperatures else change


CASES = {
    "case 1": Case(
        "case 1",
        ("A", "B", "C", "D", "E"),
        ((-2, 1, 0, 0, 0), (-1, 0, 1, 0, 0), (0, 0, -1, 1, 0), (0, -1, 0, -1, 1)),
        (0.1, 0.2, 0.13, 0.3),
        span=40.0,
        points=100,
        low=0.2,
        high=1.2,
        time_units="s",
    ),
    "biodiesel": Case(
        "biodiesel",
        ("TG", "ROH", "DG", "MG", "GL", "R'CO2R"),
        ((-1, -1, 1, 0, 0, 1), (0, -1, -1, 1, 0, 1), (0, -1, 0, -1, 1, 1)),
        tuple(
            float(np.exp(a - e / (1.98720425864083e-3 * 333.0)))
            for a, e in ((18.60, 14.54), (19.13, 14.42), (7.93, 6.47))
        ),
        span=50.0,
        points=50,
        low=0.2,
        high=2.2,
        time_units="min",
        energies=tuple(4184.0 * e for e in (14.54, 14.42, 6.47)),
        temperatures=(323.0, 343.0),
    ),
}
"""Ji & Deng's first two: five species and four reactions; the making of biodiesel, at a temperature of each
run's own."""


def solved(case: Case, count: int, seed: int, points: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Times (n,) and states (count, n, components) without errors, from random starts."""
    times = case.times(points or case.points)
    return times, trajectories(case.rhs, case.starts(count, np.random.default_rng(seed)), times)


def trajectories(func: Callable[..., Any], y0: np.ndarray, times: np.ndarray) -> np.ndarray:
    """States (count, n, components) from starts (count, components)."""
    with torch.no_grad():
        found = odeint(func, torch.from_numpy(y0), torch.from_numpy(times), rtol=1e-9, atol=1e-12)
    assert isinstance(found, Tensor)
    return found.transpose(0, 1).numpy()


def observed(case: Case, times: np.ndarray, exact: np.ndarray, seed: int) -> Runs:
    """Observations with relative errors; starts and temperatures are known."""
    errors = NOISE * np.random.default_rng(seed).standard_normal(exact.shape)
    errors[:, 0] = 0
    if case.temperatures:
        errors[..., -1] = 0
    values = exact * (1 + errors)
    return weighted(case, times, values, np.maximum(values, SMALL), exact[:, 0])


def weighted(
    case: Case, times: np.ndarray, values: np.ndarray, sizes: np.ndarray, starts: np.ndarray
) -> Runs:
    """Runs whose errors are ``NOISE`` times sizes (count, n, components)."""
    found = [
        Run(f"{i}", times, one, y0=start, weights=size**-2.0)
        for i, (one, size, start) in enumerate(zip(values, sizes, starts, strict=True))
    ]
    return Runs(found, case.components, time_units=case.time_units, initial="known", noise=NOISE)
