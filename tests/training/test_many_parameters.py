"""Fits whose matrix of derivatives would not fit into memory: products of it, and steps from these."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decays import Chain, chain_runs
from large_networks import Net, relaxing
from methods import NEWTON_WHOLE

from stiffml import Grid, Newton
from stiffml.training import FullSpace, Whole, fit
from stiffml.training.lm import residuals as of_residuals
from stiffml.training.lm.damped import Tall, Wide
from stiffml.training.lm.intervals import shot
from stiffml.training.lm.residuals import Residuals
from stiffml.training.lm.subspace import MOST, PROBES, Subspace

SCALE = np.array([0.5, 2e-3])
EVERY_WAY = {
    **{method: {"method": method, "steps": Grid(2)} for method in NEWTON_WHOLE},
    "adaptive": {"method": "bdf", "rtol": 1e-8, "atol": 1e-10},
    "rosenbrock": {"method": "rosw-ra34pw2", "steps": Grid(2)},
}


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("length", [3, 100])
def test_products_are_those_of_the_matrix(way: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of runs at times of their own, also by an initial value that is learned."""
    runs, options = chain_runs().with_initial({"A": "learned"}), dict(EVERY_WAY[way])
    if way in NEWTON_WHOLE:
        options["newton"] = Newton(rtol=1e-11)
    model = Chain(2.0, 300.0)
    residuals = Residuals(model, runs, SCALE, options)
    point = residuals.of(shot(runs, length)).begin(residuals.vector.read(), None)
    assert point.products is None
    matrix = point.jacobian()
    monkeypatch.setattr(of_residuals, "ROOM", 10)
    many = Residuals(model, runs, SCALE, options)
    products = many.of(shot(runs, length)).begin(many.vector.read(), None).products
    assert products is not None
    generator = np.random.default_rng(0)
    v, w = generator.standard_normal(matrix.shape[1]), generator.standard_normal(matrix.shape[0])
    along, back = products.along(v), products.back(w)
    assert w @ along == pytest.approx(v @ back, rel=1e-9), "they are not of the same matrix"
    for found, expected in ((along, matrix @ v), (back, matrix.T @ w)):
        np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


class Matrix:
    """A matrix that counts its products."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix, self.count = matrix, 0

    def along(self, v: np.ndarray) -> np.ndarray:
        self.count += 1
        return self.matrix @ v

    def back(self, w: np.ndarray) -> np.ndarray:
        self.count += 1
        return self.matrix.T @ w


@pytest.mark.parametrize("prior", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(7, 20), (30, 20)])
@pytest.mark.parametrize("damping", [1e2, 1e-1, 1e-6])
def test_steps_of_a_whole_space_gain_as_much(shape: tuple[int, int], prior: float, damping: float) -> None:
    """The damping of columns is estimated, so steps are others, but none of them is worth less by much."""
    generator = np.random.default_rng(0)
    matrix, right = generator.standard_normal(shape), generator.standard_normal(shape[0])
    matrix *= generator.uniform(0.5, 2, shape[1])
    away, weight = generator.standard_normal(shape[1]), prior * generator.uniform(0.5, 2, shape[1])
    free, factors = np.delete(np.arange(shape[1]), [2, 11]), generator.uniform(0.5, 1, shape[0])
    scaled = factors[:, None] * matrix
    held = np.eye(shape[1]) * weight
    tall = Tall(np.concatenate([scaled, held]), np.concatenate([right, weight * away]), free)
    products = Matrix(matrix)
    space = Subspace(products, factors, right, weight, away, free, scaled.T @ right)
    step, gain = space.step(damping)
    assert not step[[2, 11]].any(), "numbers that are not free have moved"
    moved, held_away = right + scaled @ step, weight * (away + step)
    cost = 0.5 * (right @ right + (weight * away)[free] @ (weight * away)[free])
    left = 0.5 * (moved @ moved + held_away[free] @ held_away[free])
    assert gain == pytest.approx(cost - left, rel=1e-9), "the gain is not that of the step"
    assert gain >= 0.8 * tall.step(damping)[1] if damping < 1 else gain > 0
    asked = products.count
    space.step(100 * damping)
    assert products.count == asked, "a shorter step needs no further products"
    assert asked <= PROBES + 2 * MOST


def test_a_gain_of_nothing() -> None:
    zeros = np.zeros(4)
    space = Subspace(Matrix(np.ones((3, 4))), np.ones(3), np.zeros(3), zeros, zeros, np.arange(4), zeros)
    step, gain = space.step(1e-3)
    assert gain == 0.0
    assert not step.any()
    wide = Wide(np.ones((3, 4)), np.zeros(3), zeros, zeros, np.arange(4))
    assert wide.step(1e-3)[1] == 0.0


def test_states_as_unknowns_need_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_residuals, "ROOM", 10)
    with pytest.raises(ValueError, match=r"FullSpace needs a matrix .* take MultipleShooting\(\)"):
        fit(Net(), relaxing(), strategy=FullSpace())


def test_a_fit_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """As good as with the matrix, from the same start."""
    arguments = {"method": "cn", "steps": Grid(2), "strategy": Whole(), "attempts": 1}
    torch.manual_seed(0)
    monkeypatch.setattr(of_residuals, "ROOM", 10)
    result = fit(Net(), relaxing(), target=1e-3, **arguments)
    assert result.error <= 1e-3, f"{result}: look at training/lm/subspace.py"
