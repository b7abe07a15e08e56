"""Damped steps against dense least squares of all rows, for tall, square and wide matrices."""

from __future__ import annotations

import numpy as np
import pytest

from stiffml.training.lm.damped import DIAGONAL, Tall


@pytest.mark.parametrize("shape", [(30, 7), (9, 9), (8, 21), (1, 1), (1, 4), (40, 1)])
@pytest.mark.parametrize("damping", [1e-12, 1e-3, 10.0])
@pytest.mark.parametrize("held", [False, True])
def test_a_step_is_the_least_squares_of_all_rows(shape: tuple[int, int], damping: float, held: bool) -> None:
    """Columns of very different sizes, one of zeros; the first number may stand at a bound."""
    rng = np.random.default_rng(shape[0] + shape[1])
    matrix = rng.standard_normal(shape) * np.geomspace(1, 1e-5, shape[1])
    if shape[1] > 4:
        matrix[:, 3] = 0
    right = rng.standard_normal(shape[0])
    free = np.arange(1 if held else 0, shape[1])
    step, gain = Tall(matrix, right, free).step(damping)

    columns = matrix[:, free]
    squares = (columns**2).sum(axis=0)
    scale = np.sqrt(squares + DIAGONAL * squares.sum() + np.finfo(float).tiny)
    stacked = np.concatenate([columns / scale, np.sqrt(damping) * np.eye(len(free))])
    expected = np.linalg.lstsq(stacked, np.concatenate([-right, np.zeros(len(free))]), rcond=None)[0]
    assert step[np.setdiff1d(np.arange(shape[1]), free)].tolist() == [0.0] * (shape[1] - len(free))
    # Errors grow with the condition of the stacked rows, 1/√λ at most.
    np.testing.assert_allclose(step[free] * scale, expected, rtol=0, atol=1e-14 / np.sqrt(damping) + 1e-12)
    left = right + columns @ step[free]
    assert gain == pytest.approx(0.5 * (right @ right - left @ left), rel=1e-9, abs=1e-12)


def test_nothing_may_move() -> None:
    step, gain = Tall(np.ones((3, 2)), np.ones(3), np.arange(0)).step(1.0)
    assert step.tolist() == [0.0, 0.0]
    assert gain == 0.0
