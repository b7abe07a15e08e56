"""Covariances and intervals: with robust losses, with scales that are not the noise, and near zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from decays import Decay
from torch import nn

from stiffml.training import LevenbergMarquardt, Run, Runs, least_squares

TIMES = np.linspace(0, 2, 41)
NOISE = 0.01


def decay_runs(outliers: bool, **more: Any) -> Runs:
    values = np.exp(-TIMES) + NOISE * np.random.default_rng(0).standard_normal(len(TIMES))
    values[0] = 1.0
    if outliers:
        values[[7, 19, 30]] += [0.3, -0.4, 0.25]
    return Runs([Run("a", TIMES, values[:, None])], ["A"], initial=1.0, **more)


@pytest.mark.parametrize("loss", ["huber", "soft-l1"])
def test_outliers_do_not_inflate_what_a_robust_loss_says(loss: str) -> None:
    """The standard error of k from the noise alone is 0.005; with outliers in the fit it may be half more."""
    clean = least_squares(Decay(0.7), decay_runs(False)).covariance.errors[0]
    assert clean == pytest.approx(0.0045, rel=0.2)
    size = np.ptp(decay_runs(True)[0].values)
    settings = LevenbergMarquardt(loss=loss, width=3 * NOISE / size)
    result = least_squares(Decay(0.7), decay_runs(True), levenberg_marquardt=settings)
    found = result.covariance
    assert found.errors[0] < 2 * clean, "look at Iteration.sum_of_squares"
    assert found.variance**0.5 * size < 2.5 * NOISE
    low, high = found.intervals()["k"]
    below, above = result.profile("k").interval
    assert (below, above) == pytest.approx((low, high), abs=0.25 * (high - low))
    assert low < 1 < high


@pytest.mark.parametrize("loss", ["squares", "huber", "soft-l1"])
def test_a_robust_loss_without_outliers_is_least_squares(loss: str) -> None:
    settings = LevenbergMarquardt(loss=loss, width=20 * NOISE)
    found = least_squares(Decay(0.7), decay_runs(False), levenberg_marquardt=settings).covariance
    plain = least_squares(Decay(0.7), decay_runs(False)).covariance
    np.testing.assert_allclose(found.errors, plain.errors, rtol=0.02)
    assert found.variance == pytest.approx(plain.variance, rel=0.03)


def test_a_measured_start_weighs_the_same_in_all_scales() -> None:
    values = np.exp(-1.3 * TIMES) + 0.03 * np.random.default_rng(1).standard_normal(len(TIMES))
    values[0] = 1.06
    runs = Runs([Run("a", TIMES, values[:, None])], ["A"], noise=0.03, initial="measured")
    found = [least_squares(Decay(0.7), runs, scale=scale).covariance for scale in (None, 0.03, 1.0, 10.0)]
    for one in found[1:]:
        np.testing.assert_allclose(one.values, found[0].values, rtol=1e-5, err_msg="look at FittedVector")
        np.testing.assert_allclose(one.errors, found[1].errors, rtol=1e-4)
    # The known noise, or the one that the residuals show.
    np.testing.assert_allclose(found[1].errors / found[1].variance ** 0.5, found[0].errors, rtol=1e-5)


class Settling(nn.Module):
    """y' = −exp(log k) (y − c)."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.log_k = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, t, y):
        return -self.log_k.exp() * (y - self.c)


@pytest.mark.parametrize("log_k", [1e-3, 1e-6, 0.0])
def test_a_number_at_zero_is_determined_as_well_as_one_beside_it(log_k: float) -> None:
    values = 0.5 + 0.5 * np.exp(-np.exp(log_k) * TIMES)
    runs = Runs([Run("a", TIMES, values[:, None])], ["A"], noise=NOISE, initial=1.0)
    found = least_squares(Settling(log_k), runs, rtol=1e-9, atol=1e-12).covariance
    assert found.undetermined == ()
    assert found.rank == 2
    np.testing.assert_allclose(found.values, [log_k, 0.5], atol=1e-6)
    t, faded = TIMES[1:], np.exp(-np.exp(log_k) * TIMES[1:])
    jacobian = np.stack([-0.5 * np.exp(log_k) * t * faded, 1 - faded], axis=1) / NOISE
    expected = np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
    np.testing.assert_allclose(found.errors, expected, rtol=1e-4)


class Units(nn.Module):
    """y' = −k y − (c/u) y², with c = 0 at its bound."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.unit = unit

    def forward(self, t, y):
        return -self.k * y - self.c / self.unit * y**2


def test_errors_do_not_depend_on_units() -> None:
    found = []
    for unit in (1.0, 1e-6, 1e6):
        result = least_squares(Units(unit), decay_runs(False, noise=NOISE), bounds={"c": (0.0, np.inf)})
        found.append(result.covariance.errors / [1.0, unit])
        assert result.covariance.undetermined == ()
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-2)
