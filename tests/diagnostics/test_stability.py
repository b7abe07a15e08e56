"""What steps make of y' = λ y, against formulas, against solves, and against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods import WHOLE
from small_problems import times

from stiffml import METHODS, Grid, Newton, solve
from stiffml.diagnostics.stability import Factors, explicit_limit, factors_of

Z = np.array([-0.01, -0.7, -3.0, -200.0, -1e6, 0.3, 1e-9])
COMPLEX = np.concatenate([Z, 1j * Z, (1 + 2j) * Z])


def factors(method: str, z: np.ndarray, steps: int = 1) -> Factors:
    """Of the last step, after ``steps`` of size 0.5, for z = hλ. BDF begins with shorter ones."""
    t = 0.5 * torch.arange(steps + 1, dtype=torch.float64)
    sol = solve(lambda t, y: -y, torch.ones(1, dtype=torch.float64), t, method=method, steps=Grid())
    tape = sol.pieces[0].tape
    (segment,) = tape.checkpoints.forwards(tape.replay, tape.replay.trajectory.n_steps, 1000)
    block = tape.replay.equations(segment).blocks[-1]
    found = factors_of(block, np.broadcast_to(z / 0.5, (block.steps, len(z))))
    return Factors(found.amplification[-1], found.derivative[-1], found.forced[-1])


FORMULAS = {
    "beuler": (lambda z: 1 / (1 - z), lambda z: 1 / (1 - z) ** 2),
    "cn": (lambda z: (1 + z / 2) / (1 - z / 2), lambda z: 1 / (1 - z / 2) ** 2),
    "rk4": (
        lambda z: 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24,
        lambda z: 1 + z + z**2 / 2 + z**3 / 6,
    ),
    "sdirk3": (
        lambda z: alexander(z),
        lambda z: (alexander(z * (1 + 1e-6)) - alexander(z * (1 - 1e-6))) / (2e-6 * z),
    ),
}


def alexander(z: np.ndarray) -> np.ndarray:
    """Of the stiffly accurate SDIRK method of order 3; Hairer & Wanner II, section IV.6."""
    g = 0.43586652150845899942
    numerator = 1 + (1 - 3 * g) * z + (0.5 - 3 * g + 3 * g**2) * z**2
    return numerator / (1 - g * z) ** 3


@pytest.mark.parametrize("method", FORMULAS)
def test_stability_functions(method: str) -> None:
    function, derivative = FORMULAS[method]
    found = factors(method, COMPLEX)
    np.testing.assert_allclose(found.amplification, function(COMPLEX), rtol=1e-11)
    np.testing.assert_allclose(found.forced, 1 - function(COMPLEX), rtol=1e-9, atol=1e-15)
    rough = 1e-6 if method == "sdirk3" else 1e-9  # of the differences; of what cancels at z = -1e6
    size = np.abs(COMPLEX)
    moderate = (size > 1e-3) & (size < 1e3) if method == "sdirk3" else size > 0
    np.testing.assert_allclose(found.derivative[moderate], derivative(COMPLEX)[moderate], rtol=rough)


@pytest.mark.parametrize("method", [name for name in WHOLE if "bdf" not in name])
def test_one_step_of_a_solve(method: str) -> None:
    """The new state of a step from 1 is R(z), and its derivative by λ is h R'."""
    z, h = np.array([-1.3]), 0.5
    rate = torch.tensor(z[0] / h, dtype=torch.float64, requires_grad=True)
    tight = {"newton": Newton(rtol=1e-13, atol=1e-15)} if METHODS[method].newton else {}
    y0 = torch.ones(1, dtype=torch.float64)
    sol = solve(lambda t, y: rate * y, y0, times(0, h), method=method, steps=Grid(), params=[rate], **tight)
    found = factors(method, z)
    assert float(sol.y[-1]) == pytest.approx(found.amplification[0].real, rel=1e-11)
    (slope,) = torch.autograd.grad(sol.y[-1].sum(), rate)
    assert float(slope) == pytest.approx(h * found.derivative[0].real, rel=1e-9)


@pytest.mark.parametrize(
    ("order", "coefficients"),
    [(2, [3 / 2, -2, 1 / 2]), (3, [11 / 6, -3, 3 / 2, -1 / 3]), (4, [25 / 12, -4, 3, -4 / 3, 1 / 4])],
)
def test_bdf_has_the_largest_root(order: int, coefficients: list[float]) -> None:
    z = np.array([-0.1, -2.0, -300.0])
    expected = []
    for one in z:
        roots = np.roots([coefficients[0] - one, *coefficients[1:]])
        expected.append(np.abs(roots).max())
    found = factors(f"bdf{order}", z, steps=8)
    np.testing.assert_allclose(np.abs(found.amplification), expected, rtol=1e-9)
    # d/dz of the root near 1, where roots are apart, by differences.
    near = np.array([-0.1 - 1e-6, -0.1 + 1e-6])
    low, high = factors(f"bdf{order}", near, steps=8).amplification
    assert found.derivative[0].real == pytest.approx((high - low).real / 2e-6, rel=1e-6)
    assert found.forced[-1].real == pytest.approx(1, abs=0.02), "a skipped mode takes its steady state"


@pytest.mark.parametrize("method", [name for name in WHOLE if METHODS[name].implicit])
def test_sensitivity_to_fast_rates_is_lost(method: str) -> None:
    """R'(z) → 0, at best like 1/z: Fronk & Petzold, arXiv:2508.01519."""
    found = np.abs(factors(method, np.array([-1e3, -1e5]), steps=8).derivative)
    assert found[1] < 3e-2 * found[0] < 3e-2


def test_the_longest_stable_step() -> None:
    found = explicit_limit(np.array([-1.0 + 0j, -1e4 + 0j, 0j, 2.0 + 0j]))
    assert found[0] == pytest.approx(3.307, abs=0.005), "Hairer & Wanner: the interval of dopri5 is 3.3"
    assert found[1] == pytest.approx(found[0] / 1e4)
    assert np.isinf(found[2])
    turning = explicit_limit(np.array([-0.1 + 3j]))[0] * (-0.1 + 3j)
    assert abs(factors("dopri5", np.array([0.99 * turning])).amplification[0]) < 1
    assert abs(factors("dopri5", np.array([1.05 * turning])).amplification[0]) > 1
