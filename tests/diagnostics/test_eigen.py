"""Eigenvalues and modes of one block, with and without a mass matrix, and what kinds of modes there are."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from stiffml.diagnostics.eigen import KINDS, invariants_of, kind_of, modes_of

J = np.array([[-3.0, 1.0, 0.2], [0.5, -40.0, 1.0], [0.3, -0.7, -0.2]])
MASSES = {
    "identity": None,
    "dense": np.array([[2.0, 0.3, 0.0], [0.1, 1.0, 0.2], [0.0, 0.4, 3.0]]),
    "singular": np.diag([1.0, 2.0, 0.0]),
    "singular, rotated": np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 2.0, 1.0]]),
}


@pytest.mark.parametrize("name", MASSES)
def test_modes_solve_the_generalised_problem(name: str) -> None:
    mass = MASSES[name]
    modes = modes_of(J, mass)
    M = np.eye(3) if mass is None else mass
    finite = modes.values[: modes.finite]
    expected = scipy.linalg.eigvals(J, M)
    expected = np.sort_complex(expected[np.abs(expected) < 1e9])
    np.testing.assert_allclose(np.sort_complex(finite), expected, rtol=1e-10)
    np.testing.assert_allclose(J @ modes.right, M @ modes.right * finite, atol=1e-11)
    np.testing.assert_allclose(modes.left.T @ J, (modes.left.T @ M) * finite[:, None], atol=1e-10)
    np.testing.assert_allclose(modes.left.T @ M @ modes.right, np.eye(modes.finite), atol=1e-11)
    assert np.isinf(modes.values[modes.finite :]).all()
    assert len(modes.values) - modes.finite == 3 - np.linalg.matrix_rank(M)


def test_participation_does_not_depend_on_units() -> None:
    units = np.diag([1.0, 1e6, 1e-4])
    shares = modes_of(J).participation()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(modes_of(units @ J @ np.linalg.inv(units)).participation(), shares, rtol=1e-9)
    assert shares[0, 1] > 0.98, "the fast mode is that of the second component"


def test_complex_pairs_are_normalised_too() -> None:
    turning = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    modes = modes_of(turning)
    np.testing.assert_allclose(modes.values, [-0.1 - 2j, -0.1 + 2j], rtol=1e-12)
    np.testing.assert_allclose(modes.left.T @ modes.right, np.eye(2), atol=1e-13)


def test_a_high_index_is_refused() -> None:
    with pytest.raises(ValueError, match="index above 1"):
        modes_of(np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, 0.0]))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.inf + 0j, "infinite"),
        (1e-20 + 0j, "zero"),
        (-9.0 + 0j, "slow"),
        (-11.0 + 0j, "fast decay"),
        (-0.1 + 0.7j, "oscillation"),
        (-0.1 - 0.7j, "oscillation"),
        (-0.1 + 0.6j, "slow"),
        (-20.0 + 7j, "fast decay"),
        (0.2 + 0j, "growth"),
        (0.05 + 0j, "slow"),
        (0.2 + 3j, "oscillation"),
    ],
)
def test_kinds_are_by_the_span(value: complex, kind: str) -> None:
    assert KINDS[int(kind_of(np.array(value), span=10.0, rounding=1e-15))] == kind


def test_invariants_are_found() -> None:
    """Of A → B → C with D + E constant; the sum of the first three, and D + 2 E."""
    stoichiometry = np.array([[-1, 0, 0], [1, -1, 0], [0, 1, 0], [0, 0, -2], [0, 0, 1.0]])
    rates = np.random.default_rng(0).uniform(0, 1, (4, 3, 5)) * 10.0 ** np.array([0, 5, -3, 0, 2])
    jacobians = stoichiometry @ rates
    slopes = np.random.default_rng(1).uniform(0, 1, (4, 3)) @ stoichiometry.T
    rows = invariants_of(jacobians, slopes)
    assert len(rows) == 2
    np.testing.assert_allclose(rows @ stoichiometry, 0, atol=1e-7)
    for known in ([1, 1, 1, 0, 0], [0, 0, 0, 1, 2.0]):
        combined = np.linalg.lstsq(rows.T, np.array(known), rcond=None)
        np.testing.assert_allclose(rows.T @ combined[0], known, atol=1e-7)
    assert len(invariants_of(jacobians, slopes + 1.0)) < 2, "a sum that grows steadily is not conserved"
