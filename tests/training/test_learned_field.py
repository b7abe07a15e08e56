"""How stiff a field is, against linear ones; costs of solves counted together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stiffml
from stiffml.stats import totals
from stiffml.training.comparing.learned_field import REACH, stiffness_along


def test_of_a_linear_field() -> None:
    matrix = torch.tensor([[-1.0, 1.0], [0.0, -1e3]], dtype=torch.float64)
    times = np.geomspace(1e-3, 2.0, 40)
    fast, steps = stiffness_along(lambda t, y: matrix @ y, times, np.ones((40, 2)))
    np.testing.assert_allclose([fast, steps], [1e3 * (2 - 1e-3), 1e3 * (2 - 1e-3) / REACH], rtol=1e-12)


@pytest.mark.parametrize(
    "mass", [torch.tensor([1.0, 0.1]).double(), torch.diag(torch.tensor([1.0, 0.0])).double()]
)
def test_with_a_mass_matrix(mass: torch.Tensor) -> None:
    """Of a singular one only the differential equations decay."""
    matrix = torch.diag(torch.tensor([-1.0, -1e3])).double()
    fast, _ = stiffness_along(lambda t, y: matrix @ y, np.linspace(0, 2, 5), np.ones((5, 2)), mass)
    np.testing.assert_allclose(fast, 2e4 if mass.ndim == 1 else 2.0, rtol=1e-6)


def test_what_cannot_be_known_is_nan() -> None:
    assert np.isnan(stiffness_along(lambda t, y: y * torch.nan, np.linspace(0, 1, 4), np.ones((4, 2)))[0])
    assert np.isnan(stiffness_along(lambda t, y: y, np.linspace(0, 1, 4), np.ones((4, 400)))[0])


@pytest.mark.parametrize("method", ["cn", "dopri5", "rosw-ra34pw2"])
@pytest.mark.parametrize("samples", [False, True])
def test_totals_are_the_sums_of_statistics(method: str, samples: bool) -> None:
    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    y0 = torch.ones(2, 1, dtype=torch.float64)
    times, more = (torch.stack([t, 2 * t]), {"batch_dims": 1}) if samples else (t, {})
    with totals() as outer, totals() as inner:
        first, second = (
            stiffml.solve(lambda t, y: -k * y, y0, times, method=method, **more) for _ in range(2)
        )
        first.y.sum().backward()
    assert inner == outer
    assert inner.rhs_evals == first.stats.rhs_evals + second.stats.rhs_evals + first.stats.adjoint.rhs_evals
    assert inner.accepted == first.stats.accepted + second.stats.accepted
    assert inner.rejected == first.stats.rejected + second.stats.rejected
    stiffml.solve(lambda t, y: -k * y, y0, times, method=method, **more)
    assert inner == outer, "what comes after the block does not count"
    assert inner.accepted == 2 * first.stats.accepted
