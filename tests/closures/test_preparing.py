"""Closures that take from data what was left out: found, named, matched, and fitted by a plain call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import stiffml
from stiffml.closures import Closure, Linear, alone, mlp
from stiffml.training import LevenbergMarquardt, Run, Runs, Whole, compare, fit

NAMES = ["A", "B", "C", "D"]
SUM = np.ones((1, 4))
TIMES = torch.linspace(0, 2, 41, dtype=torch.float64)


def rates(y: Tensor, k: float) -> Tensor:
    """A → B at 1, B + B → C at k, D does nothing."""
    a, b = y[..., 0], y[..., 1]
    return torch.stack([-a, a - 2 * k * b**2, 2 * k * b**2, 0 * a], dim=-1)


def whole(t: Tensor, y: Tensor) -> Tensor:
    return rates(y, 1.5)


def known(t: Tensor, y: Tensor) -> Tensor:
    return rates(y, 0.0)


def solved(func, y0: Tensor) -> Tensor:
    with torch.no_grad():
        return stiffml.odeint(func, y0, TIMES, method="bdf", rtol=1e-8, atol=1e-11).transpose(0, 1)


def starts(seed: int, count: int) -> Tensor:
    draws = np.random.default_rng(seed).uniform(0.5, 1.5, (count, 4)) * [1.0, 0.3, 0.1, 1.0]
    return torch.from_numpy(draws)


def data(count: int = 6, every: int = 1) -> Runs:
    y = solved(whole, starts(0, count)).numpy()[:, ::every]
    runs = [Run(f"{i}", TIMES.numpy()[::every], one) for i, one in enumerate(y)]
    return Runs(runs, NAMES, initial="known")


def off(func) -> Tensor:
    """(4, times, 4) errors at starts not seen, in units of the ranges; those of A and D are 0 / 0."""
    y0 = starts(1, 4)
    truth, found = solved(whole, y0), solved(func, y0)
    return (found - truth).abs() / (truth.amax(dim=(0, 1)) - truth.amin(dim=(0, 1)))


@pytest.mark.parametrize("network", [(), (4,)])
def test_the_missing_reaction_is_found(network: tuple[int, ...]) -> None:
    """The rate is of second order: powers hold it exactly, but for the trapezoidal rule of the matching."""
    model = Closure(known, network, conserve=SUM)
    assert model.prepare(data())["method"] == "bdf"
    assert model.where == ("B", "C")
    assert model.reactions == ("B <=> C",)
    assert off(known)[..., 1:3].max() > 0.3
    assert off(model)[..., 1:3].max() < 0.02
    sums = solved(model, starts(1, 4)).sum(dim=-1)
    assert ((sums - sums[:, :1]).abs() < 1e-12 * sums).all()


def test_a_plain_fit_does_all_of_it() -> None:
    """What is left is the error of BDF's steps between observations, which the fit makes up for."""
    result = fit(Closure(known, conserve=SUM), data())
    assert result.error < 1e-4
    assert off(result.model)[..., 1:3].max() < 3e-3


def test_a_fit_may_be_asked_for_something_else() -> None:
    """What a closure suggests holds only where nothing else is asked for."""
    settings = LevenbergMarquardt(ridge=1e-2)
    result = fit(
        Closure(known, conserve=SUM),
        data(2, 4),
        method="sdirk3",
        strategy=Whole(last=2),
        levenberg_marquardt=settings,
    )
    assert result.history.sizes["iteration"] <= 3
    assert result.error < 1e-2


def test_every_attempt_is_prepared() -> None:
    """A function of a seed makes closures that have not seen data."""
    made = []

    def model(seed: int) -> Closure:
        made.append(Closure(known, (3,), conserve=SUM, seed=seed))
        return made[-1]

    result = fit(model, data(2, 4), attempts=2, target=1e-12)
    assert len(result.attempts) == 2
    assert [one.where for one in made] == [("B", "C")] * 2
    errors = [attempt.error for attempt in result.attempts]
    assert max(errors) < 1e-2, "an attempt began with weights that were not matched"


