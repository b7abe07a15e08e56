"""A file whose model, or network, is a module: each training and each attempt begins as it should."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from decays import lab_table
from typer.testing import CliRunner

from stiffml.cli import app
from stiffml.cli.asked import Asked
from stiffml.cli.own_file import OwnModel, _module, own_set_up
from stiffml.training import fit

MODEL = """
import torch
class M(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.n = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
        with torch.no_grad():
            for p in self.n[2].parameters(): p.mul_(.1)
    def forward(self, t, y): return self.n(y)
components = ["A", "B"]
"""
NETWORK = """
import torch
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
known = lambda t, y: -y
scale = 1.0
components = ["A", "B"]
"""
PLAIN = """
import torch
class P(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.k = torch.nn.Parameter(torch.ones(2).double())
    def forward(self, t, y): return -self.k * y
model = P()
components = ["A", "B"]
"""
AGAIN = """
from stiffml.training import Whole
fit_options = {"attempts": 3, "target": 1e-7, "strategy": Whole(last=4)}
"""


@pytest.fixture
def asked(tmp_path: Path):
    """code -> what the command line asks of a file with it, of a table of two decays."""
    lab_table(tmp_path)

    def made(code: str) -> Asked:
        path = tmp_path / "own.py"
        path.write_text(code)
        _module.cache_clear()
        return Asked(str(path), data=tmp_path / "lab.csv")

    return made


def numbers(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])


@pytest.mark.parametrize("code", [MODEL + "model = M()\n", NETWORK])
def test_each_training_begins_with_weights_that_no_other_has_changed(code: str, asked) -> None:
    chosen = own_set_up(asked(code))
    assert isinstance(chosen.model, OwnModel), "other processes can get it"
    first, before = chosen.model(0), numbers(chosen.model(0))
    with torch.no_grad():
        for p in first.parameters():
            p.add_(1.0)
    assert torch.equal(numbers(chosen.model(0)), before)
    assert torch.equal(numbers(chosen.model(1)), before)


@pytest.mark.parametrize("code", [MODEL + "model = M()\n", NETWORK])
def test_attempts_begin_anew(code: str, asked) -> None:
    """As those of ``fit`` with the module itself."""
    said = asked(code + AGAIN)
    chosen = own_set_up(said)
    before = numbers(own_set_up(said).model)
    result = fit(chosen.model, chosen.data, seed=3, **chosen.of("lm"))
    assert torch.equal(numbers(own_set_up(said).model), before)
    rows = result.history
    first = [float(rows["error"][rows["attempt"] == k][0]) for k in range(3)]
    last = [float(rows["error"][rows["attempt"] == k][-1]) for k in range(3)]
    assert len(set(first)) == 3
    assert first[1] > 1.5 * last[0], "it went on from where the attempt before had ended"
    again = fit(own_set_up(said).model, chosen.data, seed=3, **chosen.of("lm"))
    np.testing.assert_array_equal(again.history["error"], rows["error"])


def test_a_module_that_cannot_begin_anew_is_refused_as_fit_does(asked) -> None:
    chosen = own_set_up(asked(PLAIN + AGAIN))
    with pytest.raises(ValueError, match="attempts: parameter k belongs to no module with reset_parameters"):
        fit(chosen.model, chosen.data, **chosen.of("lm"))
    fit(chosen.model, chosen.data, optimizer="adam", iterations=2, **chosen.of("adam"))


def test_compared_trainings_begin_alike(asked, tmp_path: Path) -> None:
    said = asked(MODEL + "model = M()\n")
    command = ["compare", said.name, "--data", said.data, "--seeds", "1", "--iterations", "3"]
    command += ["--methods", "cn,sdirk3", "--optimizers", "adamw", "--out", tmp_path / "c"]
    result = CliRunner().invoke(app, [str(one) for one in command])
    assert result.exit_code == 0, result.output
    with xarray.open_dataset(tmp_path / "c" / "compare.nc", engine="h5netcdf") as data:
        first = data["error"].isel(snapshot=0).values.ravel()
    np.testing.assert_allclose(first, first[0])


def test_a_fit_of_the_command_leaves_the_file_s_module(asked, tmp_path: Path) -> None:
    said = asked(MODEL + "model = M()\n" + AGAIN)
    command = ["fit", said.name, "--data", said.data, "--seed", "2024", "--out", tmp_path / "f"]
    result = CliRunner().invoke(app, [str(one) for one in command])
    assert result.exit_code == 0, result.output
    assert "begun anew 2 times" in re.sub(r"[│\s]+", " ", result.output)


def test_what_other_processes_cannot_get_is_refused(asked, tmp_path: Path) -> None:
    said = asked(MODEL + "model = M()\n" + AGAIN)
    command = ["compare", said.name, "--data", said.data, "--jobs", "2", "--out", tmp_path / "c"]
    result = CliRunner().invoke(app, [str(one) for one in command])
    assert result.exit_code == 2
    assert "model = lambda seed: M(…)" in re.sub(r"\s+", " ", result.output)
    assert not (tmp_path / "c").exists()
