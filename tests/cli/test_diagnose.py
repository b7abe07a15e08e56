"""``stiffml diagnose``: the report, its files, and files as arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray
from typer.testing import CliRunner

from stiffml.cli import app
from stiffml.cli.screen import console, errors


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)
    monkeypatch.setattr(errors, "_width", 80)


def test_a_report_with_files(tmp_path: Path) -> None:
    text = run("diagnose", "robertson", "--gradient", "--out", tmp_path)
    assert "stiff: rosw-ra34pw2 or bdf" in text
    assert "constant: A + B + C" in text
    assert "by k3" in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) < 80
    for name in ("stiffness.nc", "stiffness.png", "gradient.nc", "gradient.png"):
        assert (tmp_path / name).stat().st_size > 1000
    with xarray.open_dataset(tmp_path / "gradient.nc", engine="h5netcdf") as data:
        assert list(data["parameter"].values) == ["k1", "k2", "k3"]
    again = run("diagnose", tmp_path / "stiffness.nc")
    assert again.splitlines()[0] == "robertson"
    assert again.splitlines()[1:12] == text.splitlines()[1:12]
    assert "takes no options" in run("diagnose", tmp_path / "stiffness.nc", "--gradient", status=2)
    assert "neither by" in run("diagnose", tmp_path / "gradient.nc", status=2)


def test_a_solution_file_says_the_problem_and_its_values(tmp_path: Path) -> None:
    run("solve", "vanderpol", "--set", "eps=0.5", "--method", "cn", "--rtol", "1e-3", "--out", tmp_path)
    text = run("diagnose", tmp_path / "solution.nc")
    assert text.startswith("vanderpol, cn, rtol 0.001\nnot stiff: dopri5")
    own = run("diagnose", "vanderpol", "--set", "eps=0.5", "--method", "cn", "--rtol", "1e-3")
    assert own == text
    assert "leave them out" in run("diagnose", tmp_path / "solution.nc", "--set", "eps=1", status=2)


def test_a_field_and_a_dae() -> None:
    text = run("diagnose", "burgers", "--size", 400, "--points", 4)
    assert "Only the 6 largest of 400 eigenvalues are known" in " ".join(text.split())
    text = run("diagnose", "pendulum", "--gradient")
    assert "a DAE" in text
    assert "infinite algebraic" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["brusselator", "--gradient"], "breakpoints"),
        (["burgers", "--gradient"], "512 unknowns"),
        (["nix"], "no problem 'nix'"),
        (["nix.nc"], "nix.nc"),
        (["robertson", "--method", "nix"], "nix"),
    ],
)
def test_what_it_refuses(arguments: list[str], words: str) -> None:
    assert words in " ".join(run("diagnose", *arguments, status=2).split())
