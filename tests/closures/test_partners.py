"""Where a closure acts: what is missing in a part of a run, contents of sums, partners, what follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stiffml.closures import Closure, Linear, Reactions, missing_rate
from stiffml.closures.missing import MissingRate
from stiffml.closures.partners import Balance, hidden_partners, moves
from stiffml.closures.preparing import sizes_of
from stiffml.training import Run, Runs

NOW = torch.zeros((), dtype=torch.float64)


class Heated(torch.nn.Module):
    """A, B and a temperature that rises by 100 for each A that is lost."""

    dependent = ("T",)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def follow(self, t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
        return torch.cat([-100 * rates[..., 1:2], rates[..., 1:]], dim=-1)


def burning() -> Runs:
    """A decays from 1 to B at 2; T follows."""
    t = np.linspace(0, 2, 41)
    a = np.exp(-2 * t)
    return Runs(
        [Run("a", t, np.stack([300 + 100 * (1 - a), a, 1 - a], axis=1))], ["T", "A", "B"], initial="known"
    )


def test_a_temperature_follows_from_what_is_learned() -> None:
    """It lacks a hundred times as much as the species, but is named only where it is asked for."""
    model = Closure(Heated(), conserve=[[0.0, 1.0, 1.0]])
    model.prepare(burning())
    assert model.where == ("A", "B")
    assert model.features.count == 3  # it is shown T too
    y = torch.tensor([[320.0, 0.8, 0.2], [350.0, 0.5, 0.5]], dtype=torch.float64)
    rates = model(NOW, y)
    torch.testing.assert_close(rates[:, 1], -2 * y[:, 1], rtol=0.02, atol=0.0)
    torch.testing.assert_close(rates[:, 0], -100 * rates[:, 1], rtol=1e-14, atol=0.0)
    assert (rates[:, 1] + rates[:, 2] == 0).all()


def test_where_it_is_named_it_is_learned_like_any_other() -> None:
    asked = Closure(Heated(), typical=np.ones(3), components=["T", "A", "B"], where=["T", "A"], head=Linear())
    rates = asked(NOW, torch.tensor([1.0, 0.5, 0.2]).double())
    assert rates[0] != -100 * rates[1]
    assert rates[2] == 0
    plain = Closure(Heated(), typical=np.ones(3), components=["T", "A", "B"], head=Linear())
    assert plain.where == ("A", "B")
    with pytest.raises(
        ValueError, match="components: T, which follows from others in known, is not among y1"
    ):
        Closure(Heated(), typical=np.ones(3))


def test_what_is_missing_in_a_part_of_a_run() -> None:
    """A rate of 5 for a tenth of the time; before it, errors of 1e-9 hide what is 0, after it, of 1e6 all."""
    t = np.concatenate([np.linspace(0, 1, 120), np.linspace(1, 1.1, 40)[1:], np.linspace(1.1, 2, 60)[1:]])
    grown = np.exp(20 * (t - 1)) / 20
    missing = 5 * np.clip(t - 1, 0, 0.1)
    runs = Runs([Run("a", t, np.stack([grown + missing, grown], axis=1))], ["A", "B"])

    def known(t: Tensor, y: Tensor) -> Tensor:
        return torch.exp(20 * (t - 1))[..., None] * torch.ones_like(y)

    found = missing_rate(known, runs)
    assert found.where == ("A",)
    assert float(found.scale[0]) == pytest.approx(5, rel=0.05)
    nothing = missing_rate(known, Runs([Run("a", t, np.stack([grown, grown], axis=1))], ["A", "B"]))
    assert nothing.where == ()


ATOMS = np.array([[1.0, 0.0, 2.0, 2.0], [0.0, 1.0, 1.0, 2.0]])
"""Of H, O, water and peroxide: hydrogen and oxygen."""


def lacking(extent: np.ndarray, errors: list[float], draws: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rates of 2 H + O -> water at (40,) extents, with errors of each component."""
    noise = np.random.default_rng(draws).standard_normal((len(extent), 4)) * errors
    return extent[:, None] * [-2.0, -1.0, 1.0, 0.0] + noise, np.ones_like(noise) * errors


def test_those_are_taken_with_which_rates_balance() -> None:
    """Only water shows. Peroxide could not make it, nor could H alone."""
    extent, content = np.linspace(0.1, 1, 40), np.ones(4)
    d, e = lacking(extent, [1.0, 1.0, 1e-3, 1e-3])
    balance = Balance(d, e, ATOMS, content)
    assert balance.partners([2]) == [0, 1]
    assert not moves(ATOMS, [2]).any()
    assert moves(ATOMS, [0, 1, 2]).all()


def test_what_the_others_explain_is_left_out() -> None:
    extent = np.linspace(0.1, 1, 40)
    d, e = lacking(extent, [1e-3, 1e-3, 1e-3, 1e-2])
    assert Balance(d, e, ATOMS, np.ones(4)).needed([0, 1, 2, 3]) == [0, 1, 2]


def test_partners_that_errors_hide_are_those_of_its_sums() -> None:
    found = MissingRate(
        ("H", "O", "W", "P", "N"), torch.tensor([0.0, 0, 1, 0, 0]), torch.tensor([2.0, 2, 0.1, 0.1, 9])
    )
    rows = np.concatenate([ATOMS, np.zeros((2, 1))], axis=1)
    assert hidden_partners(found, [2], rows, np.ones(5)) == [0, 1]


def test_components_count_by_what_they_hold() -> None:
    """By mass H is a thirty-fourth of OH + OH, which is less than a twentieth; by atoms it is a half."""
    t = np.linspace(0, 1, 30)
    weights = np.array([1.0, 33.0, 17.0])
    moles = np.stack([2 - t, 2 - t, 2 * t], axis=1)
    runs = Runs([Run("a", t, moles * weights)], ["H", "HO2", "OH"])
    rows = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]]) / weights
    assert sizes_of(None, runs, None, None, rows).where == (0, 1, 2)
    model = Closure(None, conserve=rows, head=Reactions())
    model.prepare(runs)
    assert model.reactions == ("H + 33 HO2 <=> 34 OH",)
