"""Unseen runs whose first state was measured with an error: where they start when a model is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decays import COMPONENTS, OTHER_TIMES, RATES, Chain, chain_runs, exact

from stiffml import Grid
from stiffml.training import Run, Runs, Whole, fit
from stiffml.training.starts import start_of

NOISE = {"A": 0.02, "B": 5e-5}
SIZES = np.array(list(NOISE.values()))
TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


def unseen(initial: Any, off: float = 0.1) -> Runs:
    """Exact but for the first observation of A."""
    values = exact(OTHER_TIMES, 2.0)
    values[0, 0] += off
    return Runs([Run("u", OTHER_TIMES, values)], COMPONENTS, noise=NOISE, initial=initial)


def test_the_start_is_fitted_with_the_model_held() -> None:
    """The solution is linear in y0, so that the minimum is that of linear least squares."""
    for initial in ({"A": "measured", "B": 0.0}, {"A": "learned", "B": 0.0}, "measured"):
        run = unseen(initial)[0]
        found = start_of(Chain(*RATES), run, SIZES, **TIGHT)
        of_a, of_b = exact(OTHER_TIMES, 1.0), exact(OTHER_TIMES, 0.0, 1.0)
        first = 0 if np.isinf(run.y0_noise[0]) else 1
        rows = [np.stack([of_a[first:], of_b[first:]], axis=-1) / SIZES[:, None]]
        right = [run.values[first:] / SIZES]
        if np.isinf(run.y0_noise[0]):  # B is known at the first row, whose observation does not count
            rows[0][0, 1] = right[0][0, 1] = 0.0
        matrix, observed = rows[0].reshape(-1, 2), right[0].ravel()
        prior = np.where(
            (run.y0_noise > 0) & np.isfinite(run.y0_noise), 1 / np.maximum(run.y0_noise, 1e-9), 0
        )
        free = np.flatnonzero(run.y0_noise > 0)
        matrix = np.concatenate([matrix, np.diag(prior)])[:, free]
        expected = np.linalg.lstsq(matrix, np.concatenate([observed, prior * run.y0]), rcond=None)[0]
        np.testing.assert_allclose(found[free], expected, rtol=1e-5, atol=1e-7)
        held = np.setdiff1d([0, 1], free)
        np.testing.assert_array_equal(found[held], run.y0[held])


def test_reports_are_of_the_model_not_of_one_observation() -> None:
    result = fit(Chain(*RATES), chain_runs(), strategy=Whole(), method="sdirk3", steps=Grid(20))
    known, measured = (result.report(unseen(initial)).mean for initial in ("known", "measured"))
    assert known > 10 * measured, "look at Result.resolved and stiffml/training/starts.py"


def test_where_no_solution_starts_the_observation_stays() -> None:
    class Exploding(Chain):
        def forward(self, t, y):
            return super().forward(t, y) + (y > 1.5) * y**2 * 1e9

    run = unseen("measured")[0]
    np.testing.assert_array_equal(start_of(Exploding(*RATES), run, SIZES, **TIGHT), run.y0)


def test_attempts_are_judged_from_fitted_starts() -> None:
    """One that starts from the noisy observation would never reach the target."""
    result = fit(
        Chain(*RATES),
        chain_runs(),
        validate=unseen("measured"),
        strategy=Whole(),
        method="sdirk3",
        steps=Grid(20),
        judged=5e-3,
    )
    assert result.outcome == "reached the target"
    assert result.attempts[0].judged == pytest.approx(result.report().mean, rel=1e-3)
