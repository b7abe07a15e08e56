"""Fits: what they find, with which errors, how they resume, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from decays import COMPONENTS, OTHER_TIMES, RATES, RISING, TIMES, Chain, Rising, chain_runs, exact
from torch import nn

from stiffml import Adaptive, Grid, Newton
from stiffml.training import (
    GrowingHorizon,
    LevenbergMarquardt,
    MultipleShooting,
    Run,
    Runs,
    Whole,
    fit,
    least_squares,
)
from stiffml.training.asked import with_newton
from stiffml.training.lm.climb import Climb
from stiffml.training.lm.levenberg_marquardt import Iteration
from stiffml.training.lm.progress import Goal
from stiffml.training.lm.residuals import Residuals

FINE = Grid(20)


ADAPTIVE = {"method": "bdf", "steps": Adaptive()}


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [
        (Whole(), {"steps": FINE}),
        (MultipleShooting(), {"steps": FINE}),
        (GrowingHorizon(4), {"steps": FINE}),
        (Whole(), ADAPTIVE),
        (MultipleShooting((4,)), ADAPTIVE),
    ],
)
def test_rates_are_found(strategy: Any, steps: dict) -> None:
    result = fit(Chain(), chain_runs(), strategy=strategy, **steps)
    np.testing.assert_allclose(result.model.rates, RATES, rtol=2e-4, err_msg=str(result.history))
    assert result.error < 1e-4
    assert result.report().mean < 2e-4


def test_intervals_are_those_of_the_linear_theory() -> None:
    """The covariance against one from differences of the exact solution, and how often intervals hold."""
    noise = {"A": 0.02, "B": 1e-4}
    covered = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        values = exact(TIMES, 1.0)
        values[1:] += generator.standard_normal(values[1:].shape) * list(noise.values())
        runs = Runs([Run("a", TIMES, values)], COMPONENTS, initial="known", noise=noise)
        result = least_squares(Chain(3.0, 700.0), runs)
        assert result.covariance is not None
        intervals = list(result.covariance.intervals(0.9).values())
        covered += [low < np.log(k) < high for (low, high), k in zip(intervals, RATES, strict=True)]
    # Of 20 intervals 18 are expected; fewer than 14 have a chance of 1 in 500.
    assert sum(covered) >= 14, f"{sum(covered)} of 20 intervals of 90 % hold the rates"

    h = 1e-5

    def residuals(logs: np.ndarray) -> np.ndarray:
        k1, k2 = np.exp(logs)
        a = np.exp(-k1 * TIMES)
        b = k1 / (k2 - k1) * (a - np.exp(-k2 * TIMES))
        return (np.stack([a, b], 1)[1:] / list(noise.values())).ravel()

    at = result.model.logs.detach().numpy()
    jacobian = np.stack([(residuals(at + d) - residuals(at - d)) / (2 * h) for d in h * np.eye(2)], axis=1)
    expected = np.linalg.inv(jacobian.T @ jacobian)
    np.testing.assert_allclose(result.covariance.matrix, expected, rtol=1e-3)
    assert result.covariance.variance == 1
    assert result.covariance.rank == 2


def test_a_rate_without_effect_is_undetermined() -> None:
    class Unused(Chain):
        def __init__(self) -> None:
            super().__init__(3.0, 700.0)
            self.idle = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, t, y):
            return super().forward(t, y) + 0 * self.idle

    covariance = least_squares(Unused(), chain_runs(noise=0.01)).covariance
    assert covariance is not None
    assert covariance.undetermined == ("idle",)
    assert np.isinf(covariance.errors[covariance.names.index("idle")])
    assert np.isfinite(covariance.errors[:2]).all()


def test_initial_values_are_learned() -> None:
    runs = chain_runs()
    begun = Runs(
        [Run(run.name, run.times[3:], run.values[3:]) for run in runs], COMPONENTS, initial="learned"
    )
    result = least_squares(Chain(3.0, 700.0), begun, rtol=1e-8, atol=1e-12)
    for run, times, a0 in zip(begun, (TIMES, OTHER_TIMES), (1.0, 2.0), strict=True):
        expected = exact(times[3:4], a0)[0]
        np.testing.assert_allclose(result.initial[run.name], expected, rtol=1e-3)
    np.testing.assert_allclose(result.model.rates, RATES, rtol=1e-3)
    assert "y0 of a: A" in result.covariance.names


def test_a_measured_initial_value_has_a_prior() -> None:
    """One observation of 2 with error 0.1 at the start, one of 1 with error 0.1 right after: their mean."""
    run = Run("a", [0.0, 1e-9], [[2.0], [1.0]], y0=[2.0], y0_noise=[0.1])

    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, t, y):
            return self.k * y

    runs, bounds = Runs([run], ["A"], noise=0.1), {"k": (-1.0, 1.0)}
    result = fit(Still(), runs, strategy=Whole(), method="beuler", bounds=bounds)
    assert result.initial["a"][0] == pytest.approx(1.5, abs=1e-3)


def test_outliers_weigh_little_with_a_robust_loss() -> None:
    runs = chain_runs(noise=1e-3)
    spoilt = runs[0].values.copy()
    spoilt[6] += [0.5, 2e-3]
    spoilt_runs = Runs([Run("a", TIMES, spoilt), runs[1]], COMPONENTS, initial="known")
    plain, robust = (
        least_squares(
            Chain(3.0, 700.0), spoilt_runs, levenberg_marquardt=LevenbergMarquardt(loss=loss, width=3e-3)
        ).model.rates
        for loss in ("squares", "soft-l1")
    )
    off = [abs(np.log(rates / RATES)).max() for rates in (plain, robust)]
    assert off[1] < 0.2 * off[0], f"off by {off}"


def test_bounds_are_kept() -> None:
    result = least_squares(Chain(2.0, 700.0), chain_runs(), bounds={"logs[0]": (0.0, 1.0)})
    assert result.model.logs[0].item() == 1.0
    assert 5 < result.model.logs[1].item() < 8


def test_attempts_begin_anew_and_the_best_counts() -> None:
    runs = chain_runs()
    options: dict[str, Any] = {"strategy": Whole(last=2), "steps": FINE, "attempts": 3, "target": 1e-9}
    result = fit(Chain(1e-3, 1e-3), runs, **options)
    assert len(result.attempts) == 3
    assert len({attempt.error for attempt in result.attempts}) == 3
    assert result.error == min(attempt.error for attempt in result.attempts)
    again = fit(Chain(1e-3, 1e-3), runs, **options)
    assert torch.equal(result.model.logs, again.model.logs)
    chosen = fit(lambda seed: Chain(1.0 + seed, 100.0), runs, **{**options, "target": 1.0}, seed=5)
    assert len(chosen.attempts) == 1, "the first one reaches a target of 1"


def test_the_judge_asks_for_another_attempt() -> None:
    """One coarse step between observations fits well with wrong rates, which a tight solve shows."""
    result = fit(
        Chain(), chain_runs(), strategy=Whole(), method="beuler", attempts=2, target=1.0, judged=1e-8
    )
    assert len(result.attempts) == 2
    assert all(attempt.judged > 1e-4 for attempt in result.attempts)
    content = fit(Chain(), chain_runs(), strategy=Whole(), steps=FINE, attempts=2, judged=1e-2)
    assert len(content.attempts) == 1
    assert content.outcome == "reached the target"


def test_an_attempt_that_reaches_the_target_counts_before_others() -> None:
    """The one before has a smaller judged error, but not the target."""
    judged = iter([1e-3, 5e-3])
    residuals = Residuals(Chain(), chain_runs(), np.ones(2), {"method": "cn", "steps": FINE})
    none = np.zeros(2)
    climb = Climb(
        residuals,
        Whole(last=1).rungs(chain_runs()),
        Iteration(LevenbergMarquardt(), none, none, none - np.inf, none + np.inf),
        Goal(error=1e-2, judged=1e-2, attempts=3),
        reset=lambda attempt: np.log(RATES),
        judge=lambda theta: next(judged),
    )
    while not climb.finished:
        climb.advance()
    assert [attempt.error <= 1e-2 for attempt in climb.progress.attempts] == [False, True]
    assert climb.progress.best is climb.progress.attempts[1]


def test_report_is_of_data_never_seen() -> None:
    train, unseen = chain_runs()[:1], chain_runs()[1:]
    result = fit(Chain(), train, validate=unseen, steps=FINE)
    report = result.report(invariants={"nothing": [0.0, 0.0], "A": [1.0, 0.0]})
    assert report.unseen
    assert report.runs == ("b",)
    again = result.resolved()[0].y
    seen = unseen[0].mask[1:]
    off = np.abs(again - unseen[0].values)[1:] / result.scale
    np.testing.assert_allclose(report.errors[0], [off[seen[:, c], c].mean() for c in range(2)])
    assert report.mean == pytest.approx(off[seen].mean())
    assert report.drift == {"nothing": 0.0, "A": pytest.approx(2.0, abs=1e-2)}
    assert not result.report(train).unseen
    assert "drift of nothing" in str(report)
    assert len(result.plot().axes) == 2


def test_a_network_fits_as_well_as_the_first_order_optimizer_does_slowly() -> None:
    runs = chain_runs()
    adam = fit(Chain(), runs, optimizer="adam", learning_rate=0.2, iterations=60, steps=FINE)
    np.testing.assert_allclose(adam.model.rates, RATES, rtol=0.2)
    assert adam.covariance is None
    assert len(adam.history["loss"]) == 60
    own = Chain()
    sgd = fit(own, runs, optimizer=torch.optim.SGD(own.parameters(), lr=1e-3), iterations=2, steps=FINE)
    assert len(sgd.history["loss"]) == 2
    lm = fit(Chain(), runs, steps=FINE)
    assert len(lm.history["error"]) < 60
    assert lm.error < 0.1 * adam.error


def test_a_component_far_below_its_scale_is_no_reason_to_fail() -> None:
    """Newton's iteration need not resolve it, unless it is asked to."""
    solving = {"method": "cn", "steps": FINE}
    newton = with_newton(solving, np.array([1.0, 2.0]), Chain())["newton"]
    assert newton.atol.tolist() == [1e-10, 2e-10]
    own = {**solving, "newton": Newton(rtol=1e-7)}
    assert with_newton(own, np.ones(2), Chain()) == own
    for other in ({"method": "bdf", "steps": Adaptive()}, {"method": "rosw-ra34pw2", "steps": FINE}):
        assert with_newton(other, np.ones(2), Chain()) == other
    assert "newton" not in with_newton(solving, np.ones(2), Chain().float())


