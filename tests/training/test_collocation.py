"""Derivatives from noisy observations of known functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stiffml.training import Run, Runs, collocate


def even(n: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uneven times, exp(−t) and sin(3t) with noise, and the exact derivatives."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.random(n)) * 2
    y = np.stack([np.exp(-t), np.sin(3 * t)], axis=1) + noise * rng.standard_normal((n, 2))
    return t, y, np.stack([-np.exp(-t), 3 * np.cos(3 * t)], axis=1)


def error(found: torch.Tensor, exact: np.ndarray) -> float:
    """Root mean square, without the tenth at either end."""
    edge = len(exact) // 10
    return float(np.sqrt(np.mean((found.numpy() - exact)[edge:-edge] ** 2)))


@pytest.mark.parametrize("seed", range(4))
def test_derivatives_of_noisy_data(seed: int) -> None:
    """Twenty times better than the sizes of differences, whose noise is that of the data by the interval."""
    t, y, exact = even(100, 0.02, seed)
    points = collocate(Runs([Run("a", t, y)], ["A", "B"], noise=0.02))
    assert points.mask.all()
    assert error(points.rates, exact) < 0.15  # of derivatives of size 1 and 3
    differences = torch.from_numpy(np.gradient(y, t, axis=0))
    assert error(points.rates, exact) < error(differences, exact) / 20


def test_less_noise_is_less_error() -> None:
    errors = []
    for noise in (1e-1, 1e-2, 1e-3, 1e-5):
        t, y, exact = even(100, noise, 1)
        errors.append(error(collocate(Runs([Run("a", t, y)], ["A", "B"], noise=noise)).rates, exact))
    assert all(later < earlier / 2 for earlier, later in itertools.pairwise(errors)), errors
    assert errors[-1] < 1e-3


def test_as_smooth_as_the_noise_allows() -> None:
    t, y, _ = even(100, 0.02, 0)
    points = collocate(Runs([Run("a", t, y)], ["A", "B"], noise={"A": 0.02, "B": 0.05}))
    squares = ((points.values.numpy() - y) / [0.02, 0.05]) ** 2
    np.testing.assert_allclose(squares.sum(axis=0), 100 + np.sqrt(200), rtol=5e-3)


def test_times_over_decades() -> None:
    """A transient of 1e-3 and a decay of 1, seen at times over six decades."""
    rng = np.random.default_rng(0)
    t = np.concatenate([[0], np.sort(10 ** rng.uniform(-5, 1, 90))])
    fast, slow = np.exp(-1e3 * t), np.exp(-t)
    y = np.stack([fast + slow, slow - fast], axis=1) + 1e-3 * rng.standard_normal((91, 2))
    exact = np.stack([-1e3 * fast - slow, 1e3 * fast - slow], axis=1)
    points = collocate(Runs([Run("a", t, y)], ["A", "B"], noise=1e-3))
    off = (points.rates.numpy() - exact) * t[:, None]  # in units of the change over a time as long as t
    assert np.abs(exact * t[:, None]).max() > 0.35
    assert np.sqrt(np.mean(off**2)) < 0.01


def test_gaps_runs_and_short_runs() -> None:
    t, y, exact = even(60, 1e-3, 2)
    y[:10, 0] = np.nan
    y[30:33, 0] = np.nan
    y[:, 1] = np.nan
    runs = Runs([Run("a", t, y), Run("b", t[:3], exact[:3])], ["A", "B"], noise=1e-3)
    points = collocate(runs)
    np.testing.assert_array_equal(points.mask[:60, 0], np.arange(60) >= 10)
    assert not points.mask[:, 1].any()
    assert not points.mask[60:].any()
    assert (points.rates[~points.mask] == 0).all()
    assert points.run.tolist() == [0] * 60 + [1] * 3
    np.testing.assert_array_equal(points.times, runs.times)
    assert np.abs(points.rates[30:33, 0].numpy() - exact[30:33, 0]).max() < 0.05  # across the gap


def test_known_starts_are_passed_through() -> None:
    t, y, _ = even(40, 0.05, 3)
    y[0] = np.nan
    runs = Runs([Run("a", t, y)], ["A", "B"], noise=0.05, initial={"A": 0.9})
    points = collocate(runs)
    assert abs(float(points.values[0, 0]) - 0.9) < 2e-3
    assert points.mask[0].tolist() == [True, False]


def test_weights_of_zero_are_no_observations() -> None:
    t, y, _ = even(40, 1e-3, 4)
    wrong, weights = y.copy(), np.ones_like(y)
    wrong[20], weights[20] = 7.0, 0.0
    points = collocate(Runs([Run("a", t, wrong, weights=weights)], ["A", "B"], noise=1e-3))
    assert np.abs(points.values[20].numpy() - y[20]).max() < 0.01


def test_what_is_wrong_is_said() -> None:
    t, y, _ = even(40, 1e-3, 5)
    with pytest.raises(ValueError, match="noise: that of B is not known"):
        collocate(Runs([Run("a", t, y)], ["A", "B"], noise={"A": 1e-3}))
    with pytest.raises(ValueError, match="no component of any run has the 5 observations"):
        collocate(Runs([Run("a", t[:4], y[:4])], ["A", "B"], noise=1e-3))
    with pytest.raises(TypeError, match="runs must be Runs"):
        collocate([Run("a", t, y)])  # type: ignore[arg-type]
