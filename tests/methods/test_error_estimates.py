"""Error estimates that adapt steps: they see errors of linear problems and of algebraic equations."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from methods import ADAPTIVE, ADAPTIVE_ON_DAES, NOT_ADAPTIVE_ON_DAES

from stiffml import METHODS, Adaptive, Grid, Split, solve
from stiffml.methods.tableaux import ROSENBROCK

D = torch.float64


@pytest.mark.parametrize("name", ADAPTIVE)
def test_no_estimate_is_zero_on_a_linear_problem(name: str) -> None:
    """y' = λ y over λ t = −3, from a short step on: it must not be followed by too long ones."""
    decay, rtol = torch.tensor(-1.5, dtype=D), 1e-5
    func = Split(lambda t, y: decay * y, lambda t, y: 0 * y)
    if METHODS[name].exponential:  # what is linear and not in the linear part
        func = Split(lambda t, y: 0.5 * decay * y, lambda t, y: 0.5 * decay * y, linear=True)
    solution = solve(
        (lambda t, y: decay * y) if METHODS[name].whole else func,
        torch.ones(1, dtype=D),
        torch.tensor([0.0, 2.0], dtype=D),
        method=name,
        steps=Adaptive(initial=0.01),
        rtol=rtol,
        atol=rtol / 10,
    )
    # Each step is allowed the tolerance, and a decaying problem amplifies no error.
    away, steps = abs(solution.y[-1].item() - math.exp(-3)), solution.stats.accepted
    assert away < 3 * steps * rtol, (
        f"{name} is {away:.1e} away after {steps} steps: if its error estimate is zero on linear problems, "
        "adaptive in its row of METHODS must say so"
    )


def test_errors_of_bdf2_follow_the_tolerance() -> None:
    """All errors of its steps have one sign here, and there are many; y(4) is y = (t + 6)(t² − 4)."""

    def cubic(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (3 * t**2 + 12 * t - 4) * torch.ones_like(y)

    y0, t = torch.tensor([-120.0], dtype=D), torch.tensor([-8.0, 4.0], dtype=D)
    ratios = []
    for rtol in (1e-4, 1e-6, 1e-8):
        y = solve(cubic, y0, t, method="bdf2", rtol=rtol, atol=rtol).y
        ratios.append(abs(y[-1].item() / 120 - 1) / rtol)
    assert max(ratios) < 2 * min(ratios), f"errors over tolerances {ratios}: look at BDF.safety"
    assert max(ratios) < 10, f"errors over tolerances {ratios}: look at BDF.safety"


@pytest.mark.parametrize("name", [n for n, t in ROSENBROCK.items() if t.embedded is not None])
def test_stability_functions_of_both_results(name: str) -> None:
    """What ``estimates_linear`` says, from values of both stability functions; and both are consistent."""
    table = ROSENBROCK[name]
    assert table.embedded is not None
    assert table.embedded.sum() == pytest.approx(1, abs=1e-14), f"embedded weights of {name} in tableaux.json"

    def stability(z: float, b: np.ndarray) -> float:
        matrix = np.eye(table.stages) - z * (table.a + table.gamma)
        return float(1 + z * b @ np.linalg.solve(matrix, np.ones(table.stages)))

    distance = max(abs(stability(z, table.b) - stability(z, table.embedded)) for z in (-1.0, -7.0, -100.0))
    assert table.estimates_linear == (distance > 1e-9), f"{name}: |R − R̂| = {distance:.1e}"
    below = abs(stability(-1e-3, table.embedded) - math.exp(-1e-3))
    assert below < 5e-6, f"{name}: the embedded result is not of order 1, {below:.1e} away at z = -1e-3"


def algebraic(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    a, b, z = y.unbind(-1)
    slopes = -2 * a + z * b, 0.5 * torch.sin(t) - 1.5 * b * z
    return torch.stack([*slopes, 0.7 * a * b + 0.3 * torch.sin(2 * t) - torch.sinh(z)], -1)


START = torch.tensor([0.9, 0.6, math.asinh(0.7 * 0.54)], dtype=D)
MASS = torch.tensor([1.0, 1.0, 0.0], dtype=D)


@pytest.mark.parametrize("name", NOT_ADAPTIVE_ON_DAES)
def test_estimates_that_are_wrong_about_algebraic_equations_are_refused(name: str) -> None:
    t = torch.tensor([0.0, 1.0], dtype=D)
    with pytest.raises(ValueError, match="steps: mass is singular") as caught:
        solve(algebraic, START, t, method=name, mass=MASS)
    able = re.search(r"one of (.*)", str(caught.value))
    assert able is not None
    names = able[1].split(", ")
    assert "bdf3" in names, f"{names} do not have all that are able"
    assert name not in names, f"{name} refuses such problems and recommends itself"
    # Neither steps of given lengths are refused, nor a mass matrix that is not singular.
    solution = solve(algebraic, START, t, method=name, mass=MASS, steps=Grid(20))
    assert torch.isfinite(solution.y).all()
    solve(algebraic, START, t, method=name, mass=MASS + 1, rtol=1e-4)


@pytest.mark.parametrize("name", ADAPTIVE_ON_DAES)
def test_other_estimates_lead_to_the_end(name: str) -> None:
    """With tolerances at which those that are refused end in steps that are too short."""
    counts = []
    for rtol in (1e-3, 1e-5) if METHODS[name].order < 3 else (1e-5,):
        t = torch.tensor([0.0, 1.0], dtype=D)
        solution = solve(algebraic, START, t, method=name, mass=MASS, rtol=rtol, atol=rtol / 10)
        a, b, z = solution.y[-1].tolist()
        left = 0.7 * a * b + 0.3 * math.sin(2) - math.sinh(z)
        assert abs(left) < 20 * rtol, f"{name} leaves {left:.1e}: look at estimates_algebraic in tableaux.py"
        counts.append(solution.stats.accepted)
    # An estimate of the first order needs ten times as many steps for a hundredth of the tolerance.
    assert counts[-1] < 15 * counts[0], f"{name}: {counts} steps; look at damps_slopes in tableaux.py"


def test_which_estimates_are_wrong() -> None:
    """By hand: b̂ᵀ (A + Γ)ⁿ 1 is that of b for ra3pw; the Ros4 family leaves as much with both weights.

    And a2 is the trapezoidal rule, z₁' = 2 (z₁ − z₀)/h − z₀', whose slopes keep the error of the first.
    """
    assert METHODS["rosw-ra34pw2"].adaptive, "look at estimates_linear in tableaux.py"
    assert not METHODS["rosw-ra3pw"].adaptive, "look at estimates_linear in tableaux.py"
    families = {"rosw-grk4t", "rosw-shamp4", "rosw-veldd4", "rosw-4l", "arkimex-a2"}
    assert set(NOT_ADAPTIVE_ON_DAES) == families, (
        "look at estimates_algebraic and damps_slopes in tableaux.py"
    )
