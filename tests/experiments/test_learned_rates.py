"""Rates that fields and stiff equations have, as the experiments find them in data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torchdiffeq")

from problems import load
from stiffml.experiments.implicit_explicit import decays
from stiffml.experiments.reaction_diffusion.matching import SIMPSON, match_rates, sums
from stiffml.experiments.reaction_diffusion.model import RATE, Model
from stiffml.experiments.robertson import observations

POINTS, SPACING = 16, 1.0


@pytest.fixture(scope="module")
def snapshots() -> Tensor:
    times = SPACING * torch.arange(12, dtype=torch.float64)
    y = load("gray_scott", size=POINTS).solve(times, method="bdf3", rtol=1e-9, atol=1e-11).y
    assert isinstance(y, Tensor)
    return y.detach()


def test_sums_of_rates_are_those_of_the_reaction(snapshots: Tensor) -> None:
    """u v² and the feed, from three states each, to the error of Simpson's rule."""
    problem = load("gray_scott", size=POINTS)
    feed, kill = (problem.parameters[name].value for name in ("gamma", "kappa"))
    model = Model(POINTS)
    states, rates = sums(model, snapshots, SPACING)
    u, v = (states * model.typical).unbind(-1)
    exact = torch.stack([feed * (1 - u) - u * v**2, u * v**2 - (feed + kill) * v], dim=-1) / RATE
    expected = torch.einsum("psc,s->pc", exact, torch.tensor(SIMPSON, dtype=torch.float64))
    assert (rates - expected).abs().max() < 1e-4 * expected.abs().max()


def test_matching_brings_the_network_to_these_rates(snapshots: Tensor) -> None:
    found = [match_rates(Model(POINTS), snapshots, SPACING, iterations) for iterations in (0, 5, 40)]
    assert found[0] > 0.5
    assert found[2] < found[1] < found[0]
    assert found[2] < 0.02


def test_the_fastest_decay() -> None:
    matrix = torch.diag(torch.tensor([-1.0, -100.0, 3.0], dtype=torch.float64))
    times, states = torch.zeros(2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    np.testing.assert_allclose(decays.decays(lambda t, y: matrix @ y, times, states), [100.0, 100.0])


def test_what_is_left_of_the_transient() -> None:
    data = observations()
    found = decays.along_the_data(lambda t, y: -7.0 * y, data)
    np.testing.assert_allclose(found["decay"], 7.0)
    left, peak = found["left"].values, data.y[:, 1].argmax()
    assert left[0] == 1.0
    assert (np.diff(left[: peak + 1]) < 0).all()
    assert (left[peak:] == 0).all()
    own = found["decay_own"].sel(observation=1.0, method="nearest")
    assert 2170 < float(own) < 2190
