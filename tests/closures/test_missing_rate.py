"""missing_rate: POLLU without two reactions, slow decay, noise, gaps; what it refuses."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from small_problems import decay
from torch import Tensor

import problems
import stiffml
from stiffml.closures import missing_rate, rate_scale
from stiffml.training.data import Forcing, Run, Runs

POLLU = problems.load("pollu")
FULL, LACKING = POLLU.func(), POLLU.make(k9=0.0, k14=0.0).func()
FAST, SLOW = ("OH", "MEO2", "C2O3"), ("CO2", "HNO3")
TIMES = torch.linspace(0, 60, 20, dtype=torch.float64)


@functools.cache
def trajectories() -> Tensor:
    """(12, 20, 20) of POLLU, from starts that are spread by half."""
    rng = np.random.default_rng(0)
    y0 = torch.tensor(POLLU.y0 * (1 + rng.uniform(-0.5, 0.5, (12, 20))))
    with torch.no_grad():
        return torch.stack(
            [stiffml.solve(FULL, one, TIMES, rtol=1e-7, atol=POLLU.atol(1e-7)).y for one in y0]
        )


def observed(noise: float, missing: float = 0.0) -> Runs:
    """Those with errors that are so much of the largest value of each species, and with gaps."""
    rng = np.random.default_rng(1)
    y = trajectories().numpy()
    deviation = noise * np.abs(y).max(axis=(0, 1))
    seen = y + deviation * rng.standard_normal(y.shape)
    seen[:, 1:-1][rng.random(seen[:, 1:-1].shape) < missing] = np.nan
    given = dict(zip(POLLU.components, deviation, strict=True)) if noise else None
    return Runs([Run(f"{i}", TIMES, one) for i, one in enumerate(seen)], POLLU.components, noise=given)


def true_rates() -> dict[str, float]:
    y = trajectories()
    rates = FULL(TIMES[0], y) - LACKING(TIMES[0], y)
    size = rates.square().mean(dim=(0, 1)).sqrt()
    return dict(zip(POLLU.components, size.tolist(), strict=True))


@pytest.mark.parametrize(("noise", "gaps"), [(0.0, 0.0), (0.01, 0.0), (0.05, 0.1)])
def test_sources_of_fast_radicals_are_found(noise: float, gaps: float) -> None:
    found = missing_rate(LACKING, observed(noise, gaps))
    scale, expected = dict(zip(found.components, found.scale.tolist(), strict=True)), true_rates()
    by_range = dict(zip(found.components, rate_scale(observed(0.0)).tolist(), strict=True))
    for name in FAST + SLOW:
        assert name in found.where
        ratio = scale[name] / expected[name]
        assert 1 / 1.5 < ratio < 1.5, f"{name}: {ratio:.2f} of the true scale"
    for name in FAST:
        assert scale[name] > 5e3 * by_range[name], "range/t_end reaches it: no fast radical"
    # Errors of observations hide the rest of what changes; what is not missing is not named.
    assert set(found.where) <= {"NO2", "NO", *FAST, *SLOW} | (
        {"CH3O", "NO3", "N2O5"} if noise < 0.02 else set()
    )
    for c, name in enumerate(found.components):
        if expected[name] == 0:
            assert found.scale[c] <= max(10 * found.limit[c], 0.1 * scale["OH"])
    assert f"OH    {scale['OH']:9.2e}" in str(found)


def test_nothing_missing() -> None:
    found = missing_rate(FULL, observed(0.05))
    assert found.where == ()


def test_rounding_of_what_stays_constant_is_no_rate() -> None:
    """Nitrogen where hydrogen burns: 0.745 to the last digit or two, over intervals of 1e-9 s."""
    t = np.concatenate([[0.0], np.geomspace(1e-9, 1e-4, 60)])
    rounded = 0.745 + np.spacing(0.745) * np.random.default_rng(0).integers(-1, 2, len(t))
    runs = Runs([Run("a", t, np.stack([rounded, np.exp(-1e5 * t)], axis=1))], ["N2", "H"])
    found = missing_rate(lambda t, y: torch.zeros_like(y), runs)
    assert found.where == ("H",)
    assert found.limit[0] < 1e-3


def test_a_slow_decay_under_noise() -> None:
    """Of y' = −0.1 y + 0.02 the source is missing; each interval hides it, whole runs show it."""
    rng = np.random.default_rng(0)
    t = np.linspace(0, 5, 101)
    runs = []
    for i in range(10):
        y = 0.2 + (0.4 + 0.1 * i - 0.2) * np.exp(-0.1 * t)
        runs.append(Run(f"{i}", t, (y + 0.01 * rng.standard_normal(101))[:, None]))
    found = missing_rate(lambda t, y: -0.1 * y, Runs(runs, ["A"], noise=0.01))
    assert found.where == ("A",)
    assert float(found.scale) == pytest.approx(0.02, rel=0.3)
    exact = missing_rate(lambda t, y: -0.1 * y + 0.02, Runs(runs, ["A"], noise=0.01))
    assert exact.where == ()


def test_the_noise_of_known_is_that_of_its_slopes() -> None:
    """With y constant and known = −1000 y, errors of y of 0.01 are errors of rates of 10 and more."""
    rng = np.random.default_rng(0)
    y = 1 + 0.01 * rng.standard_normal((500, 1))
    runs = Runs([Run("a", np.arange(500.0), y)], ["A"], noise=0.01)
    found = missing_rate(lambda t, y: -1000 * (y - 1), runs)
    assert found.where == ()
    by_single_intervals = 1000 * 0.01 / 2**0.5  # of a mean of two
    assert 0.3 < float(found.limit) / (by_single_intervals / 500**0.5) < 3


def test_range_over_the_end() -> None:
    runs = Runs([Run("a", [0, 4], [[1.0], [3.0]]), Run("b", [1, 3], [[0.0], [np.nan]])], ["A"])
    assert rate_scale(runs).tolist() == [3 / 4]


def test_what_is_refused() -> None:
    one = Run("a", [0, 1, 2], [[1.0, np.nan], [0.5, 2.0], [0.2, np.nan]])
    with pytest.raises(ValueError, match="run a has 1 observations of B; what is missing can be found only"):
        missing_rate(decay, Runs([one], ["A", "B"]))
    complete = Run("a", [0, 1], [[1.0], [0.5]])
    with pytest.raises(TypeError, match="runs must be Runs, not"):
        missing_rate(decay, [complete])
    with pytest.raises(TypeError, match="known must be callable"):
        missing_rate(None, Runs([complete], ["A"]))
    with pytest.raises(ValueError, match=r"known must return the shape of y, \(2, 1\), not \(2,\)"):
        missing_rate(lambda t, y: y[:, 0], Runs([complete], ["A"]))
    forced = Run("a", [0, 1], [[1.0], [0.5]], forcing=Forcing([0, 1], [[1.0], [2.0]], ("T",)))
    with pytest.raises(ValueError, match="run a has forcing"):
        missing_rate(decay, Runs([forced], ["A"]))
    with pytest.raises(ValueError, match="A has no observations that differ"):
        rate_scale(Runs([Run("a", [0, 1], [[1.0], [1.0]])], ["A"]))
