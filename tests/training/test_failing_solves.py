"""Fits whose solves fail: they go on, with every failure on record, or stop with advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decays import COMPONENTS, RISING, Chain, Rising, chain_runs
from fit_script import FITS, result_of
from torch import nn

from stiffml import Adaptive, Fixed, Grid, SolveError, Status
from stiffml.training import FirstOrder, MultipleShooting, Run, Runs, TrainingError, Whole, fit
from stiffml.training.descent import loss as losses
from stiffml.training.descent.loss import Evaluated, IntervalLoss, smaller_steps
from stiffml.training.descent.unknowns import Unknowns
from stiffml.training.folder import FAILURES
from stiffml.training.lm.intervals import whole
from stiffml.training.lm.one_by_one import OneByOne
from stiffml.training.lm.residuals import Residuals
from stiffml.training.lm.side_by_side import SideBySide
from stiffml.training.lm.together import Together

FIRST_ORDER = [name for name in FITS if not name.startswith("lm")]
LM = [name for name in FITS if name.startswith("lm")]


class Injected:
    """Calls a function, or raises instead, in a share of its calls."""

    def __init__(self, function: Any, share: float, seed: int = 0) -> None:
        self._function, self._share = function, share
        self._generator = np.random.default_rng(seed)
        self.count = 0

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        if self._generator.random() < self._share:
            self.count += 1
            raise SolveError(Status.NEWTON_FAILED, f"injected {self.count}", "nothing", t=0.5, h=0.1)
        return self._function(*arguments, **more)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_every_fifth_solve_fails(name: str, monkeypatch, tmp_path: Path) -> None:
    injected = Injected(losses.solved, 0.2)
    monkeypatch.setattr(losses, "solved", injected)
    result = result_of(name, tmp_path / "fit")
    assert injected.count > 2
    causes = [failure.cause for failure in result.failures]
    assert sorted({int(cause.split()[1]) for cause in causes}) == list(range(1, injected.count + 1))
    assert len(causes) == injected.count
    assert all(f.t == 0.5 and f.run in ("", "a", "b") for f in result.failures)
    assert len((tmp_path / "fit" / FAILURES).read_text().splitlines()) == injected.count
    assert torch.isfinite(result.model.logs).all()
    left_out = sum(failure.remedy == "left out" for failure in result.failures)
    assert int(result.history["left_out"].sum()) <= left_out


@pytest.mark.parametrize("name", LM)
def test_every_fifth_trial_step_fails(name: str, monkeypatch, tmp_path: Path) -> None:
    for kind in (Together, SideBySide, OneByOne):
        monkeypatch.setattr(kind, "solve", kind.solve)
    count = 0
    generator = np.random.default_rng(1)

    def failing(engine: Any, groups: Any, starts: Any, paths: Any, near: Any = None) -> Any:
        nonlocal count
        if near is not None and generator.random() < 0.2:  # a trial step; others begin a rung
            count += 1
            raise SolveError(Status.NEWTON_FAILED, f"injected {count}", "nothing", t=0.5, h=0.1)
        return originals[type(engine)](engine, groups, starts, paths, near)

    originals = {kind: kind.solve for kind in (Together, SideBySide, OneByOne)}
    for kind in originals:
        monkeypatch.setattr(kind, "solve", failing)
    result = result_of(name, tmp_path / "fit")
    assert count > 0
    assert len(result.failures) == count
    assert int(result.history["failed"].sum()) == count
    assert len((tmp_path / "fit" / FAILURES).read_text().splitlines()) == count


@pytest.mark.parametrize(
    "solving",
    [
        {"steps": Grid(2)},
        {"steps": Fixed(0.1)},
        {"method": "bdf", "steps": Adaptive(), "rtol": 1e-3, "atol": 1e-4},
    ],
)
def test_a_solve_that_fails_is_solved_with_smaller_steps(solving: dict, monkeypatch) -> None:
    """The loss is that of the smaller steps, of the run whose first solve fails."""
    runs = chain_runs()[:1]
    arguments = {"method": "sdirk3", **solving}
    smaller = smaller_steps(arguments, torch.float64)
    assert smaller is not None

    def evaluated(options: dict) -> Evaluated:
        residuals = Residuals(Chain(), runs, np.ones(2), options)
        return IntervalLoss(residuals, Unknowns(residuals, False), FirstOrder(), None).evaluate(whole(runs))

    expected, plain = evaluated(smaller), evaluated(arguments)
    assert abs(expected.loss - plain.loss) > 1e-9 * plain.loss, "the steps must matter"
    solved, calls = losses.solved, iter([True, False])

    def fails_once(*arguments: Any) -> Any:
        if next(calls):
            raise SolveError(Status.NEWTON_FAILED, "injected", "nothing", t=0.5, h=0.1)
        return solved(*arguments)

    monkeypatch.setattr(losses, "solved", fails_once)
    found = evaluated(arguments)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    torch.testing.assert_close(found.gradient[0], expected.gradient[0])
    assert [fault.remedy for fault in found.faults] == ["solved with smaller steps"]
    assert not found.lost


def test_updates_that_lead_where_nothing_is_solved_are_halved() -> None:
    """The truth, k = log 0.8, is next to where trajectories blow up."""
    result = fit(
        Rising(-2.0),
        RISING,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=100.0),
        iterations=6,
        method="bdf",
        steps=Adaptive(),
    )
    assert int(result.history["halved"].sum()) > 0
    assert result.failures
    assert result.failures[0].run == "up"
    assert np.isfinite(result.error)
    assert "iteration" in str(result.failures[0])


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lbfgs"])
def test_weights_without_a_loss_stop_with_advice(optimizer: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(losses, "solved", Injected(losses.solved, 1.0))
    with pytest.raises(TrainingError, match=r"whole, iteration 0: there was no loss 10 times in a row.*Try"):
        fit(Chain(), chain_runs()[:1], optimizer=optimizer, folder=tmp_path / "a")
    lines = (tmp_path / "a" / FAILURES).read_text().splitlines()
    assert len(lines) == 20, "ten solves, each of them twice"
    assert all("run a, t = 0.5: injected" in line for line in lines)


class Doubtful(nn.Module):
    """A chain whose runs with a large A cannot be solved."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain()

    def forward(self, t, y):
        return self.chain(t, y) + torch.where(y[..., :1] > 1.5, torch.nan, 0.0)