def test_optimizers_of_torch_and_comparisons_prepare_too(tmp_path) -> None:
    model = Closure(known, conserve=SUM)
    result = fit(model, data(2, 4), optimizer="adam", iterations=2)
    assert result.model is model
    assert model.where == ("B", "C")
    fresh = Closure(known, conserve=SUM)
    found = compare(
        fresh,
        data(2, 4),
        methods=["bdf"],
        optimizers=["adam"],
        seeds=1,
        iterations=2,
        folder=tmp_path / "runs",
    )
    assert float(found.data["error"].isel(method=0, optimizer=0, seed=0)[-1]) < 0.1
    with pytest.raises(RuntimeError, match="has not seen data"):
        fresh(TIMES[0], starts(0, 1)[0])


def test_what_is_given_stays() -> None:
    runs = data(2, 4)
    model = Closure(known, where=["A", 1, "C"], scale=0.7, head=Linear(), conserve=SUM)
    model.prepare(runs)
    assert model.where == ("A", "B", "C")
    assert model.rates.scale.tolist() == [0.7] * 3
    assert model.reactions == ()
    assert model.prepare(runs) == {}, "it is complete"
    own = mlp([2, 5, 2], seed=1)
    assert Closure(known, own, conserve=SUM).prepare(runs)
    complete = Closure(known, [4], typical=np.ones(4), components=NAMES, conserve=SUM)
    before = [p.clone() for p in complete.parameters()]
    assert complete.prepare(runs) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, complete.parameters(), strict=True))


def test_nothing_missing_is_said() -> None:
    still = Runs([Run("still", np.arange(5.0), np.ones((5, 2)))], ["A", "B"])
    with pytest.raises(ValueError, match="the data show nothing that known lacks"):
        fit(Closure(lambda t, y: torch.zeros_like(y)), still)
    with pytest.raises(ValueError, match=r"missing_rate\(known, runs\) finds no scale"):
        fit(Closure(lambda t, y: torch.zeros_like(y), where=["A"]), still)


def test_other_components_and_no_data_are_refused() -> None:
    model = Closure(known, components=["A", "B", "C", "X"], conserve=SUM)
    assert "taken from data" in repr(model)
    with pytest.raises(ValueError, match="runs have components"):
        model.prepare(data(2, 4))
    with pytest.raises(RuntimeError, match=r"fit, call prepare\(runs\), or give it typical"):
        stiffml.solve(model, starts(0, 1)[0], TIMES)
    with pytest.raises(ValueError, match="network must take 2 features"):
        Closure(known, mlp([3, 5, 2], seed=1), conserve=SUM).prepare(data(2, 4))


def test_partners_that_noise_hides_are_taken() -> None:
    """C shows what it gains; B turns over fast and does not show what it loses; D is in no sum."""
    t = TIMES.numpy()
    gained = 0.3 * (1 - np.exp(-t))
    b = np.full_like(t, 2.0) - gained
    runs = Runs(
        [Run("a", t, np.stack([b, gained, np.ones_like(t)], axis=1))],
        ["B", "C", "D"],
        initial="known",
        noise={"B": 0.02, "C": 1e-4, "D": 0.02},
    )

    def turnover(t: Tensor, y: Tensor) -> Tensor:
        drift = 1e3 * (1.7 + 0.3 * torch.exp(-t) - y[..., 0])  # errors of B make ± 20 of it
        return torch.stack([drift, 0 * y[..., 1], 0 * y[..., 2]], dim=-1)

    for conserve, where in (([[1.0, 1.0, 0.0]], ("B", "C")), (None, ("C",))):
        model = Closure(turnover, conserve=conserve, head=Linear())
        model.prepare(runs)
        assert model.where == where


def settling() -> Runs:
    """A decays over the run; B is 1000 (A − B) and C 2000 (A² − C), which start at 0."""
    t = torch.linspace(0, 2, 21, dtype=torch.float64)

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        return torch.stack([-a, 1e3 * (a - b), 2e3 * (a**2 - c)], dim=-1)

    with torch.no_grad():
        y = stiffml.odeint(
            func, torch.tensor([1.0, 0.0, 0.0]).double(), t, method="bdf", rtol=1e-9, atol=1e-12
        )
    return Runs([Run("a", t, y)], ["A", "B", "C"], initial="known")


