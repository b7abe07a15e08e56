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
from stiffml.training import LevenbergMarquardt, TrainingError, Whole, fit
from stiffml.training.lm import pace
from stiffml.training.lm.climb import Climb
from stiffml.training.lm.levenberg_marquardt import Iteration
from stiffml.training.lm.pace import projected, too_slow
from stiffml.training.lm.progress import Goal
from stiffml.training.lm.residuals import Residuals

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
    assert looked == list(range(50, 300, 25))
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
    """A chain whose rates have a factor that is not fitted, another one with each seed."""

    def __init__(self, seed: int, kind: str) -> None:
        super().__init__()
        self.chain = Chain(RATES[0] * 0.5 ** (2 if seed else 1), RATES[1])
        factor = torch.tensor(1.0 + 0.5 * (seed // 1000)).double()
        if kind == "frozen parameter":
            self.factor = nn.Parameter(factor, requires_grad=False)
        else:
            self.register_buffer("factor", factor, persistent=kind == "buffer")

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.factor * self.chain(t, y)


@pytest.mark.parametrize("kind", ["buffer", "buffer that is not saved", "frozen parameter"])
@pytest.mark.parametrize("after", [None, 2, 4])
def test_the_model_has_the_numbers_of_its_attempt(after: int | None, kind: str, tmp_path: Path) -> None:
    """Attempt 0 is the best; the fit goes on in attempt 1 after it was killed there."""

    def made(resume: bool = False, **more: Any):
        return fit(
            lambda seed: Scaled(seed, kind),
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
    assert result.model.factor == 1.0, "that is the one of another attempt: look at Restarts.reset"
    alone = {"strategy": Whole(last=2), "steps": Grid(20)}
    expected = [fit(Scaled(1000 * k, kind), chain_runs(), **alone).error for k in range(3)]
    np.testing.assert_allclose([attempt.error for attempt in result.attempts], expected, rtol=1e-9)
    assert result.report(chain_runs()).mean == pytest.approx(result.error, rel=0.05)


def test_frozen_layers_are_not_drawn_anew() -> None:
    """Of a module, which begins anew by its own reset_parameters()."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    result = fit(Wrapped(model), chain_runs(), strategy=Whole(last=2), attempts=3, target=HOPELESS)
    assert len(result.attempts) == 3
    assert torch.equal(model[0].weight, before)


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def test_going_on_never_makes_it_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempt 0 is given up at 2, the others end at 3, and attempt 0 ends at 5 when it goes on."""
    monkeypatch.setattr(pace, "FIRST", 2)
    monkeypatch.setattr(pace, "EVERY", 2)
    judged = iter([2.0, 3.0, 5.0])
    residuals = Residuals(begun(0), chain_runs(), np.ones(2), {"method": "cn", "steps": Grid(20)})
    none = np.zeros(2)
    climb = Climb(
        residuals,
        Whole(last=6, last_tolerance=0.0).rungs(chain_runs()),
        Iteration(LevenbergMarquardt(damping=1e2, shrink=1.2), none, none, none - np.inf, none + np.inf),
        Goal(error=HOPELESS, attempts=2),
        reset=lambda attempt: np.log(RATES) - 3.0,
        judge=lambda theta: next(judged),
    )
    kept = None
    while not climb.finished:
        climb.advance()
        if climb.progress.taken_up and kept is None:
            kept = climb.progress.best_theta.copy()
    now = climb.progress
    assert kept is not None
    assert now.best is not None
    assert (now.best.judged, now.best.given_up, now.best.number) == (2.0, False, 0)
    np.testing.assert_array_equal(now.best_theta, kept)
    assert [one.judged for one in now.attempts] == [2.0, 3.0]


def test_a_fit_without_time_goes_on_with_more(tmp_path: Path) -> None:
    """As if it had had the time at once; with the same time it ends where it was."""
    whole = fit(begun, chain_runs(), steps=Grid(20), strategy=Whole(last=40), folder=tmp_path / "whole")
    arguments = {"steps": Grid(20), "strategy": Whole(last=40), "folder": tmp_path / "parts"}
    with pytest.raises(KeyboardInterrupt):
        fit(begun, chain_runs(), save_every=1, report=Interrupt(3), **arguments)
    short = fit(begun, chain_runs(), max_seconds=1e-6, resume=True, **arguments)
    assert short.outcome == "stopped after 1e-06 s"
    again = fit(begun, chain_runs(), max_seconds=1e-6, resume=True, **arguments)
    assert again.outcome == short.outcome
    assert again.error == short.error
    longer = fit(begun, chain_runs(), max_seconds=1e4, resume=True, **arguments)
    assert torch.equal(longer.model.logs, whole.model.logs), "look at Climb.state_dict"


def test_a_descent_without_time_goes_on_with_more(tmp_path: Path) -> None:
    arguments = {"steps": Grid(2), "optimizer": "adam", "iterations": 20}
    whole = fit(begun(1000), chain_runs(), folder=tmp_path / "whole", **arguments)
    short = fit(begun(1000), chain_runs(), folder=tmp_path / "parts", max_seconds=1e-6, **arguments)
    assert short.history.sizes["iteration"] == 1
    longer = fit(
        begun(1000), chain_runs(), folder=tmp_path / "parts", max_seconds=1e4, resume=True, **arguments
    )
    assert torch.equal(longer.model.logs, whole.model.logs), "look at DescentProgress.state_dict"


def test_too_little_time_is_said() -> None:
    with pytest.raises(TrainingError, match=r"stopped after 1e-06 s, before whole runs.*max_seconds"):
        fit(begun, chain_runs(), max_seconds=1e-6)