def test_a_run_that_is_always_left_out_stops_the_fit() -> None:
    """Else the fit would silently be one of the other runs."""
    runs = chain_runs()
    more = [Run(f"a{i}", runs[0].times, runs[0].values) for i in range(3)]
    mixed = Runs([*more, runs[1]], COMPONENTS, initial="known")
    with pytest.raises(TrainingError, match="run b could not be solved in 10 iterations"):
        fit(Doubtful(), mixed, optimizer="adam", steps=Grid(2), iterations=30)


def test_updates_that_are_not_finite_never_reach_the_weights() -> None:
    class Wild(torch.optim.SGD):
        def step(self, closure=None):
            found = super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        if group["lr"] > 0.05:
                            parameter.fill_(torch.nan)
            return found

    model = Chain()
    result = fit(model, chain_runs(), optimizer=Wild(model.parameters(), lr=0.1), iterations=3, steps=Grid(2))
    assert torch.isfinite(model.logs).all()
    assert result.history["halved"].values.tolist() == [1, 1, 1]
    assert [failure.cause for failure in result.failures] == ["the update is not finite"] * 3


def test_a_longer_horizon_that_is_lost_goes_back_a_rung(monkeypatch) -> None:
    """Whole runs cannot be solved with k > 0.05, intervals of them can: these are fitted more closely."""
    times = np.linspace(0, 1, 5)
    runs = Runs([Run("up", times, 1 / (1 - 0.8 * times)[:, None])], ["A"], initial="known")
    model, solved = Rising(0.14), losses.solved

    def fails_if_long(arguments: Any) -> Any:
        if len(arguments.t) == 5 and arguments.func.k > 0.05:
            raise SolveError(Status.NEWTON_FAILED, "injected", "nothing", t=0.5, h=0.1)
        return solved(arguments)

    monkeypatch.setattr(losses, "solved", fails_if_long)
    arguments: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.04, "steps": Grid(4)}
    strategy = MultipleShooting((1,), iterations=2, last=3)
    result = fit(model, runs, strategy=strategy, **arguments)
    rungs = result.history["rung"].values.tolist()
    assert rungs in ([0] * 4 + [1] * 3, [0] * 6 + [1] * 3)
    assert model.k < 0.05
    with pytest.raises(TrainingError, match="whole, iteration 0: there was no loss 10 times"):
        fit(Rising(0.14), runs, strategy=Whole(last=3), **arguments)


def test_settings_are_checked() -> None:
    wrong: list[tuple[dict, type[Exception], str]] = [
        ({"loss": "cubes"}, ValueError, "loss must be one of squares, absolute"),
        ({"clip": 0}, ValueError, "clip"),
        ({"batch": 0}, ValueError, "batch"),
        ({"continuity": -1}, ValueError, "continuity"),
        ({"patience": 0}, ValueError, "patience"),
        ({"schedule": 3}, TypeError, "schedule must be a function optimizer -> scheduler"),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            FirstOrder(**arguments)


@pytest.mark.parametrize("progress", [False, True])
def test_a_first_attempt_that_cannot_begin_is_no_iteration(progress: bool) -> None:
    """Nothing is reported of it, and the next one goes on."""

    def model(seed: int) -> Chain:
        made = Chain(2.0, 300.0)
        if seed == 0:
            made.logs.data.fill_(800.0)  # whose exponentials are infinite
        return made

    told = []
    found = fit(
        model,
        chain_runs(),
        strategy=Whole(last=3),
        attempts=2,
        target=1e-9,
        progress=progress,
        report=lambda now: told.append(len(now.rows)),
    )
    assert told == list(range(1, found.history.sizes["iteration"] + 1)), "look at drive in recording.py"