def test_where_nothing_is_known_fast_components_settle_at_what_slow_ones_say() -> None:
    model = Closure(None, [6], seed=1)
    result = fit(model, settling())
    assert model.features.count == 1  # of A alone
    assert (model.rates.scale[1:] == 150.0 / 0.1 * model.typical[1:]).all()
    assert result.error < 2e-3
    fine = torch.linspace(0, 2, 101, dtype=torch.float64)
    with torch.no_grad():
        y = stiffml.odeint(model, torch.tensor([1.0, 0.0, 0.0]).double(), fine, rtol=1e-7, atol=1e-10)
    a = torch.exp(-fine)
    exact = torch.stack([a, a, a**2], dim=1)[1:]  # but for 1/1000
    assert (y[1:] - exact).abs().max() < 1e-2


def over_decades(points: int) -> Runs:
    """A → B at 10 per second and B → C at 0.02, observed from 1e-3 to 1e3 seconds."""
    t, (fast, slow) = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, points)]), (10.0, 0.02)
    a = np.exp(-fast * t)
    b = fast / (fast - slow) * (np.exp(-slow * t) - np.exp(-fast * t))
    return Runs([Run("a", t, np.stack([a, b, 1 - a - b], axis=1))], ["A", "B", "C"], initial="known")


@pytest.mark.parametrize("seed", [0, 1])
def test_where_nothing_is_known_of_data_over_decades(seed: int) -> None:
    """Rates are production and loss, and the fit is good where nothing was observed."""
    model = Closure(None, [6], seed=seed)
    result = fit(model, over_decades(16))
    assert type(model.features).__name__ == "LogFeatures"
    assert torch.allclose(model.rates.scale, model.typical)  # one per second, the middle of 1e-3 … 1e3
    error = result.report(over_decades(61)).mean
    assert error < 4e-3, f"seed {seed}: {error:.1e}; look at _over_decades in closures/alone.py"


def test_data_over_decades_with_noise_that_is_known() -> None:
    """Away from the noise the fit is nearer to the truth than the data are."""
    (exact,) = over_decades(16)
    values = exact.values + 0.01 * np.random.default_rng(0).standard_normal(exact.values.shape)
    run = Run("a", exact.times, values, y0=exact.values[0])
    runs = Runs([run], ["A", "B", "C"], initial="known", noise=np.full(3, 0.01))
    model = Closure(None, [6, 6])
    error = fit(model, runs).report(over_decades(61)).mean
    assert type(model.features).__name__ == "LogFeatures", "noise does not settle; look at MOVED in alone.py"
    assert error < 0.8, f"{error:.2f} of the noise; look at RIDGE_OF_NOISE in closures/alone.py"


def test_what_can_be_negative_is_no_amount() -> None:
    """Production and loss would not take a component below 0."""
    runs = over_decades(16)
    below = Runs([Run("a", runs[0].times, runs[0].values - 0.5)], runs.components, initial="known")
    model = Closure(None, [6])
    model.prepare(below)
    assert type(model.rates).__name__ == "_Reacting"


def test_a_fit_that_is_not_good_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "GOOD", 1e-12)
    model, strategy = Closure(None, [4]), Whole(last=2)
    result = fit(model, over_decades(16), strategy=strategy)
    assert len(result.attempts) == alone.ATTEMPTS
    assert len({attempt.error for attempt in result.attempts}) > 1, "look at reset_parameters in networks.py"
    once = fit(Closure(None, [4]), over_decades(16), strategy=strategy, attempts=1)
    assert len(once.attempts) == 1, "what is asked for counts"
    with pytest.raises(ValueError, match="judged is for optimizer='lm'"):
        fit(Closure(None, [4]), over_decades(16), optimizer="adam", iterations=1, judged=1.0)
    fit(Closure(None, [4]), over_decades(16), optimizer="adam", iterations=1)  # which has no attempts


def test_what_is_said_is_not_taken_from_data() -> None:
    """With a head, a scale, sums or a network of one's own a closure is what it was asked to be."""
    for given in (
        {"head": Linear()},
        {"scale": 1.0},
        {"where": ["A", "B", "C"]},
        {"conserve": np.ones((1, 3))},
    ):
        model = Closure(None, [4], **given)
        model.prepare(settling())
        assert type(model.rates).__name__ != "_Relaxing"
    every = Closure(None, [4])
    t = np.linspace(0, 2, 21)
    slow = np.stack([np.exp(-t), 1 - np.exp(-t)], axis=1)  # nothing settles within an interval
    every.prepare(Runs([Run("a", t, slow)], ["A", "B"], initial="known"))
    assert type(every.rates).__name__ == "_Reacting"
