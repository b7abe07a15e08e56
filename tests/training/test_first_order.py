"""Fits by optimizers of torch: loss and gradient, strategies, minibatches, schedules, early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decays import COMPONENTS, RATES, TIMES, Chain, chain_runs, exact

import stiffml
from stiffml import Adaptive, Grid, KeptSteps
from stiffml.training import FirstOrder, FullSpace, GrowingHorizon, MultipleShooting, Run, Runs, Whole, fit
from stiffml.training.descent.loss import IntervalLoss
from stiffml.training.descent.rows import DescentProgress
from stiffml.training.descent.unknowns import Unknowns
from stiffml.training.lm.intervals import shot
from stiffml.training.lm.residuals import Residuals

SCALE = np.array([0.5, 2e-3])
KNOWN = {"method": "sdirk3", "steps": Grid(3)}
OWN = {"method": "bdf", "steps": Adaptive(), "rtol": 1e-11, "atol": 1e-14}
"""Differences by 1e-5 show where steps change by themselves, by the tolerance: it must be far below."""


class OneState(Chain):
    """The same for one state at a time."""

    def forward(self, t, y):
        assert y.shape == (2,)
        return super().forward(t, y)


def loss_of(settings: FirstOrder, solving: dict, kind: type[Chain] = Chain) -> tuple[IntervalLoss, Runs]:
    runs = chain_runs(noise=0.02).with_initial({"A": "measured", "B": "known"}, noise=0.05)
    residuals = Residuals(kind(2.0, 300.0), runs, SCALE, solving)
    unknowns = Unknowns(residuals, bool(settings.continuity))
    return IntervalLoss(residuals, unknowns, settings, None), runs


BY_DIFFERENCES = [
    (settings, solving, kind)
    for settings in (FirstOrder(), FirstOrder(continuity=2.0), FirstOrder(loss="absolute", continuity=0.5))
    for solving, kind in ((KNOWN, Chain), (OWN, Chain), (OWN, OneState))
]


@pytest.mark.parametrize(
    ("settings", "solving", "kind"),
    [
        # Chain with steps of its own takes long; with jumps between intervals all there is takes part.
        pytest.param(
            *one, marks=pytest.mark.sweep if one[1:] == (OWN, Chain) and one[0].loss != "absolute" else ()
        )
        for one in BY_DIFFERENCES
    ],
)
def test_the_gradient_is_that_of_differences(settings: FirstOrder, solving: dict, kind: type[Chain]) -> None:
    """By rates, by initial values with a prior, and by the starts of intervals, in all ways of solving."""
    loss, runs = loss_of(settings, solving, kind)
    intervals = shot(runs, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loss.parameters[1:]:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    found = loss.evaluate(intervals)
    assert not found.faults
    rows = [(0, 0), (13, 0)] if not settings.continuity else [(0, 0), (13, 0), (4, 0), (4, 1), (17, 1)]
    places = [(0, (0,)), (0, (1,))] + [(1, place) for place in rows]
    h = 1e-5
    for number, place in places:
        parameter, values = loss.parameters[number].data, []
        for sign in (1, -1):
            parameter[place] += sign * h
            values.append(loss.evaluate(intervals, gradient=False).loss)
            parameter[place] -= sign * h
        gradient = found.gradient[number]
        assert gradient is not None
        difference = (values[0] - values[1]) / (2 * h)
        assert float(gradient[place]) == pytest.approx(difference, rel=1e-4, abs=1e-6), (number, place)


def test_the_loss_is_the_mean_over_observations_jumps_and_priors() -> None:
    settings = FirstOrder(continuity=3.0)
    loss, runs = loss_of(settings, KNOWN)
    intervals = shot(runs, 4)
    with torch.no_grad():
        loss.parameters[1].fill_(0.1)
    theta, total, count = torch.tensor([2.0, 300.0]), 0.0, 0
    k1, k2 = theta.tolist()
    for one in intervals:
        run = runs[one.run]
        filled = np.where(run.mask, run.values, np.nan)
        start = loss._unknowns.start(one).detach().numpy()
        free = [True, False] if one.first == 0 else [True, True]
        reference = run.y0 if one.first == 0 else filled[one.first]
        offset = ((start - reference) / SCALE)[free]
        np.testing.assert_allclose(offset[~np.isnan(offset)], 0.1)
        t = run.times[one.first : one.last + 1] - run.times[one.first]
        a = start[0] * np.exp(-k1 * t)
        b = start[0] * k1 / (k2 - k1) * (np.exp(-k1 * t) - np.exp(-k2 * t)) + start[1] * np.exp(-k2 * t)
        y = np.stack([a, b], 1)
        off = ((y - run.values[one.first : one.last + 1]) / SCALE)[1:]
        seen = run.mask[one.first + 1 : one.last + 1]
        squares = [off[seen] ** 2]
        if one.first == 0:
            # As another observation with this noise: the scale is that of all residuals.
            squares.append([((start[0] - run.y0[0]) / SCALE[0]) ** 2])
        if one.last < len(run) - 1:
            following = loss._unknowns.next(one)
            assert following is not None
            squares.append(3.0 * ((y[-1] - following.detach().numpy()) / SCALE) ** 2)
        total += sum(float(np.sum(part)) for part in squares)
        count += sum(len(part) for part in squares)
    expected = total / count
    tight = loss_of(settings, OWN)[0]
    with torch.no_grad():
        tight.parameters[1].fill_(0.1)
    assert tight.evaluate(intervals, gradient=False).loss == pytest.approx(expected, rel=1e-6)


FITS: list[tuple[str, dict[str, Any], float]] = [
    ("lbfgs", {"iterations": 12}, 1e-3),
    ("lbfgs", {"strategy": MultipleShooting((4,), iterations=10, last=4)}, 1e-3),
    ("lbfgs", {"strategy": GrowingHorizon(4, iterations=4, last=10)}, 1e-3),
    ("sgd", {"iterations": 250, "learning_rate": 1.0}, 0.05),
    ("adam", {"iterations": 250, "learning_rate": 0.1}, 0.05),
    (
        "adam",
        {
            "strategy": MultipleShooting((3,), iterations=300, last=1),
            "first_order": FirstOrder(batch=3),
            "learning_rate": 0.1,
        },
        0.05,
    ),
]


@pytest.mark.parametrize(("optimizer", "arguments", "tolerance"), FITS)
def test_rates_are_found(optimizer: str, arguments: dict, tolerance: float) -> None:
    result = fit(Chain(), chain_runs(), optimizer=optimizer, steps=Grid(8), **arguments)
    np.testing.assert_allclose(result.model.rates, RATES, rtol=tolerance)
    assert result.history.sizes["iteration"] == len(result.history["loss"])
    assert result.covariance is None


def test_kept_steps_are_kept() -> None:
    """Each run has its own; the rates are those of the steps chosen anew in each solve."""
    solving: dict[str, Any] = {"method": "bdf", "rtol": 1e-7, "atol": 1e-10}
    arguments: dict[str, Any] = {"optimizer": "lbfgs", "iterations": 10, **solving}
    counted = KeptSteps(Adaptive(), renew=5)
    kept = fit(Chain(), chain_runs(), steps=counted, **arguments)
    assert counted.solves == 0, "it is what those of the runs are made like"
    np.testing.assert_allclose(kept.model.rates, RATES, rtol=1e-3)
    with pytest.raises(ValueError, match="KeptSteps are for an optimizer of torch"):
        fit(Chain(), chain_runs(), steps=KeptSteps())


def test_initial_values_are_learned() -> None:
    late = [(run.name, run.times[3:], run.values[3:]) for run in chain_runs()]
    runs = Runs(
        [Run(*one, y0=one[2][0] * [1.3, 1], y0_noise=[np.inf, 0]) for one in late],
        COMPONENTS,
    )
    result = fit(Chain(3.0, 700.0), runs, optimizer="lbfgs", iterations=30, steps=Grid(8))
    np.testing.assert_allclose(result.model.rates, RATES, rtol=1e-2)
    np.testing.assert_allclose(result.initial["a"], exact(TIMES[3:4], 1.0)[0], rtol=1e-2)


def test_starts_that_are_fitted_take_the_noise_of_observations_away() -> None:
    """Where intervals start from noisy observations, the loss cannot become as small."""
    times = np.linspace(0, 1.2, 13)
    values = exact(times, 1.0)
    values[1:] += 0.1 * np.random.default_rng(0).standard_normal(values[1:].shape) * [1.0, 5e-3]
    runs = Runs([Run("a", times, values)], COMPONENTS, initial="known", noise={"A": 0.1, "B": 5e-4})
    off = []
    for continuity in (0.0, 30.0):
        result = fit(
            Chain(),
            runs,
            optimizer="lbfgs",
            steps=Grid(4),
            # The last rung is whole: one iteration, of no account.
            strategy=MultipleShooting((2,), iterations=15, last=1),
            first_order=FirstOrder(continuity=continuity),
            report=lambda progress: None,
        )
        off.append(result)
    rows = [one.history for one in off]
    assert all((row["rung"].values == 0).sum() == 15 for row in rows)
    assert rows[1]["loss"].values[14] < rows[0]["loss"].values[14]


@pytest.mark.parametrize("initial", ["known", "learned"])
def test_the_loss_is_the_mean_over_observations(initial: str) -> None:
    """Of a learned start too, the first row of which is an observation, and which has no prior."""
    runs = Runs([Run("a", TIMES, exact(TIMES, 1.0))], COMPONENTS, initial=initial)
    result = fit(Chain(), runs, optimizer="adam", steps=Grid(20), iterations=1)
    model = Chain()
    y = stiffml.solve(model, torch.tensor([1.0, 0.0]).double(), torch.from_numpy(TIMES), rtol=1e-8).y
    off = ((y.detach().numpy() - runs[0].values) / result.scale)[0 if initial == "learned" else 1 :]
    assert result.history["loss"].values[0] == pytest.approx((off**2).mean(), rel=1e-2)


def test_every_interval_is_in_an_epoch_once(monkeypatch) -> None:
    seen: list[tuple] = []
    evaluate = IntervalLoss.evaluate

    def counted(loss: IntervalLoss, intervals: Any, gradient: bool = True) -> Any:
        seen.append(tuple(intervals))
        return evaluate(loss, intervals, gradient)

    monkeypatch.setattr(IntervalLoss, "evaluate", counted)
    strategy = MultipleShooting((3,), iterations=6, last=1)
    epochs = []
    for seed in (0, 1):
        seen.clear()
        fit(
            Chain(),
            chain_runs(),
            optimizer="adam",
            steps=Grid(2),
            strategy=strategy,
            first_order=FirstOrder(batch=3),
            seed=seed,
        )
        epochs += [seen[:3], seen[3:6]]  # whole runs follow
    expected = sorted(shot(chain_runs(), 3), key=str)
    assert len(expected) == 7
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [3, 3, 1]
        assert sorted((one for batch in epoch for one in batch), key=str) == expected
    assert len({tuple(epoch) for epoch in epochs}) == 4, "each epoch and seed has its own order"


def test_the_schedule_is_followed_and_the_gradient_clipped() -> None:
    settings = FirstOrder(
        schedule=lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]), clip=1e-3
    )
    model = Chain()
    before = model.logs.detach().clone()
    result = fit(
        model,
        chain_runs(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        iterations=5,
        first_order=settings,
        steps=Grid(2),
    )
    np.testing.assert_allclose(result.history["rate"], [1, 1, 0.1, 0.1, 0.01])
    assert (result.history["norm"] > 1e-3).all()
    assert 0 < (model.logs - before).norm().item() <= 1e-3 * 2.21 * (1 + 1e-12)
    plateau = FirstOrder(schedule=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0))
    worse = fit(
        Chain(*RATES), chain_runs(), optimizer="adam", learning_rate=0.5, iterations=8, first_order=plateau
    )
    assert worse.history["rate"].values[-1] < 0.5


def test_it_stops_early_and_the_best_weights_count() -> None:
    """The data to validate on are of slower rates, which the fit passes by."""
    slower = Chain(2.0, 200.0)
    values = exact(TIMES, 1.0)
    k1, k2 = slower.rates
    values[:, 1] = k1 / (k2 - k1) * (np.exp(-k1 * TIMES) - np.exp(-k2 * TIMES))
    values[:, 0] = np.exp(-k1 * TIMES)
    validate = Runs([Run("v", TIMES, values)], COMPONENTS, initial="known")
    arguments: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.05, "steps": Grid(4)}
    settings = FirstOrder(check_every=2, patience=5)
    result = fit(
        Chain(2.2, 150.0), chain_runs(), validate=validate, first_order=settings, iterations=300, **arguments
    )
    checked = result.history["checked"].values
    seen = np.flatnonzero(np.isfinite(checked))
    assert result.outcome == "stopped: 5 checks in a row were not lower"
    assert seen.tolist() == list(range(1, len(checked), 2))
    assert len(checked) < 300
    assert int(np.nanargmin(checked)) == seen[-6], "five were not lower after the lowest"
    residuals = Residuals(result.model, validate, result.scale, KNOWN | {"steps": Grid(4)})
    loss = IntervalLoss(residuals, Unknowns(residuals, False), settings, None)
    again = loss.evaluate(shot(validate, 99), gradient=False).loss
    assert again == pytest.approx(np.nanmin(checked), rel=1e-6), "the weights of the best check"


def test_time_and_reports() -> None:
    seen: list[DescentProgress] = []
    result = fit(Chain(), chain_runs(), optimizer="adam", steps=Grid(2), max_seconds=1e-9, report=seen.append)
    assert result.outcome == "stopped after 1e-09 s"
    assert len(seen) == 1
    assert len(seen[0].rows) == 1


def test_a_strategy_of_horizons_begins_with_the_first_observations() -> None:
    result = fit(
        Chain(),
        chain_runs(),
        optimizer="adam",
        steps=Grid(2),
        strategy=GrowingHorizon(6, iterations=3, last=2),
    )
    assert result.history["rung"].values.tolist() == [0] * 3 + [1] * 2
    assert result.history.attrs["rungs"] == "the first 6, whole"


def test_wrong_arguments_are_said(tmp_path: Path) -> None:
    other = torch.nn.Linear(1, 1)
    lbfgs = torch.optim.LBFGS
    learned = chain_runs(initial="learned")
    shooting: dict[str, Any] = {"strategy": MultipleShooting(), "first_order": FirstOrder(continuity=1)}
    model = Chain()
    wrong: list[tuple[dict, type[Exception], str]] = [
        ({"optimizer": "adma"}, ValueError, "one of lm, adam, adamw, sgd, lbfgs"),
        ({"optimizer": torch.optim.SGD(other.parameters(), 0.1)}, ValueError, "none of its parameters are"),
        ({"optimizer": lambda p: 3}, TypeError, "must return an optimizer"),
        ({"optimizer": lbfgs(model.parameters()), **shooting}, ValueError, "takes all parameters at once"),
        ({"optimizer": lbfgs(model.parameters()), "learning_rate": 1.0}, ValueError, "has its own"),
        ({"first_order": 3}, TypeError, r"must be a FirstOrder\(…\)"),
        ({"first_order": FirstOrder(continuity=1)}, ValueError, "continuity is between the intervals"),
        ({"strategy": Whole(), "iterations": 3}, ValueError, "iterations is for whole runs"),
        ({"strategy": "whole"}, TypeError, "strategy must be"),
        ({"strategy": FullSpace()}, ValueError, "only optimizer='lm' does"),
        ({"first_order": FirstOrder(schedule=lambda o: 3)}, TypeError, "schedule must return a scheduler"),
        ({"report": 3}, TypeError, "report must be callable"),
        ({"tensorboard": True}, ValueError, "tensorboard needs the folder"),
        ({"resume": True}, ValueError, "resume needs the folder"),
        ({"bounds": {"logs": (0, 1)}}, ValueError, "bounds is for optimizer='lm'"),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            fit(model, learned, **{"optimizer": "adam", "steps": Grid(2), **arguments})
    with pytest.raises(ValueError, match="first_order is for an optimizer of torch"):
        fit(model, learned, first_order=FirstOrder())
