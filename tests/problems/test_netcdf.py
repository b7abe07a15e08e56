"""Files say what made them, in the words of the CF conventions, and read back without complaint."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from typer.testing import CliRunner

import problems
import stiffml
from problems.datasets import labels_of
from stiffml.cli import app
from stiffml.files import save_netcdf


def decoded(path: Path) -> xarray.Dataset:
    """As a viewer opens it: with all of CF's decoding, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_dataset(path, engine="h5netcdf", decode_cf=True, decode_coords="all") as data:
            return data.load()


@pytest.mark.parametrize(
    ("name", "options"), [("pollu", ()), ("h2air", ()), ("ks", ("--size", "16", "--split"))]
)
def test_a_solution_says_how_it_was_made(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    method = ["--method", "arkimex-3"] if options else []
    command = ["solve", name, "--rtol", "1e-4", *method, *options, "--out", str(tmp_path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    data = decoded(tmp_path / "solution.nc")
    problem = problems.load(name)
    about = data.attrs
    assert about["Conventions"] == "CF-1.8"
    assert about["stiffml_version"] == stiffml.__version__
    assert (about["problem"], about["rtol"], about["split"]) == (name, 1e-4, int(bool(options)))
    expected = np.unique(problem.atol(1e-4).numpy())
    np.testing.assert_allclose(np.unique(about["atol"]), expected)
    assert set(json.loads(about["drift"])) == set(problem.invariants)
    assert ("digits" in about) == (not options)
    assert data["time"].dtype == np.float64, "times are numbers, not dates"
    assert data["time"].attrs["units"] == problem.time_units
    assert data["component"].values.tolist() == list(problem.components)
    for axis in problem.grid:
        assert data[axis].attrs["units"] == problem.grid_units
        assert data[axis].attrs["axis"] == "X"
    for variable in (*data.data_vars.values(), *data.coords.values()):
        assert "long_name" in variable.attrs, f"{variable.name} has no long_name"
        assert " " not in str(variable.attrs.get("units", "")).replace("m3/(mol s)", "")


def test_units_are_those_of_all_components_or_of_each() -> None:
    pollu = labels_of(problems.load("pollu")).dataset(np.zeros(1), {"state": np.zeros((1, 20))})
    assert pollu["state"].attrs["units"] == "ppm"
    gas = problems.load("h2air")
    mixed = labels_of(gas).dataset(np.zeros(1), {"state": np.zeros((1, gas.size))})
    assert "units" not in mixed["state"].attrs
    assert mixed["units"].values[0] == "K"


def test_solutions_of_problems_have_names_and_units() -> None:
    problem = problems.load("hires")
    solution = problem.solve(problem.times(3), rtol=1e-3)
    data = solution.to_xarray()
    assert data["component"].values.tolist() == list(problem.components)
    np.testing.assert_array_equal(data["state"].values, solution.y.numpy())
    assert data.attrs["accepted"] == solution.stats.accepted
    assert [panel.get_title() for panel in solution.plot().axes] == list(problem.components)
    assert solution.to_xarray(names=list("abcdefgh"))["component"].values[0] == "a"


def test_observations_and_measurements_have_the_same_words(tmp_path: Path) -> None:
    problem = problems.load("hires")
    data = problem.dataset(4, noise=0.01, rtol=1e-4)
    assert data["observed"].dims == problem.solve(problem.times(3)).to_xarray()["state"].dims
    save_netcdf(tmp_path / "a.nc", data)
    read = decoded(tmp_path / "a.nc")
    assert {"rtol", "atol", "method", "Conventions", "stiffml_version"} <= set(read.attrs)


def test_solutions_without_a_problem(tmp_path: Path) -> None:
    y0 = (torch.ones(2, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    t = torch.linspace(0, 1, 3, dtype=torch.float64)
    data = stiffml.solve(lambda t, y: (-y[0], -y[1]), y0, t).to_xarray()
    assert set(data.data_vars) == {"state0", "state1"}
    save_netcdf(tmp_path / "a.nc", data)
    assert decoded(tmp_path / "a.nc")["state0"].shape == (3, 2, 3)
