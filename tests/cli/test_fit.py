"""``stiffml fit``: problems, the published experiment, one's own file and table; what is wrong with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from decays import lab_table
from typer.testing import CliRunner

import problems
from problems.learning import Constants, learnable, runs_of, solving
from stiffml import Adaptive
from stiffml.cli import app
from stiffml.cli.screen import console, errors
from stiffml.experiments import robertson
from stiffml.training import Whole, fit

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "fits.md"


@pytest.fixture(scope="module", autouse=True)
def _observations_once():
    """The reference trajectory takes seconds; the tests of this file share it."""
    data = robertson.observations()
    patch = pytest.MonkeyPatch()
    patch.setattr(robertson, "observations", lambda points=40: data)
    yield
    patch.undo()


def run(*arguments: object, status: int = 0, width: int = 80) -> str:
    console._width = errors._width = width
    try:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        console._width = errors._width = None
    assert result.exit_code == status, result.output
    return result.output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def test_the_published_experiment() -> None:
    data = robertson.observations()
    assert sum(p.numel() for p in robertson.Network(0).parameters()) == 155
    assert data.scaled.shape == (41, 3)
    np.testing.assert_allclose(data.lowest, [0.61723, 0, 0], atol=1e-5)
    np.testing.assert_allclose(data.ranges, [0.38277, 3.6486e-5, 0.38276], rtol=2e-5)
    assert data.scaled.min() == 0
    assert data.scaled.max() == 1


def test_robertson_by_adamw(tmp_path: Path) -> None:
    """All files; resumed to the same weights; refused where the folder holds another fit."""
    base = ["fit", "robertson", "--optimizer", "adamw", "--out"]
    text = run(*base, tmp_path / "run", "--iterations", 3)
    for words in ("mean error along its own steps", "solved again, held out", "adamw, seed 0, 3 iterations"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"fit.json", "fit.png", "history.nc", "trajectory.nc", "weights.pt"} <= names
    with xarray.open_dataset(tmp_path / "run" / "trajectory.nc", engine="h5netcdf") as data:
        assert data["time"].attrs["units"] == "s"
        assert data["component"].values.tolist() == ["A", "B", "C"]
        assert int((data["held_out"] == 0).sum()) == 41
        assert data["fitted"].shape == (41 + 199, 3)
    with xarray.open_dataset(tmp_path / "run" / "history.nc", engine="h5netcdf") as history:
        assert history["loss"].shape == (3,)
    run(*base, tmp_path / "halves", "--iterations", 2)
    assert "pass --resume" in run(*base, tmp_path / "halves", status=2)
    run(*base, tmp_path / "halves", "--iterations", 3, "--resume")
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(value, weights(tmp_path / "halves")[name]), f"{name} differs after resuming"


def test_robertson_by_levenberg_marquardt(tmp_path: Path) -> None:
    """To 1e-5 at the observations, 1e-3 at times never seen, beside AdamW's error after the same time."""
    text = run("fit", "robertson", "--seed", 1, "--out", tmp_path)
    found = {
        name: float(re.search(rf"{name} +│ ([\d.e+-]+)", text)[1])
        for name in ("along its own steps", "solved again, held out", "AdamW after the same time")
    }
    assert found["along its own steps"] <= 1e-5
    assert found["solved again, held out"] <= 1e-3
    assert found["AdamW after the same time"] > 3 * found["solved again, held out"]


def test_a_killed_fit_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """A real process, killed without warning in the middle of training."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    options = ["fit", "robertson", "--optimizer", "adamw", "--iterations", "40", "--out"]
    command = [sys.executable, "-m", "stiffml", *options]
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(killed.glob("*.pt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(killed.glob("*.pt")), "nothing was saved before the deadline"
    assert not (killed / "weights.pt").exists(), "it was killed too late to show anything"
    run(*options, killed, "--resume")
    run(*options, straight)
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(killed)[name]), f"{name} differs after the kill"


SMALL = {"burgers": (48, 0.5), "ks": (16, 2.0), "brusselator": (3, 11.5), "gray_scott": (8, 50.0)}
SMALL |= {"allen_cahn": (15, 10.0), "fitzhugh_nagumo": (16, 20.0)}
"""Of fields: points along an axis, and an end before which nothing is chaotic or under-resolved."""

LONG = {
    "ch4air": "54 species",
    "beam": "waves that BDF is unstable for",
    "emep": "66 species, 12 breakpoints",
}
LONG |= {"nand": "3 500 steps of 150 operations, 15 breakpoints"}


SLOW = ("orego", "pollu", "vanderpol", "e5", "h2air")
"""These take half of the time of all."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.sweep] * (n in SLOW)) for n in problems.names() if n not in LONG],
)
def test_constants_of_every_problem_can_be_fitted(name: str) -> None:
    """One iteration lowers the cost, or begins where there is nothing to lower."""
    size, end = SMALL.get(name, (None, None))
    problem = problems.load(name, size=size)
    problem = problem if end is None else problem.make(t_span=(0.0, end))
    names = learnable(problem)
    assert names, "nothing to learn"
    data, unseen = runs_of(problem, 6)
    assert data.components == unseen.components
    assert not set(data[0].times[1:]) & set(unseen[0].times[1:])
    exact = Constants(problem, names, 0)
    for key, value in exact.logarithms.items():
        value.data.fill_(np.log(problem.values[key]))
    for key, value in exact.numbers.items():
        value.data.copy_(torch.as_tensor(problem.values[key]))
    y = problem.initial_state()
    t = torch.tensor(problem.t_span[0], dtype=torch.float64)
    torch.testing.assert_close(exact(t, y.ravel()), problem.func()(t, y).ravel())
    result = fit(
        lambda seed: Constants(problem, names, seed),
        data,
        method="bdf",
        steps=Adaptive(),
        strategy=Whole(last=1),
        **solving(problem),
    )
    cost = result.history["cost"].values
    assert cost[-1] < cost[0]


