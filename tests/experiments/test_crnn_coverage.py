"""Intervals are tried on the true reactions, from constants that are off."""

from __future__ import annotations

import pytest
import torch

from stiffml.closures import CRNN
from stiffml.experiments.crnn.coverage import covered, fitted
from stiffml.experiments.crnn.sets import EVERY, Size, constants

SMALL = Size(runs=4, robertson=4, points=20, iterations=20)


@pytest.mark.parametrize("name", EVERY)
def test_constants_are_fitted_with_the_true_reactions(name: str) -> None:
    case = EVERY[name]
    result, _ = fitted(case, SMALL, 201)
    if isinstance(result.model, CRNN):
        found = result.model.stoichiometry.detach()[:, : len(case.species)]
        assert torch.equal(found, torch.tensor(case.stoichiometry, dtype=torch.float64))
    assert result.covariance is not None
    assert len(result.covariance.names) == len(constants(case)[1])


def test_an_interval_for_each_constant() -> None:
    case = EVERY["biodiesel"]
    held = covered(case, SMALL, 201)
    assert held.shape == constants(case)[1].shape
    assert held.dtype == bool
    assert held.sum() >= len(held) - 1
