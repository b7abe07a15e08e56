"""closure_for: what is missing is found, named and matched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import stiffml
from stiffml.closures import closure_for
from stiffml.training import Run, Runs

NAMES = ["A", "B", "C", "D"]
SUM = np.ones((1, 4))
TIMES = torch.linspace(0, 2, 41, dtype=torch.float64)


def rates(y: Tensor, k: float) -> Tensor:
    """A → B at 1, B + B → C at k, D does nothing."""
    a, b = y[..., 0], y[..., 1]
    return torch.stack([-a, a - 2 * k * b**2, 2 * k * b**2, 0 * a], dim=-1)


def whole(t: Tensor, y: Tensor) -> Tensor:
    return rates(y, 1.5)


def known(t: Tensor, y: Tensor) -> Tensor:
    return rates(y, 0.0)


def solved(func, y0: Tensor) -> Tensor:
    with torch.no_grad():
        return stiffml.odeint(func, y0, TIMES, method="bdf", rtol=1e-8, atol=1e-11).transpose(0, 1)


def starts(seed: int, count: int) -> Tensor:
    draws = np.random.default_rng(seed).uniform(0.5, 1.5, (count, 4)) * [1.0, 0.3, 0.1, 1.0]
    return torch.from_numpy(draws)


def data() -> Runs:
    y = solved(whole, starts(0, 6)).numpy()
    return Runs([Run(f"{i}", TIMES.numpy(), one) for i, one in enumerate(y)], NAMES, initial="known")


@pytest.mark.parametrize("network", [(), (4,)])
def test_the_missing_reaction_is_found(network: tuple[int, ...]) -> None:
    """The rate is of second order: powers hold it exactly, but for the trapezoidal rule of the matching."""
    model = closure_for(known, data(), network, conserve=SUM)
    assert model.where == ("B", "C")
    assert model.reactions == ("B <=> C",)
    y0 = starts(1, 4)
    truth, lacking, found = (solved(func, y0) for func in (whole, known, model))
    ranges = truth.amax(dim=(0, 1)) - truth.amin(dim=(0, 1))
    off, without = (((y - truth).abs()[..., 1:3] / ranges[1:3]).max() for y in (found, lacking))
    assert without > 0.3
    assert off < 0.02
    sums = found.sum(dim=-1)
    assert ((sums - sums[:, :1]).abs() < 1e-12 * sums).all()


def test_components_may_be_named() -> None:
    model = closure_for(known, data(), where=["A", 1, "C"], conserve=SUM, ridges=(1.0,))
    assert model.where == ("A", "B", "C")


def test_nothing_missing_is_said() -> None:
    still = Runs([Run("still", np.arange(5.0), np.ones((5, 2)))], ["A", "B"])
    with pytest.raises(ValueError, match="the data show nothing that known lacks"):
        closure_for(lambda t, y: torch.zeros_like(y), still)
    with pytest.raises(ValueError, match="missing_rate finds no scale"):
        closure_for(lambda t, y: torch.zeros_like(y), still, where=["A"])