def test_constants_come_back_with_intervals(tmp_path: Path) -> None:
    text = run("fit", "hires", "--learn", "k1,k2", "--points", 8, "--noise", 0.01, "--out", tmp_path)
    for name, value in (("k1", 1.71), ("k2", 0.43)):
        found, low, high = map(
            float, re.search(rf"{name} +│ ([\d.]+) \(([\d.]+) to ([\d.]+)\)", text).groups()
        )
        assert low < found < high
        assert abs(found - value) < 4 * (high - low)


def test_a_network_for_a_problem(tmp_path: Path) -> None:
    options = ("--optimizer", "adamw", "--iterations", 2, "--points", 6, "--out", tmp_path)
    assert "a network for all of it" in run("fit", "orego", "--learn", "network", *options)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A table of two decays, and the guide's file beside it."""
    lab_table(tmp_path)
    (code,) = re.findall(r"```python\n# my\.py\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "my.py").write_text(code)
    return tmp_path


def test_a_file_of_ones_own(lab: Path) -> None:
    text = run("fit", lab / "my.py", "--data", lab / "lab.csv", "--out", lab / "run")
    error = float(re.search(r"solved again, held out +│ ([\d.e+-]+)", text)[1])
    assert error < 2e-2, "the run that is held out is predicted"
    text = run(
        "compare",
        lab / "my.py",
        "--data",
        lab / "lab.csv",
        "--seeds",
        1,
        "--iterations",
        2,
        "--out",
        lab / "c",
    )
    assert max(map(len, text.splitlines())) <= 80
    assert (lab / "c" / "report.html").exists()
    with xarray.open_dataset(lab / "c" / "compare.nc", engine="h5netcdf") as data:
        assert data["loss"].shape == (2, 2, 1, data.sizes["iteration"])
        assert (data["outcome"] != "").all()
    again = run(
        "compare", lab / "my.py", "--data", lab / "lab.csv", "--seeds", 1, "--out", lab / "c", status=2
    )
    assert "pass --resume" in " ".join(again.split())


FILES = {
    "x = 1": "must define problem, model, or network",
    "import nowhere": "line 1: ModuleNotFoundError: No module named 'nowhere'",
    "def f(:": "line 1: SyntaxError",
    "model = 3": "model must be a torch.nn.Module, or a function of a seed",
    "def model(seed):\n    raise RuntimeError('no luck')": "line 2: RuntimeError: no luck",
    "import torch\nmodel = torch.nn.Linear(2, 1).double()\nmodel.forward = lambda t, y: y[:1] * model.bias": (
        "must return dy/dt of shape (2,) for the components A, B, not (1,)"
    ),
    "network = [4]\nknown = 3": "known must be callable",
    "network = [4]\ncomponents = ['A', 'Q']": "'Q'",
    "network = [4]\nfit_options = {'seed': 3}": "fit_options cannot have seed",
    "network = [4]\nfit_options = {'stepz': 3}": "no argument 'stepz'",
    "network = [4]\nreading = 3": "reading must be a dict",
}


@pytest.mark.parametrize("code", FILES)
def test_files_that_are_wrong_are_explained(code: str, lab: Path) -> None:
    (lab / "my.py").write_text(code)
    text = run("fit", lab / "my.py", "--data", lab / "lab.csv", "--out", lab / "run", status=2, width=300)
    assert FILES[code] in " ".join(text.split())
    assert not (lab / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("my.py",), "has no data: pass --data lab.csv"),
        (("my.py", "--data", "none.csv"), "no file none.csv"),
        (("my.py", "--data", "lab.csv", "--time", "hours"), "hours"),
        (("my.py", "--data", "my.png"), "is no table of text"),
        (("my.py", "--data", "lab.csv", "--learn", "k1"), "--learn is for a problem"),
        (("hires", "--learn", "k77"), "hires has no parameter k77; it has k1"),
        (("burgers", "--learn", "network"), "burgers is a field"),
        (("hirse",), "Did you mean 'hires'?"),
        (("hires", "--iterations", "4"), "--iterations is for first-order optimizers"),
        (("prothero", "--method", "rk45"), "unknown name 'rk45'"),
    ],
)
def test_mistakes_are_explained(
    arguments: tuple[str, ...], message: str, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab)
    (lab / "my.png").write_bytes(b"\x89PNG\r\n\xff\xfe")
    text = run("fit", *arguments, "--out", "run", status=2, width=300)
    assert message in " ".join(text.split())
    assert not (lab / "run").exists()


def test_a_start_that_is_missing_says_what_to_write_where(lab: Path) -> None:
    header, first, *rest = (lab / "lab.csv").read_text().splitlines()
    cut = first.split(",")
    (lab / "gap.csv").write_text("\n".join([header, ",".join([*cut[:-1], ""]), *rest]))
    text = run("fit", lab / "my.py", "--data", lab / "gap.csv", status=2, width=400)
    assert 'In the file that defines the model: reading = {"initial": "learned"}' in text
