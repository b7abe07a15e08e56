"""The commands, with problems of the library and with the one in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import problems
from problems.library import ignition
from stiffml.cli import app
from stiffml.cli.screen import console
from stiffml.extras import to_install

README = Path(__file__).parents[2] / "README.md"


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is broken."""
    monkeypatch.setattr(console, "_width", 200)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The README's problem as a file."""
    (code,) = re.findall(r"```python\n# lake\.py\n(.*?)```", README.read_text(), re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 15, f"the README's own problem takes {len(lines)} lines"
    path = tmp_path / "lake.py"
    path.write_text(code)
    return path


def test_problems_lists_them_all() -> None:
    text = run("problems")
    for name in problems.names():
        assert re.search(rf"│ {name} +│", text), f"{name} is missing"
    assert "325 reactions" in text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pollu", ["NO2 -> NO + O3P", "Verwer", "-4.4", "nitrogen, sulphur, carbon", "k25"]),
        ("akzo", ["FLB.ZHU", "Stortelder", "34.4"]),
        ("brusselator", ["u² v", "a linear implicit part", "breakpoints", "1.1", "2048"]),
        ("h2air", ["H2O2", "phi", "29 values", "Cantera"]),
    ],
)
def test_problems_shows_one(name: str, parts: list[str]) -> None:
    text = run("problems", name)
    for part in parts:
        assert part in text, f"{part} is missing from\n{text}"


def test_problems_with_other_values() -> None:
    assert "0.001" in run("problems", "vanderpol", "--set", "eps=1e-3")
    assert "128" in run("problems", "brusselator", "--size", "8")
    assert "need the name of a problem" in run("problems", "--size", "8", status=1)


def test_solve(tmp_path: Path) -> None:
    text = run(
        "solve", "vanderpol", "--method", "cn", "--rtol", "1e-4", "--set", "eps=1e-2", "--out", tmp_path
    )
    assert "no reference at an output time" in text
    text = run("solve", "ks", "--method", "arkimex-3", "--split", "--size", "16", "--out", tmp_path)
    assert "drift of mean" in text
    data = problems.load_dataset(tmp_path / "solution.nc")
    assert data["state"].shape == (61, 1, 16)
    assert data.attrs["method"] == "arkimex-3"
    assert (tmp_path / "solution.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"solution.nc", "solution.png"}
    text = run("solve", "hires", "--rtol", "1e-4", "--out", tmp_path)
    assert re.search(r"digits at t = 321\.812 +│ [3-5]\.\d \(error", text)


def test_workprecision(tmp_path: Path) -> None:
    options = ("--rtols", "1e-3,1e-5", "--repeats", "1", "--out", tmp_path)
    text = run("workprecision", "burgers", "--size", "32", "--methods", "bdf,arkimex-3/split", *options)
    assert "computed by an integrator of scipy" in text
    data = problems.load_dataset(tmp_path / "workprecision.nc")
    assert data["digits"].shape == (2, 2)
    assert float(data["digits"].min()) > 1
    assert (tmp_path / "workprecision.png").read_bytes().startswith(b"\x89PNG")


def test_a_problem_of_ones_own_works_with_every_command(own: Path, tmp_path: Path) -> None:
    assert "lake" in run("problems", own)
    assert "drift" not in run("solve", own, "--set", "rate=100", "--out", tmp_path / "run")
    run(
        "workprecision",
        own,
        "--methods",
        "bdf",
        "--rtols",
        "1e-4",
        "--repeats",
        "1",
        "--out",
        tmp_path / "run",
    )
    problem = problems.load(str(own))
    func = problem.func("rate")
    problem.solve(problem.times(3))
    (gradient,) = torch.autograd.grad(
        func(torch.tensor(0.0), problem.initial_state()).square().sum(), list(func.parameters())
    )
    assert gradient != 0
    assert problem.dataset(4, seed=1)["state"].shape == (5, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("solve", "hirse"), "no problem 'hirse'. Did you mean 'hires'?"),
        (("solve", "hires", "--method", "bdf9"), "unknown name 'bdf9'"),
        (("solve", "hires", "--set", "k1"), "--set k1: write NAME=VALUE"),
        (("solve", "hires", "--set", "kk=2"), "hires has no parameter kk"),
        (("solve", "hires", "--size", "4"), "hires has no grid"),
        (("solve", "hires", "--split"), "hires has no natural split"),
        (("solve", "nowhere.py"), "no file nowhere.py"),
        (("workprecision", "hires", "--methods", "bdf,rkk"), "unknown name 'rkk'"),
    ],
)
def test_mistakes_are_explained(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "run"))
    assert message in run(*arguments, *out, status=1).replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_problems_are_listed_without_cantera(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(file: str) -> None:
        raise FileNotFoundError(f"no file {file!r} here; {to_install('chemistry')}")

    monkeypatch.setattr(ignition, "_mechanism", missing)
    text = run("problems")
    assert "pip install '.[chemistry]'" in text
    assert "gray_scott" in text
    assert "pip install '.[chemistry]'" in run("solve", "h2air", status=1)
