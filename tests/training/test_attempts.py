"""Attempts of a fit: which are given up for others, which is taken up again, and what the model has then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decays import RATES, Chain, Interrupt, chain_runs
from torch import Tensor, nn

from stiffml import Grid
from stiffml.training import LevenbergMarquardt, Whole, fit
from stiffml.training.lm import pace
from stiffml.training.lm.pace import projected, too_slow

HOPELESS = 1e-12
"""A target that no attempt comes to in time."""


def begun(seed: int) -> Chain:
    """Nearer to the rates with attempt 1 than with the others."""
    return Chain(*(k * (0.5 if seed == 1000 else 0.01) for k in RATES))


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are looked at after four iterations, and after every second one."""
    monkeypatch.setattr(pace, "FIRST", 4)
    monkeypatch.setattr(pace, "EVERY", 2)


def slow_fit(**more: Any):
    options = {
        "strategy": Whole(last=30, last_tolerance=0.0),
        "steps": Grid(20),
        "levenberg_marquardt": LevenbergMarquardt(damping=1e2, shrink=1.2),
        "attempts": 3,
        "target": HOPELESS,
    }
    return fit(begun, chain_runs(), **{**options, **more})


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.1])
def test_a_steady_pace_goes_on(ratio: float) -> None:
    errors = [3.0 * ratio**n for n in range(121)]
    assert projected(errors, 300) == pytest.approx(3.0 * ratio**300, rel=1e-9)


def test_errors_without_a_pace_are_not_judged() -> None:
    assert projected([1.0], 300) == 0
    assert projected([1.0, 0.0, 0.0], 300) == 0


def test_attempts_are_looked_at_now_and_then() -> None:
    looked = [n for n in range(300) if too_slow([1.0] * (n + 1), 1e-5, 300)]
    assert looked == [100, 150, 200, 250]
    assert not any(too_slow([0.9**k for k in range(n + 1)], 1e-5, 300) for n in range(300))


@pytest.mark.usefixtures("early")
def test_an_attempt_that_is_too_slow_makes_room_and_the_best_goes_on() -> None:
    result = slow_fit()
    assert [attempt.given_up for attempt in result.attempts] == [True, False, False]
    history = result.history
    numbers = history["attempt"].values
    assert np.all(np.diff(numbers[numbers != 1]) >= 0)
    assert numbers[-1] == 1, "the best attempt goes on at the end"
    again = np.flatnonzero(np.diff(numbers) < 0)
    assert len(again) == 1
    first = history["error"].values[: again[0] + 1][numbers[: again[0] + 1] == 1]
    rest = history["error"].values[again[0] + 1 :]
    assert rest[0] < first[-1], "it goes on from where it was, not from its beginning"
    assert len(rest) == 30
    assert result.error == pytest.approx(rest[-1])
    assert result.error == min(attempt.error for attempt in result.attempts)
    np.testing.assert_allclose(result.model.rates, RATES, rtol=0.2)
    assert "after 3 attempts" in result.outcome


@pytest.mark.usefixtures("early")
def test_the_last_attempt_and_fits_without_a_target_are_not_given_up() -> None:
    alone = slow_fit(attempts=1)
    assert not alone.attempts[0].given_up
    assert alone.history.sizes["iteration"] == 31
    judged = slow_fit(target=0.0, judged=HOPELESS, attempts=2)
    assert not any(attempt.given_up for attempt in judged.attempts)


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("after", [3, 11, 25])
def test_a_fit_that_is_killed_gives_up_the_same(after: int, tmp_path: Path) -> None:
    """In the first attempt, in the last one, and in the one that is taken up."""
    whole = slow_fit(folder=tmp_path / "whole", save_every=2)
    with pytest.raises(KeyboardInterrupt):
        slow_fit(folder=tmp_path / "parts", save_every=2, report=Interrupt(after))
    parts = slow_fit(folder=tmp_path / "parts", save_every=2, resume=True)
    assert torch.equal(whole.model.logs, parts.model.logs), "look at Climb.state_dict"
    np.testing.assert_array_equal(whole.history["error"], parts.history["error"])
    assert whole.attempts == parts.attempts


class Scaled(nn.Module):
    """A chain whose rates have a factor that is no parameter, another one with each seed."""

    def __init__(self, seed: int, persistent: bool) -> None:
        super().__init__()
        self.chain = Chain(RATES[0] * 0.5 ** (2 if seed else 1), RATES[1])
        self.register_buffer("factor", torch.tensor(1.0 + 0.5 * (seed // 1000)).double(), persistent)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.factor * self.chain(t, y)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("after", [None, 2, 4])
def test_the_model_has_the_buffers_of_its_attempt(
    after: int | None, persistent: bool, tmp_path: Path
) -> None:
    """Attempt 0 is the best; the fit goes on in attempt 1 after it was killed there."""

    def made(resume: bool = False, **more: Any):
        return fit(
            lambda seed: Scaled(seed, persistent),
            chain_runs(),
            strategy=Whole(last=2),
            steps=Grid(20),
            attempts=3,
            target=HOPELESS,
            folder=tmp_path / "fit",
            save_every=1,
            resume=resume,
            **more,
        )

    if after is not None:
        with pytest.raises(KeyboardInterrupt):
            made(report=Interrupt(after))
    result = made(resume=after is not None)
    best = min(result.attempts, key=lambda attempt: attempt.error)
    assert best.number == 0
    assert result.model.factor == 1.0, "the buffer is that of another attempt: look at Restarts.reset"
    alone = {"strategy": Whole(last=2), "steps": Grid(20)}
    expected = [fit(Scaled(1000 * k, persistent), chain_runs(), **alone).error for k in range(3)]
    np.testing.assert_allclose([attempt.error for attempt in result.attempts], expected, rtol=1e-9)
    assert result.report(chain_runs()).mean == pytest.approx(result.error, rel=0.05)
