"""Weights that require no gradient stay as they are when rates are matched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stiffml.closures import Closure, Linear, match_rates
from stiffml.training import Run, Runs, fit

T = np.linspace(0, 1, 20)
RUNS = Runs(
    [Run(name, T, a * np.exp(-3 * T)[:, None]) for name, a in (("a", 1.0), ("b", 0.5))],
    ["A"],
    initial="known",
)


def network(frozen: int) -> nn.Sequential:
    """Two layers, of which one is frozen."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    for parameter in made[frozen].parameters():
        parameter.requires_grad_(False)
    return made


@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("way", ["match_rates", "prepare", "fit"])
def test_frozen_weights_stay(frozen: int, way: str) -> None:
    net = network(frozen)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    sizes = {"typical": [1.0], "scale": [1.0], "components": ["A"]} if way == "match_rates" else {}
    model = Closure(lambda t, y: -y, net, head=Linear(), where=["A"], **({"scale": [1.0]} | sizes))
    if way == "match_rates":
        match_rates(model, RUNS)
    elif way == "prepare":
        model.prepare(RUNS)
    else:
        fit(model, RUNS, max_seconds=5)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) == (not p.requires_grad), name


def test_all_weights_frozen_is_refused() -> None:
    net = network(0).requires_grad_(False)
    model = Closure(lambda t, y: -y, net, typical=[1.0], components=["A"])
    with pytest.raises(ValueError, match="no parameter of the network requires a gradient"):
        match_rates(model, RUNS)
