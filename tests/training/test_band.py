"""Intervals: of fitted numbers and of the solution, whether they cover the truth as often as they say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from decays import RATES, TIMES, Chain, chain_runs, exact

from stiffml import Grid
from stiffml.training import Result, Runs, Whole, fit, least_squares

NOISE = {"A": 0.02, "B": 5e-5}
LOOK_AT = "look at stiffml/training/band.py and lm/covariance.py"


def fitted(seed: int) -> Result:
    """Rates and initial values from noisy runs, of which the first observations are noisy too."""
    generator = np.random.default_rng(seed)
    runs = []
    for run in chain_runs():
        noise = generator.standard_normal(run.values.shape) * list(NOISE.values())
        runs.append(type(run)(run.name, run.times, run.values + noise))
    data = Runs(runs, ["A", "B"], noise=NOISE, initial="measured")
    # Ten steps between observations: the steps' own errors are far below the noise.
    return fit(Chain(*RATES), data, strategy=Whole(), method="sdirk3", steps=Grid(10))


def test_intervals_cover_as_often_as_they_say() -> None:
    """Over 40 draws. Shares of independent numbers have a standard deviation of √(0.05 · 0.95 / 40) = 0.034;
    three of these are allowed, and the same for the solution, whose values are correlated."""
    times = np.concatenate([[0.0], np.geomspace(2e-4, 1.0, 20)])
    truth, numbers, solution = exact(times, 1.0), [], []
    for seed in range(40):
        result = fitted(seed)
        assert result.covariance is not None
        intervals = result.covariance.intervals()
        true = {f"logs[{i}]": np.log(rate) for i, rate in enumerate(RATES)}
        true |= {"y0 of a: A": 1.0, "y0 of a: B": 0.0}
        numbers.append([intervals[name][0] < value < intervals[name][1] for name, value in true.items()])
        band = result.band("a", times)
        solution.append((band.low <= truth) & (truth <= band.high))
    shares = np.mean(numbers, axis=0)
    assert (np.abs(shares - 0.95) <= 0.105).all(), f"{shares}; {LOOK_AT}"
    assert np.mean(solution) == pytest.approx(0.95, abs=0.105), LOOK_AT


def test_band_is_that_of_differences() -> None:
    """Errors from the solutions of models moved along the principal axes of the covariance."""
    result = fitted(0)
    covariance = result.covariance
    assert covariance is not None
    band = result.band("a", TIMES)
    values, axes = np.linalg.eigh(covariance.matrix)
    variance, h = np.zeros(band.y.shape), 1e-3
    for value, axis in zip(values, axes.T, strict=True):
        if value <= 0:
            continue
        moved = []
        for sign in (1, -1):
            theta = covariance.values + sign * h * np.sqrt(value) * axis
            named = dict(zip(covariance.names, theta, strict=True))
            k1, k2 = np.exp(named["logs[0]"]), np.exp(named["logs[1]"])
            a, b = named["y0 of a: A"], named["y0 of a: B"]
            first, second = np.exp(-k1 * TIMES), np.exp(-k2 * TIMES)
            moved.append(np.stack([a * first, a * k1 / (k2 - k1) * (first - second) + b * second], axis=1))
        variance += ((moved[0] - moved[1]) / (2 * h)) ** 2
    np.testing.assert_allclose(band.errors, np.sqrt(variance), rtol=1e-3, err_msg=LOOK_AT)
    np.testing.assert_allclose(band.y, result.resolved()[0].y, rtol=1e-5, atol=1e-9)
    wide = result.band("a", TIMES, level=0.99)
    assert (wide.high > band.high).all()


def test_a_start_that_is_known_has_no_error() -> None:
    result = fit(Chain(*RATES), chain_runs(noise=0.02), strategy=Whole(), steps=Grid(4))
    band = result.band("a", TIMES)
    assert (band.errors[0] == 0).all()
    assert (band.errors[1:] > 0).all()


def test_what_a_band_needs() -> None:
    result = least_squares(Chain(*RATES), chain_runs(noise=0.02), method="sdirk3", steps=Grid(4))
    with pytest.raises(ValueError, match="none of those fitted to is 'c'; they are a, b"):
        result.band("c", TIMES)
    with pytest.raises(ValueError, match="begin with that of the run, 0"):
        result.band("a", TIMES[1:])
    with pytest.raises(ValueError, match="level"):
        result.band("a", TIMES, level=1.5)
    adam = fit(Chain(*RATES), chain_runs(), optimizer="adam", iterations=1, steps=Grid(2))
    with pytest.raises(ValueError, match="optimizer='lm'"):
        adam.band("a", TIMES)


def test_the_room_is_imported_without_what_takes_long_to_import() -> None:
    """scipy.stats takes as long as the rest of scipy; a quantile of Student's is in scipy.special too."""
    script = "import sys, stiffml.training; assert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
