"""Profile likelihoods against sums of squares that are minimised by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stiffml import Grid
from stiffml.training import Run, Runs, fit

TIMES = np.linspace(0, 2, 15)
NOISE = 0.05


class Decay(nn.Module):
    """A' = −k A, with ln k learned, or with k as a product of which data determine nothing else."""

    def __init__(self, product: bool = False) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.factor = nn.Parameter(torch.tensor(1.0, dtype=torch.float64)) if product else 1.0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * self.factor * y


def observed(known_noise: bool = True) -> Runs:
    noise = NOISE * np.random.default_rng(3).standard_normal(len(TIMES))
    run = Run("a", TIMES, (np.exp(-2 * TIMES) + noise)[:, None])
    given = {"noise": NOISE} if known_noise else {}
    return Runs([run], ["A"], initial={"A": "learned"}, **given)


def least(k: float) -> float:
    """The sum of squares of the run with the best initial value, in units of the noise."""
    shape, seen = np.exp(-k * TIMES), observed()[0].values[:, 0]
    start = shape @ seen / (shape @ shape)
    return float((((start * shape - seen) / NOISE) ** 2).sum())


def test_the_rise_is_that_of_the_other_numbers_fitted_anew() -> None:
    result = fit(Decay(), observed(), steps=Grid(20))
    profile = result.profile("k")
    at = result.model.k.item()
    assert (np.diff(profile.values) > 0).all()
    expected = [least(value) - least(at) for value in profile.values]
    np.testing.assert_allclose(profile.rise, expected, rtol=2e-3, atol=1e-4)
    low, high = profile.interval
    assert least(low) - least(at) == pytest.approx(least(high) - least(at), rel=0.1)
    assert high - at > 1.05 * (at - low), "k bends: a linearised interval is symmetric"
    assert result.model.k.item() == at, "weights are those of the fit again"
    assert profile.lost == ()


def test_where_the_model_is_linear_it_is_the_linearised_interval() -> None:
    """The initial value, with k held by narrow bounds; the noise is not known."""
    result = fit(Decay(), observed(False), steps=Grid(20), bounds={"k": (1.99999, 2.00001)})
    (name,) = (name for name in result.covariance.names if name.startswith("y0"))
    low, high = result.profile(name, level=0.9).interval
    start, error = result.initial["a"][0], result.covariance.errors[result.covariance.names.index(name)]
    shape, seen = np.exp(-2 * TIMES), observed()[0].values[:, 0]
    left = seen - start * shape
    by_hand = 1.7709 * np.sqrt(left @ left / 13 / (shape @ shape))  # Student's, 13 degrees of freedom
    assert error > 0
    np.testing.assert_allclose([low, high], [start - by_hand, start + by_hand], rtol=2e-3)


def test_what_data_do_not_determine_has_no_end_or_a_bound() -> None:
    result = fit(Decay(product=True), observed(), steps=Grid(5), bounds={"factor": (0.5, np.inf)})
    low, high = result.profile("factor", points=5).interval
    assert high == np.inf
    assert low == 0.5


def test_what_is_refused() -> None:
    result = fit(Decay(), observed(), steps=Grid(2))
    with pytest.raises(ValueError, match="there is no 'q'; known are k, y0 of a: A"):
        result.profile("q")
    with pytest.raises(ValueError, match="level must"):
        result.profile("k", level=1.0)
    by_adam = fit(Decay(), observed(), optimizer="adam", iterations=2)
    with pytest.raises(ValueError, match="this fit has no covariance; it needs optimizer='lm'"):
        by_adam.profile("k")