def test_models_in_single_precision_fit_too() -> None:
    result = fit(Chain(3.0, 700.0).float(), chain_runs(), strategy=Whole(), method="cn", steps=FINE)
    np.testing.assert_allclose(result.model.rates, RATES, rtol=1e-2)


class Rate(nn.Module):
    """A decay with one constant."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -self.k * y


def test_steps_too_long_for_what_was_found_are_said_in_the_report() -> None:
    """One step between observations of a decay that is done in two of them: what is fitted is the step."""
    times = np.linspace(0, 4, 5)
    data = Runs([Run("a", times, np.exp(-2 * times)[:, None])], ["A"], initial="known")
    long, short = (fit(Rate(), data, method="beuler", steps=Grid(n)) for n in (1, 100))
    assert "Take shorter ones, such as steps=Grid(4)" in str(long.report())
    assert "Take shorter ones" not in str(short.report())
    assert abs(short.model.k.item() - 2) < 0.05 < abs(long.model.k.item() - 2)


def test_names_of_optimizers_may_have_any_case() -> None:
    times = np.linspace(0, 2, 5)
    data = Runs([Run("a", times, np.exp(-2 * times)[:, None])], ["A"], initial="known")
    for names, more in ((("Adam", "adam"), {"iterations": 3}), (("LM", "lm"), {})):
        one, other = (fit(Rate(), data, optimizer=name, **more).model.k.item() for name in names)
        assert one == other != 1


WRONG: list[tuple[dict, type[Exception], str]] = [
    ({"optimizer": "newton"}, ValueError, "optimizer must be one of lm, adam, adamw"),
    ({"iterations": 5}, ValueError, "iterations is for an optimizer of torch"),
    ({"optimizer": "adam", "target": 1e-3}, ValueError, "target is for optimizer='lm'"),
    ({"resume": True}, ValueError, "resume needs the folder"),
    ({"scale": -1.0}, ValueError, "scale must be positive"),
    ({"scale": [1.0, 2.0, 3.0]}, ValueError, "one for each of 2"),
    ({"bounds": {"k": (0, 1)}}, ValueError, "there is no 'k'; known are logs"),
    ({"bounds": {"logs": (1, 0)}}, ValueError, "low must be less"),
    ({"event": None}, TypeError, "does not take 'event' of solve"),
    ({"metod": "cn"}, TypeError, "no argument 'metod'"),
    ({"strategy": "whole"}, TypeError, "strategy must be MultipleShooting"),
    ({"validate": 3}, TypeError, "validate must be Runs"),
    ({"target": -1}, ValueError, "target"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG)
def test_wrong_arguments_are_said(arguments: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fit(Chain(), chain_runs(), **arguments)


def test_models_that_cannot_begin_anew_are_refused() -> None:
    with pytest.raises(ValueError, match="parameter k belongs to no module"):
        fit(Rising(0.0), RISING, attempts=2)
    with pytest.raises(TypeError, match="must return a torch"):
        fit(lambda seed: seed, RISING)
    with pytest.raises(TypeError, match=r"or a function of a seed.*this takes \(t, y\)"):
        fit(lambda t, y: -y, RISING)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"such as Linear\(\), .*this takes \(in_features"):
        fit(torch.nn.Linear, RISING)
    with pytest.raises(TypeError, match=r"data must be Runs, as read_csv\(path"):
        fit(Rising(0.0), "runs.csv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inputs or forcing"):
        fit(Rising(0.0), Runs([Run("a", [0, 1], [[1.0], [1.0]], inputs={"T": 300.0})], ["A"]))
