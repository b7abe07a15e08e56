"""How the experiment crnn finds Robertson's reactions: candidates, their slopes, the search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from problems import load
from stiffml.experiments.crnn import robertson
from stiffml.experiments.crnn.cases import NOISE, solved
from stiffml.experiments.crnn.robertson import CANDIDATES, ROBERTSON, TRUE, Step


def states(count: int) -> np.ndarray:
    return ROBERTSON.starts(count, np.random.default_rng(0))


def test_candidates_are_all_steps_of_one_or_two_molecules() -> None:
    assert len(set(CANDIDATES)) == len(CANDIDATES) == 24
    assert set(TRUE) <= set(CANDIDATES)
    for step in CANDIDATES:
        assert step.lost in step.left
        assert step.change.sum() == 0


def test_the_true_reactions_are_robertsons() -> None:
    y, t = torch.from_numpy(states(5)), torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(ROBERTSON.rhs(t, y), load("robertson").func()(t, y), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("step", CANDIDATES, ids=str)
def test_slopes(step: Step) -> None:
    z = states(4) / robertson.SIZES
    for at in range(3):
        h = 1e-6 * z[:, at]
        above, below = z.copy(), z.copy()
        above[:, at] += h
        below[:, at] -= h
        difference = (step.rate(above) - step.rate(below)) / (2 * h)
        np.testing.assert_allclose(step.slopes(z)[:, at], difference, rtol=1e-6, atol=1e-9)


def test_the_fewest_steps() -> None:
    """B → C with C → A is B → A as far as the slower one goes; what goes back and forth goes away."""
    forth, back, on = (Step((1, 2), 1, 2), Step((1, 2), 2, 1), Step((1, 2), 2, 0))
    chosen = [CANDIDATES.index(one) for one in (forth, on)]
    found, k = robertson.shortest(chosen, np.array([2.0, 3.0]))
    rates = dict(zip((CANDIDATES[i] for i in found), k, strict=True))
    assert rates == {Step((1, 2), 1, 0): 2.0, on: 1.0}
    found, k = robertson.shortest([CANDIDATES.index(one) for one in (forth, back)], np.array([2.0, 3.0]))
    assert [CANDIDATES[i] for i in found] == [back]
    np.testing.assert_allclose(k, [1.0])


@pytest.mark.parametrize(("runs", "seed"), [(12, 1), (25, 4)])
def test_the_reactions_are_found(runs: int, seed: int) -> None:
    """Of runs with noise; constants of one step for each interval are rough."""
    times, exact = solved(ROBERTSON, runs, seed)
    noisy = exact * (1 + NOISE * np.random.default_rng(100 + seed).standard_normal(exact.shape))
    chosen, k = robertson.found_among_all(robertson.Matching(times, noisy), 3)
    assert {CANDIDATES[i] for i in chosen} == set(TRUE)
    units = [robertson.SIZES[list(CANDIDATES[i].left)].prod() for i in chosen]
    true = np.array([ROBERTSON.rates[TRUE.index(CANDIDATES[i])] for i in chosen])
    assert (np.abs(np.log(k / units / true)) < np.log(2.5)).all()
