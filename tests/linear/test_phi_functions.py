"""φ-functions of matrices: against many digits, against one large exponential, and their derivative."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from steps_by_hand import phi_by_expm

from stiffml.linear.dense.constant import ConstantJacobian
from stiffml.linear.dense.exponential import PhiMatrices
from stiffml.linear.dense.phi import phi_functions

EIGENVALUES = {
    "decay": [-1e6, -1e3, -1.0, -1e-9],
    "singular": [0.0, 0.0, -5.0, 3.0],
    "tiny": [1e-12, -1e-8, 1e-3, 1e-5],
    "rotation": [300j, -300j, -2 + 50j, -2 - 50j],
}


def exactly(z: complex, order: int) -> complex:
    with mpmath.workdps(80):
        if abs(z) < 1e-4:  # where even so many digits would cancel
            return complex(sum(mpmath.mpc(z) ** j / mpmath.factorial(j + order) for j in range(12)))
        found = mpmath.exp(mpmath.mpc(z))
        for k in range(order):
            found = (found - 1 / mpmath.factorial(k)) / mpmath.mpc(z)
        return complex(found)


def normal(values: list[complex]) -> np.ndarray:
    """A real normal matrix with these eigenvalues; those that are not real come in pairs."""
    blocks, at = np.zeros((len(values), len(values))), 0
    while at < len(values):
        a, b = complex(values[at]).real, complex(values[at]).imag
        if b:
            blocks[at : at + 2, at : at + 2] = [[a, b], [-b, a]]
        else:
            blocks[at, at] = a
        at += 2 if b else 1
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((len(values), len(values))))[0]
    return turn @ blocks @ turn.T


@pytest.mark.parametrize("kind", EIGENVALUES)
def test_against_many_digits(kind: str) -> None:
    """To the rounding of z itself, which changes its eigenvalues by 1e-16 |z|."""
    values = EIGENVALUES[kind]
    allowed = 3e-15 * max(1.0, float(np.abs(values).max()))
    found = phi_functions(torch.from_numpy(normal(values)), 3).numpy()
    for order in range(4):
        expected = normal([exactly(z, order) for z in values])
        off = np.abs(found[order] - expected).max() / max(1.0, np.abs(expected).max())
        assert off <= allowed, f"φ_{order} is off by {off:.1e}; look at linear/dense/phi.py"


@pytest.mark.parametrize("size", [0.1, 1.0, 7.0, 60.0])
def test_of_matrices_that_are_not_normal(size: float) -> None:
    z = size * np.random.default_rng(1).standard_normal((5, 5)) - 2 * size * np.eye(5)
    found = phi_functions(torch.from_numpy(z), 3).numpy()
    for order, expected in enumerate(phi_by_expm(z, 3)):
        np.testing.assert_allclose(found[order], expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_of_several_matrices_at_once() -> None:
    z = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 3, 4, 4))) * 3
    found = phi_functions(z, 2)
    assert found.shape == (3, 2, 3, 4, 4)
    torch.testing.assert_close(found[:, 1, 2], phi_functions(z[1, 2], 2), rtol=1e-12, atol=1e-12)


def test_their_derivative() -> None:
    z = np.random.default_rng(3).standard_normal((3, 3)) * 4 - 6 * np.eye(3)
    z = torch.from_numpy(z).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: phi_functions(z, 3), (z,), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [0.3, 1.5, 200.0])
def test_what_is_kept_does_not_matter(scale: float) -> None:
    """Those of a step size are made of those of half of it if these are there: the same to the last digit."""
    blocks = scale * np.random.default_rng(4).standard_normal((1, 6, 6))
    alone, after = (PhiMatrices(ConstantJacobian(1, lambda: blocks)) for _ in range(2))
    after.at(0.35)
    assert torch.equal(alone.at(0.7), after.at(0.7))
