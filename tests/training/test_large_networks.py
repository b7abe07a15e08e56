"""Fits of more parameters than residuals: adjoints in place of tangents, steps by a small system."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decays import Chain, chain_runs
from large_networks import Net, relaxing
from methods import NEWTON_WHOLE
from torch import nn

from stiffml import Grid, Newton
from stiffml.training import LevenbergMarquardt, fit
from stiffml.training.lm.damped import Tall, Wide
from stiffml.training.lm.intervals import shot
from stiffml.training.lm.one_by_one import OneByOne
from stiffml.training.lm.residuals import Residuals
from stiffml.training.lm.separately import changes

SCALE = np.array([0.5, 2e-3])


@pytest.mark.parametrize("prior", [0.0, 0.3])
@pytest.mark.parametrize("damping", [1e2, 1e-2, 1e-8])
def test_steps_of_a_small_system_are_those_of_the_large_one(prior: float, damping: float) -> None:
    generator = np.random.default_rng(0)
    matrix, right = generator.standard_normal((7, 20)) * generator.uniform(0.01, 10, 20), np.arange(7.0)
    away, weight = generator.standard_normal(20), prior * generator.uniform(0.5, 2, 20)
    weight[3] = 0.0
    free = np.delete(np.arange(20), [2, 11])
    held = np.flatnonzero(weight)
    rows = np.zeros((len(held), 20))
    rows[np.arange(len(held)), held] = weight[held]
    tall = Tall(np.concatenate([matrix, rows]), np.concatenate([right, (weight * away)[held]]), free)
    wide = Wide(matrix, right, weight, away, free)
    assert wide.steepest == pytest.approx(tall.steepest, rel=1e-10)
    (step, gain), (expected, expected_gain) = wide.step(damping), tall.step(damping)
    # The small matrix is 1 + K H⁻¹ Kᵀ, whose condition is 1/damping.
    np.testing.assert_allclose(step, expected, atol=1e-7 * np.abs(expected).max())
    assert gain == pytest.approx(expected_gain, rel=1e-8)
    assert not step[[2, 11]].any(), "numbers that are not free have moved"


@pytest.mark.parametrize("method", NEWTON_WHOLE)
@pytest.mark.parametrize("length", [3, 100])
def test_adjoints_are_tangents(method: str, length: int) -> None:
    """Intervals of runs at times of their own, also by an initial value that is learned."""
    runs = chain_runs().with_initial({"A": "learned"})
    options = {"method": method, "steps": Grid(2), "newton": Newton(rtol=1e-11)}
    residuals = Residuals(Chain(2.0, 300.0), runs, SCALE, options)
    theta, engine = residuals.vector.read(), residuals.engine
    problem = residuals.of(shot(runs, length))
    point = problem.begin(theta, None)
    starts = [residuals.change_of(interval) for interval in problem.intervals]
    with torch.no_grad():
        for group, segment in zip(point.solved.groups, point.solved.segments, strict=True):
            expected = engine._tangents(group, segment, starts)
            found = engine._adjoints(group, segment, starts)
            assert found.keys() == expected.keys()
            for number, values in expected.items():
                close = 1e-9 * np.abs(values).max()
                np.testing.assert_allclose(
                    found[number],
                    values,
                    atol=close,
                    err_msg=f"interval {number}: look at _adjoints in stiffml/training/lm/together.py",
                )


@pytest.mark.parametrize("by_start", [False, True])
def test_one_by_one_too(by_start: bool) -> None:
    """With more parameters than numbers of a run; one of them has no effect."""

    class Padded(Chain):
        def __init__(self) -> None:
            super().__init__(2.0, 300.0)
            self.unused = nn.Parameter(torch.zeros(40, dtype=torch.float64))

    runs = chain_runs()
    residuals = Residuals(Padded(), runs, SCALE, {"method": "bdf", "rtol": 1e-8, "atol": 1e-10})
    engine = OneByOne(residuals.arguments, residuals.vector.parameters)
    (one,) = engine._solutions([runs[0].times.copy()], [runs[0].y0.copy()])
    assert one.y.numel() < engine.count
    expected = changes(one, residuals.vector.parameters, 1, by_start)
    found = engine._changes(one, by_start)
    np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_a_network_of_thousands_of_weights(ridge: float) -> None:
    """With their cube a single step of the iteration would take minutes."""
    model = Net()
    count = sum(p.numel() for p in model.parameters())
    assert count > 3_900
    result = fit(model, relaxing(), target=3e-3, levenberg_marquardt=LevenbergMarquardt(ridge=ridge))
    assert result.error <= 3e-3
    assert result.history.sizes["iteration"] < 200
    assert result.covariance is None
    assert "covariance" not in str(result)
