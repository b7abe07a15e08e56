"""Jacobians and eigenvalues of problems, by rows for a few components and by a batch for more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import problems
from problems import spectrum


@pytest.mark.parametrize("narrow", [0, 8])
def test_both_ways_have_the_same_jacobian(narrow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "NARROW", narrow)
    found = spectrum.jacobian(problems.load("robertson"), 0.0, np.array([1.0, 1e-5, 0.3]))
    slow, fast, back = 0.04, 3e7, 1e4
    wanted = [
        [-slow, back * 0.3, back * 1e-5],
        [slow, -back * 0.3 - 2 * fast * 1e-5, -back * 1e-5],
        [0, 2 * fast * 1e-5, 0],
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("narrow", [0, 8])
def test_rates_without_the_state_have_a_jacobian_of_zeros(
    narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectrum, "NARROW", narrow)
    forced = problems.Problem(
        "forced", lambda t, y, p: torch.stack([t.cos(), t.sin()]), np.zeros(2), (0.0, 1.0)
    )
    np.testing.assert_array_equal(forced.eigenvalues(0.5, np.zeros(2)), np.zeros(2))


def test_without_gradients_too() -> None:
    with torch.no_grad():
        found = problems.load("robertson").eigenvalues()
    np.testing.assert_allclose(found, [-0.04, 0, 0], atol=1e-12)
