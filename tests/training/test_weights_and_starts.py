"""Observations of weight 0 count nowhere; reports weigh as fits do; runs start where the fit found them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from decays import Chain, Decay, chain_runs

from stiffml import Grid
from stiffml.closures import Closure, missing_rate
from stiffml.training import (
    GrowingHorizon,
    MultipleShooting,
    Run,
    Runs,
    Strategy,
    Whole,
    fit,
    from_pandas,
    least_squares,
    read_netcdf,
)
from stiffml.training.fitting import default_strategy

TIMES = np.linspace(0, 2, 21)
OUTLIER = 10


def decay(name: str, row: int, value: float, weight: float = 1.0, noise: float = 0.02) -> Run:
    """A run of e⁻ᵗ with errors, with one value of its own, of that weight; all others weigh 1."""
    y = np.exp(-TIMES) + noise * np.random.default_rng(0).standard_normal(len(TIMES))
    y[0], weights = 1.0, np.ones((len(TIMES), 1))
    y[row], weights[row] = value, weight
    return Run(name, TIMES, y[:, None], weights=weights)


def pair(row: int = OUTLIER, **more: object) -> tuple[Runs, Runs]:
    """The same run twice: with an outlier of weight 0, and with a gap in its place."""
    made = [Runs([decay("a", row, v, w)], ["A"], **more) for v, w in ((50.0, 0.0), (np.nan, 1.0))]
    return made[0], made[1]


@pytest.mark.parametrize("noise", [None, 0.02])
def test_an_outlier_without_weight_is_a_gap_to_a_fit_and_its_report(noise: float | None) -> None:
    found = []
    for runs in pair(noise=noise, initial="known"):
        result = fit(Decay(1.2), runs, validate=runs, target=1e-9, judged=1e-9, steps=Grid(4))
        report = result.report(runs)
        assert "too long" not in str(report)
        assert not np.isfinite(report.errors).all() or report.mean < 2 * result.error
        assert type(default_strategy(runs)).__name__ == "GrowingHorizon", "no start lies at the outlier"
        found.append((result.scale, result.error, report.mean, report.errors, result.attempts[0].judged))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_an_outlier_without_weight_is_a_gap_to_closures() -> None:
    outlier, gap = pair()
    found = [missing_rate(lambda t, y: -0.2 * y, runs).scale for runs in (outlier, gap)]
    assert torch.equal(*found)
    sizes = []
    for runs in (outlier, gap):
        model = Closure(lambda t, y: -0.2 * y)
        model.prepare(runs)
        sizes.append((model.typical, model.rates.scale))
    assert torch.equal(sizes[0][0], sizes[1][0])
    assert torch.equal(sizes[0][1], sizes[1][1])


def test_no_part_nor_window_starts_at_an_outlier_without_weight() -> None:
    outlier, gap = pair()
    for runs in (outlier, gap):
        _, late = runs.split("time", at=float(TIMES[OUTLIER]))
        assert late[0].times[0] == TIMES[OUTLIER + 1]
        assert late[0].y0 < 1
    assert outlier.windows(3).names == gap.windows(3).names


def test_a_first_row_without_weight() -> None:
    """It holds the known start, if it is said to; else it says nothing."""
    outlier, gap = pair(row=0)
    assert outlier[0].y0 == gap[0].y0 == outlier[0].values[1]
    assert (outlier.values[1:] == gap.values[1:]).all()
    assert np.isnan(outlier.values[0])
    measured = [runs.with_initial("measured", noise=0.1)[0] for runs in (outlier, gap)]
    assert measured[0].y0 == measured[1].y0
    assert measured[0].y0_noise == measured[1].y0_noise == np.inf
    known = outlier.with_initial("known")
    assert (known[0].y0, known[0].y0_noise, known.values[0]) == (50.0, 0.0, 50.0)
    alone = Run("a", [0.0, 1.0], [[2.0], [1.0]], weights=np.zeros((2, 1)))
    assert alone.y0 == 2.0, "the first value is a better guess than 0 where nothing counts"


def test_a_column_without_weight_is_a_component_not_observed() -> None:
    t = np.linspace(0, 1, 6)
    values = np.stack([np.exp(-t), 9 + t], axis=1)
    runs = Runs([Run("a", t, values, weights=np.stack([np.ones(6), np.zeros(6)], axis=1))], ["A", "B"])
    (window,) = runs.windows(2, stride=2)[1:]
    assert (window.y0_noise[0], window.y0_noise[1]) == (0.0, np.inf)


def test_weights_of_a_table_make_gaps() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"t": [0.0, 1.0, 2.0], "A": [1.0, 7.0, 0.3], "w": [1.0, 0.0, 1.0]})
    runs = from_pandas(frame, time="t", columns=["A"], weights={"A": "w"})
    assert runs[0].mask[:, 0].tolist() == [True, False, True]
    assert runs[0].values[1, 0] == 7.0, "what was read can still be seen"


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_a_report_weighs_as_the_fit_does(weight: float) -> None:
    run = decay("a", 0, 1.0)
    data = Runs([Run("a", run.times, run.values, weights=np.full((21, 1), weight))], ["A"], initial="known")
    result = least_squares(Decay(1.2), data)
    report = result.report()
    np.testing.assert_allclose(report.mean, result.error, rtol=1e-3)
    np.testing.assert_allclose(report.errors[0, 0], report.mean)
    assert "too long" not in str(report)


def test_fitted_runs_start_where_the_fit_found_them_in_whatever_set() -> None:
    data = chain_runs(noise=0.02, seed=1).with_initial({"A": "learned"})
    result = fit(Chain(3.0, 800.0), data, steps=Grid(4))
    equal = Runs([Run(r.name, r.times, r.values) for r in data], data.components, initial="known")
    equal = equal.with_initial({"A": "learned"})
    for runs in (data, equal, data[["b"]], data[::-1]):
        for one in result.resolved(runs):
            np.testing.assert_array_equal(one.y[0], result.initial[one.run.name])
        assert not result.report(runs).unseen
    changed = Runs([Run("a", data[0].times, data[0].values * 1.5)], data.components)
    renamed = Runs([Run("z", data[0].times, data[0].values)], data.components)
    for runs in (changed, renamed, Runs([*data, *renamed], data.components)):
        assert result.report(runs).unseen


def test_steps_are_judged_by_all_runs_that_were_fitted_to() -> None:
    """A run that is harder than the others does not show that steps are too long."""
    rng = np.random.default_rng(0)
    runs = Runs(
        [
            decay("a", 0, 1.0, noise=1e-4),
            Run("b", TIMES, np.exp(-TIMES)[:, None] + rng.normal(0, 0.2, (21, 1))),
        ],
        ["A"],
        initial=1.0,
    )
    result = least_squares(Decay(1.2), runs)
    assert result.report(runs[["b"]]).mean > 1.5 * result.error
    assert "too long" not in str(result.report(runs[["b"]]))
    assert "too long" not in str(result.report(runs))
    coarse = fit(Decay(1.2), runs[["a"]], method="beuler", steps=Grid(1))
    assert "too long" in str(coarse.report(Runs(list(runs)[:1], ["A"])))


def test_a_split_by_time_leaves_out_runs_with_one_time_before_it() -> None:
    short = Run("short", [0.0, 1.0], [[1.0], [0.4]])
    runs = Runs([short, decay("a", 0, 1.0)], ["A"], initial="known")
    for how in ({"at": 0.5}, {"fraction": 0.6}):
        early, late = runs.split("time", **how)
        assert (early.names, late.names) == (("a",), ("a",))
        fit(Decay(1.2), early, validate=late, steps=Grid(1))
    with pytest.raises(ValueError, match="leaves one part empty: there are no two times of a run before"):
        runs.split("time", at=0.05)


def test_nothing_is_lost_in_a_file(tmp_path: Path) -> None:
    """Values of weight 0 are kept as they are."""
    outlier, _ = pair(initial="known")
    outlier.to_netcdf(tmp_path / "runs.nc")
    again = read_netcdf(tmp_path / "runs.nc")
    np.testing.assert_array_equal(again[0].values, outlier[0].values)
    np.testing.assert_array_equal(again[0].weights, outlier[0].weights)


@pytest.mark.parametrize("strategy", [MultipleShooting((2,)), GrowingHorizon(4), Whole()])
def test_a_fit_with_a_value_of_weight_zero_is_one_without_it(strategy: Strategy) -> None:
    """Also where intervals start from observations: the outlier is none of them."""
    found = [fit(Decay(1.2), runs, strategy=strategy, steps=Grid(2)) for runs in pair(initial=1.0)]
    with_it, without = [(r.model.k.item(), r.error, r.report().mean, r.scale.item()) for r in found]
    np.testing.assert_array_equal(with_it, without)
