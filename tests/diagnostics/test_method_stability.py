"""Stability of methods, against the literature and against the steps that are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods import WHOLE

from stiffml import METHODS, Grid, solve
from stiffml.diagnostics.methods import size_of, stability, stiff_order, suits

ANGLES = {"bdf3": 86.03, "bdf4": 73.35, "bdf5": 51.84, "bdf6": 17.84, "rosw-grk4t": 89.3}
"""Hairer & Wanner II, table V.2.1, and table IV.7.2 for GRK4T."""

L_STABLE = ("beuler", "bdf2", "sdirk3", "rosw-ra34pw2", "rosw-rodas3", "arkimex-ars443", "arkimex-l2")
A_STABLE = ("cn", "theta", "rosw-ra3pw", "dirk-s212")
REAL_LIMITS = {"euler": 2.0, "midpoint": 2.0, "rk4": 2.785, "dopri5": 3.31}


@pytest.mark.parametrize("name", ANGLES)
def test_angles(name: str) -> None:
    assert stability(name).angle == pytest.approx(ANGLES[name], abs=0.3)


def test_kinds() -> None:
    assert {name: stability(name).kind for name in L_STABLE} == dict.fromkeys(L_STABLE, "L")
    assert {name: stability(name).kind for name in A_STABLE} == dict.fromkeys(A_STABLE, "A")
    assert all(stability(name).at_infinity == 0 for name in ("bdf", "bdf6"))
    assert stability("theta").at_infinity == pytest.approx(0.45 / 0.55, abs=1e-4)


@pytest.mark.parametrize("name", REAL_LIMITS)
def test_real_limits(name: str) -> None:
    assert stability(name).real_limit == pytest.approx(REAL_LIMITS[name], rel=0.01)
    assert f"{REAL_LIMITS[name]:.1f}"[:1] in suits(name)[0]


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith("bdf")])
def test_stability_functions_are_those_of_steps(name: str) -> None:
    z = np.array([-0.3, -2.5, -40.0])
    rates = torch.from_numpy(z)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    found = solve(lambda t, y: rates * y, ones, t, method=name, steps=Grid(1))
    np.testing.assert_allclose(np.abs(found.y[-1].numpy()), size_of(METHODS[name], z), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "accurate", "order"),
    [
        ("rosw-rodaspr2", True, 4),
        ("rosw-grk4t", False, 2),
        ("sdirk3", True, 1),
        ("bdf3", True, 3),
        ("cn", True, 2),
    ],
)
def test_stiff_order_and_accuracy(name: str, accurate: bool, order: float) -> None:
    """As docs/orders.md has them, which is measured at a rate a hundred times larger."""
    assert stability(name).stiffly_accurate == accurate
    assert stiff_order(name) == pytest.approx(order, abs=0.5)


def test_explicit_methods_have_no_stiff_order() -> None:
    assert stiff_order("dopri5") is None
    assert stability("dopri5").kind == "explicit"
    with pytest.raises(ValueError, match="unknown name"):
        stability("bdf9")
