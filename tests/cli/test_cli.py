"""The commands, with problems of the library and with the one in the guide."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import problems
from problems.library import ignition
from stiffml import METHODS, __version__
from stiffml.cli import app, screen
from stiffml.cli.screen import Work, console, duration, errors
from stiffml.extras import to_install

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "problems.md"


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    assert ("error: " in result.stderr) == (status != 0), "mistakes go to stderr, results do not"
    return result.output


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is broken."""
    monkeypatch.setattr(console, "_width", 200)
    monkeypatch.setattr(errors, "_width", 200)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The guide's problem as a file."""
    (code,) = re.findall(r"```python\n# lake\.py\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 15, f"the guide's own problem takes {len(lines)} lines"
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
    assert "need the name of a problem" in run("problems", "--size", "8", status=2)


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
    text = run(*arguments, *out, status=2).replace("\n", " ")
    assert message in text
    assert "ValueError" not in text
    assert not (tmp_path / "run").exists()


def test_problems_are_listed_without_cantera(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(file: str) -> None:
        raise FileNotFoundError(f"no file {file!r} here; {to_install('chemistry')}")

    monkeypatch.setattr(ignition, "_mechanism", missing)
    text = run("problems")
    assert "pip install '.[chemistry]'" in text
    assert "gray_scott" in text
    assert "pip install '.[chemistry]'" in run("solve", "h2air", status=2)


def test_steps_of_a_solve(tmp_path: Path) -> None:
    text = run("solve", "prothero", "--method", "cn", "--steps", "fixed:0.1", "--out", tmp_path)
    assert "steps fixed:0.1" in text
    assert re.search(r"steps accepted, rejected +│ 1[0-9]{2}, 0", text), "10 s in steps of at most 0.1"
    text = run(
        "solve", "prothero", "--method", "cn", "--steps", "grid:3", "--points", "20", "--out", tmp_path
    )
    assert re.search(r"steps accepted, rejected +│ 60, 0", text)
    assert problems.load_dataset(tmp_path / "solution.nc").sizes["time"] == 21
    text = run("solve", "prothero", "--steps", "max:0.01", "--out", tmp_path)
    assert int(re.search(r"steps accepted, rejected +│ (\d+)", text)[1]) >= 1000  # type: ignore[index]
    for wrong in ("fixed:x", "grid:0", "often", "fixed:"):
        assert f"--steps {wrong}" in run("solve", "hires", "--steps", wrong, status=2)


def test_counts_are_named_by_what_they_are(tmp_path: Path) -> None:
    text = run("solve", "hires", "--method", "rosw-ra34pw2", "--rtol", "1e-3", "--out", tmp_path)
    assert "linear systems " in text
    assert "Newton" not in text
    assert "Krylov" not in text
    assert "Newton iterations" in run("solve", "hires", "--rtol", "1e-3", "--out", tmp_path)


def test_version() -> None:
    assert run("--version").split() == ["stiffml", __version__]


def test_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("methods")
    for name in METHODS:
        assert re.search(rf"│ {name} +│", text), f"{name} is missing"
    assert re.search(r"│ bdf4 +│ +4 │ A\(73°\)", text)
    text = run("methods", "rosw-rodaspr2")
    assert "L-stable" in text
    assert "no Newton iteration" in text
    assert re.search(r"stiff order +[34]\.", text)
    assert "Did you mean 'bdf5'" in run("methods", "bdff5", status=2)


@pytest.mark.parametrize("command", [("methods",), ("methods", "bdf4"), ("problems",), ("problems", "pollu")])
def test_tables_fit_80_columns(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)
    text = run(*command)
    assert max(map(len, text.splitlines())) <= 80
    if command == ("problems",):
        for name in problems.names():
            assert re.search(rf"│ {name} +│", text), f"{name} is cut"


def test_workprecision_writes_as_it_goes_and_stops_what_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds of this process: those of the clock depend on what else the machine does.
    monkeypatch.setattr("problems.workprecision.time", SimpleNamespace(perf_counter=time.process_time))
    options = ("--rtols", "1e-2,1e-12", "--repeats", "1", "--longest", "3", "--out", tmp_path)
    text = run("workprecision", "hires", "--methods", "beuler,bdf", *options)
    assert "took more than 3 s" in text
    data = problems.load_dataset(tmp_path / "workprecision.nc")
    assert data["failure"].values[0].tolist() == ["", "took more than 3 s"]
    assert float(data["digits"][1, 0]) > 0


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    with Work("fitting", 10) as work:
        for done in range(1, 5):
            work.update(done, note=f"loss {done}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fitting, loss 2: 2 of 10 after 40 s, 160 s left".replace("160 s", "3 min"),
        "fitting, loss 4: 4 of 10 after 80 s, 2 min left",
    ]
    assert [duration(s) for s in (7, 1800, 7200)] == ["7 s", "30 min", "2.0 h"]
