"""Runs: what they hold, how they start, what they are turned into."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

import problems
import stiffml
from stiffml.training.data import Forcing, Run, Runs, from_xarray, read_netcdf

NAN = float("nan")


def small() -> Runs:
    """Two runs with everything that a run may have."""
    table = Forcing([0.0, 3.0], [[300.0], [400.0]], ("T",))
    longer = Forcing([0.0, 1.0, 2.0], [[300.0], [310.0], [330.0]], ("T",))
    a = Run("a", [0, 1, 4], [[1.0, NAN], [0.5, 0.4], [NAN, 0.9]], {"p": 1.5}, table, [[1, 1], [2, 3], [1, 4]])
    b = Run("b", [0, 2], [[2.0, 0.0], [NAN, 1.5]], {"p": 2.5}, longer)
    units = {"A": "mol/L", "B": "mol/L", "p": "bar", "T": "K"}
    return Runs([a, b], ["A", "B"], units=units, time_units="s", noise={"A": 0.1})


def same(a: Runs, b: Runs) -> None:
    assert (a.names, a.components, a.inputs) == (b.names, b.components, b.inputs)
    assert (a.labels.time_units, dict(a.labels.units)) == (b.labels.time_units, dict(b.labels.units))
    np.testing.assert_array_equal(a.noise, b.noise)
    for one, other in zip(a, b, strict=True):
        for name in ("times", "values", "weights", "y0", "y0_noise"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert (one.inputs, one.source) == (other.inputs, other.source)
        assert (one.forcing is None) == (other.forcing is None)
        if one.forcing and other.forcing:
            np.testing.assert_array_equal(one.forcing.times, other.forcing.times)
            np.testing.assert_array_equal(one.forcing.values, other.forcing.values)


def test_noise_is_one_number_or_goes_by_name() -> None:
    for wrong in ([0.1, 0.2], (0.1,), np.array([1, 2])):
        with pytest.raises(TypeError, match=r'noise must be one number, or a mapping by name, \{"A": …'):
            Runs([Run("a", [0.0], [[1.0]])], ["A"], noise=wrong)


def test_access() -> None:
    runs = small()
    assert runs["b"] is runs[1] is runs[-1]
    assert runs[:1].names == ("a",)
    assert runs[["b", "a"]].names == ("b", "a")
    assert [run.name for run in runs] == ["a", "b"]
    assert (len(runs), len(runs["a"]), runs.inputs, runs.units_of("T")) == (2, 3, ("p",), "K")
    assert runs.values.shape == (5, 2)
    np.testing.assert_array_equal(runs.times, [0, 1, 4, 0, 2])
    with pytest.raises(ValueError, match="there is no 'aa'; did you mean a"):
        runs["aa"]
    with pytest.raises(IndexError):
        runs[5:]
    with pytest.raises(ValueError, match="read-only"):
        runs[0].values[0, 0] = 1


def test_what_was_given_stays_the_callers() -> None:
    times, values = np.array([0.0, 1.0]), np.ones((2, 1))
    run = Run("a", times, values)
    values[0, 0] = 7
    assert run.values[0, 0] == 1


def test_initial_values() -> None:
    runs = small()
    a, b = runs
    np.testing.assert_array_equal(a.y0, [1.0, 0.4])  # the earliest observation of each
    np.testing.assert_array_equal(a.y0_noise, [np.inf, np.inf])
    a, b = runs.with_initial({"A": "known", "B": 0.0})
    np.testing.assert_array_equal([a.y0, b.y0], [[1, 0], [2, 0]])
    np.testing.assert_array_equal([a.y0_noise, b.y0_noise], np.zeros((2, 2)))
    a, b = runs.with_initial("measured", noise={"A": 0.1, "B": 0.2})
    np.testing.assert_array_equal(a.y0, [1.0, 0.4])
    np.testing.assert_array_equal(a.y0_noise, [0.1, np.inf])  # B was not observed there
    np.testing.assert_array_equal(b.y0_noise, [0.1, 0.2])
    a, _ = runs.with_initial({"A": 5.0}).with_initial({"A": "learned"})
    assert (a.y0[0], a.y0_noise[0]) == (5.0, np.inf)  # where to begin
    with pytest.raises(
        ValueError, match=r'B is to be "known", but run a has no observation .* first time, 0'
    ):
        runs.with_initial("known")
    with pytest.raises(ValueError, match=r'B is to be "measured", which needs .* noise'):
        runs.with_initial("measured")
    with pytest.raises(ValueError, match="there is no 'AB'"):
        runs.with_initial({"AB": 0.0})
    with pytest.raises(
        ValueError, match='A must be "known", "measured", "learned" or a number, not \'fixed\''
    ):
        runs.with_initial("fixed")


def test_a_start_before_the_first_observation() -> None:
    runs = small().starting_at(-1.0).with_initial({"A": 3.0, "B": "learned"})
    a = runs["a"]
    np.testing.assert_array_equal(a.times, [-1, 0, 1, 4])
    assert not a.mask[0].any()
    np.testing.assert_array_equal(a.y0, [3.0, 0.4])
    known = small().with_initial(1.0).starting_at(-1.0)["a"]
    assert np.isinf(known.y0_noise).all(), "what was known of the first observation is not of an earlier time"
    with pytest.raises(ValueError, match=r"start = 0.5 lies after the first time of run a"):
        runs.starting_at(0.5)


def test_hidden_components_start_at_zero() -> None:
    run = Run("a", [0, 1], [[NAN, 1], [NAN, 2]])
    np.testing.assert_array_equal(run.y0, [0, 1])


@pytest.mark.parametrize("end", ["netcdf", "xarray"])
def test_round_trip(end: str, tmp_path: Path) -> None:
    runs = small().with_initial({"A": "measured", "B": 0.0})
    if end == "netcdf":
        runs.to_netcdf(tmp_path / "runs.nc")
        assert [path.name for path in tmp_path.iterdir()] == ["runs.nc"]
        same(read_netcdf(tmp_path / "runs.nc"), runs)
        same(read_netcdf(tmp_path / "runs.nc", initial={"B": 1.0}), runs.with_initial({"B": 1.0}))
    else:
        same(from_xarray(runs.to_xarray()), runs)
    windows = Runs([replace(run, forcing=None, inputs={}) for run in runs], runs.components).windows(1)
    same(from_xarray(windows.to_xarray()), windows)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        small().to_netcdf(tmp_path / "nowhere" / "runs.nc")


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "runs.nc"
    with pytest.raises(FileNotFoundError):
        read_netcdf(path)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"runs\.nc is no netCDF file"):
        read_netcdf(path)
    small().to_netcdf(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"runs\.nc is no netCDF file, or is truncated"):
        read_netcdf(path)
    problems.save_dataset(xarray.Dataset({"a": ("x", [1.0])}), path)
    with pytest.raises(ValueError, match=r"runs\.nc: time: there is no 'time'"):
        read_netcdf(path)
    wrong = small().to_xarray()
    wrong["weights"] = -wrong["weights"]
    problems.save_dataset(wrong, path)
    with pytest.raises(ValueError, match=r"runs\.nc: Run a: weights must not be negative"):
        read_netcdf(path)


def test_datasets_of_problems() -> None:
    problem = problems.load("robertson").make(t_span=(0.0, 1.0))
    data = problem.dataset(
        5, noise=0.01, trajectories=2, sampler=lambda rng: rng.dirichlet([5, 1, 1]), rtol=1e-4
    )
    runs = from_xarray(data)
    assert (len(runs), runs.components) == (2, problem.components)
    np.testing.assert_array_equal(runs[1].values, data["observed"][1])
    np.testing.assert_array_equal(runs[1].times, data["time"])
    np.testing.assert_allclose(runs.noise, 0.01 * problem.scale)
    exact = from_xarray(data, "state")
    np.testing.assert_array_equal(exact[0].values, data["state"][0])
    assert np.isnan(exact.noise).all()
    with pytest.raises(ValueError, match="variable: there is no 'stat'; did you mean state"):
        from_xarray(data, "stat")


def test_fields_are_flattened() -> None:
    data = problems.load("brusselator", size=4).make(t_span=(0.0, 0.1)).dataset(2, noise=0.01, rtol=1e-3)
    runs = from_xarray(data)
    flat = data["observed"].values.reshape(3, -1)
    np.testing.assert_array_equal(runs[0].values, flat)
    grid = data["observed"].shape[2:]
    assert runs.components[-1].endswith(f"[{','.join(str(n - 1) for n in grid)}]")
    assert len(runs.noise) == flat.shape[1]


def test_variables_of_their_own() -> None:
    """Runs with times of their own, one variable a component, as xarray aligns them."""
    one = xarray.Dataset({"A": ("time", [1.0, 2.0]), "B": ("time", [3.0, 4.0])}, {"time": [0.0, 1.0]})
    one["A"].attrs["units"] = "mol/L"
    two = xarray.Dataset({"A": ("time", [5.0]), "B": ("time", [6.0])}, {"time": [0.5]})
    both = xarray.concat([one, two], dim="exp", join="outer").assign_coords(exp=["x", "y"])
    runs = from_xarray(both, run="exp")
    assert (runs.names, runs.components, runs.units_of("A"), runs.units_of("B")) == (
        ("x", "y"),
        ("A", "B"),
        "mol/L",
        "1",
    )
    np.testing.assert_array_equal(runs["x"].values, [[1, 3], [2, 4]])
    np.testing.assert_array_equal(runs["y"].times, [0.5])
    solution = from_xarray(
        stiffml.solve(lambda t, y: -y, torch.ones(2), torch.linspace(0, 1, 3)).to_xarray(["a", "b"])
    )
    assert (solution.components, solution.names) == (("a", "b"), ("run0",))


def test_runs_that_do_not_fit_are_named() -> None:
    a, b = small()
    for runs, message in (
        ([a, a], "names must differ, but a"),
        ([a, replace(b, inputs={})], r"a has inputs \('p',\), but b has \(\)"),
        ([a, replace(b, forcing=None)], "but b has None"),
        ([a, Run("c", [0], [[1.0]])], "components: there are 2, A, B, but run c has 1"),
        ([], "runs must not be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            Runs(runs, ["A", "B"])
    with pytest.raises(ValueError, match="Run a: times must increase, but 1 is there twice"):
        Run("a", [0, 1, 1], np.zeros((3, 1)))
    with pytest.raises(ValueError, match="Run a: times must increase, but 2 comes before 1"):
        Run("a", [0, 2, 1], np.zeros((3, 1)))
    with pytest.raises(
        ValueError, match=r"Run a: values must be finite, or NaN where missing, not inf at \[1, 0\]"
    ):
        Run("a", [0, 1], [[0.0], [np.inf]])
    with pytest.raises(ValueError, match="T is missing at time 1"):
        Forcing([0, 1], [[1.0], [NAN]], ("T",))


def test_display_fits_a_screen_and_escapes() -> None:
    many = Runs(
        [Run(f"run {i} of a long campaign <b>{'x' * 50}", [0], np.ones((1, 40))) for i in range(100)],
        [f"component with a long name {i}" for i in range(40)],
    )
    lines = repr(many).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 200
    assert "… and 84 more" in lines[-1]
    html = many._repr_html_()
    assert "<b>" not in html
    assert html.count("<tr>") == 17
    assert re.search(r"2 windows of 2 runs", repr(small().windows(1)))


def test_plot_shows_every_observation() -> None:
    runs = small()
    figure = runs.plot()
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == ["A [mol/L]", "B [mol/L]"]
    assert panels[0].get_xscale() == "linear"
    assert panels[0].get_xlabel() == "time [s]"
    np.testing.assert_array_equal(panels[0].lines[0].get_ydata(), runs["a"].values[:, 0])
    spread = Runs([Run("a", [0, 1e-4, 1, 100], np.ones((4, 1)))], ["A"])
    (panel,) = spread.plot().axes
    assert panel.get_xscale() == "symlog"
    assert panel.get_xlim()[0] < 0, "the observation at time 0 is seen"
    assert Runs([spread[0].cut(1, 4, spread.noise)], ["A"]).plot().axes[0].get_xscale() == "log"
