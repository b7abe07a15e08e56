"""The Robertson fit and its command line: results, resuming, failures on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import stiffml.fits.robertson as robertson
import torch
import xarray
from torch import nn
from typer.testing import CliRunner

from stiffml import LinearSolveError, ReplayError, SolveError, Status
from stiffml.cli import app
from stiffml.diagnostics import GradientCheck
from stiffml.training import STATE, Trainer, TrainingError


@pytest.fixture(scope="module", autouse=True)
def _observations_once(request):
    """The reference trajectory takes seconds; the tests of this file share it."""
    data = robertson.observations()
    patch = pytest.MonkeyPatch()
    patch.setattr(robertson, "observations", lambda: data)
    yield
    patch.undo()


@pytest.fixture
def _without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient check at the end of a fit takes most of the time of a short one."""
    report = robertson.GradientReport((GradientCheck("y0", 2.0, 0.0),))
    monkeypatch.setattr(robertson, "check_gradients", lambda *args, **kwargs: report)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def test_network_has_the_published_shape() -> None:
    assert sum(p.numel() for p in robertson.Network(0).parameters()) == 155


def test_observations_are_the_published_ones() -> None:
    data = robertson.observations()
    assert data.scaled.shape == (41, 3)
    np.testing.assert_allclose(data.lowest, [0.61723, 0, 0], atol=1e-5)
    np.testing.assert_allclose(data.ranges, [0.38277, 3.6486e-5, 0.38276], rtol=2e-5)
    assert data.scaled.min() == 0
    assert data.scaled.max() == 1


def test_fit_writes_what_it_promises(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["fit", "robertson", "--optimizer", "adamw", "--iterations", "3", "--out", str(tmp_path / "run")],
    )
    assert result.exit_code == 0, result.output
    for word in (
        "mean absolute error, scaled",
        "times never seen",
        "Newton iterations",
        "gradient check",
        "Other",
    ):
        assert word in result.output
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == [
        "fit.png",
        "history.nc",
        STATE,
        "trajectory.nc",
        "weights.pt",
    ]
    with xarray.open_dataset(run / "trajectory.nc", engine="h5netcdf") as trajectory:
        assert trajectory["fitted"].dims == ("time", "species")
        assert trajectory["time"].attrs["units"] == "s"
        assert trajectory["species"].values.tolist() == ["A", "B", "C"]
        assert trajectory.attrs["seed"] == 0
    with xarray.open_dataset(run / "history.nc", engine="h5netcdf") as history:
        assert history["loss"].shape == (3,)
        assert history["seconds"].attrs["units"] == "s"
    assert (run / "fit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_without_the_check")
def test_resumed_fit_ends_with_the_same_weights(tmp_path: Path) -> None:
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    robertson.fit(straight, iterations=8, optimizer="adamw")
    robertson.fit(halves, iterations=5, optimizer="adamw")
    robertson.fit(halves, iterations=8, resume=True, optimizer="adamw")
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(halves)[name]), f"{name} differs after resuming"


@pytest.mark.usefixtures("_without_the_check")
def test_levenberg_marquardt_fits_from_its_seed_and_resumes(tmp_path: Path) -> None:
    """To 1e-5 at the observations, and to 1e-3 solved again at times never seen."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    result = robertson.fit(straight, seed=1)
    assert result.loss <= 1e-5, f"{result.loss:.1e} after {result.iterations} iterations"
    assert result.unseen <= 1e-3

    def interrupt(iteration: int, loss: float) -> None:
        if iteration == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        robertson.fit(parts, seed=1, report=interrupt)
    assert not (parts / "weights.pt").exists()
    robertson.fit(parts, seed=1, resume=True)
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(parts)[name]), f"{name} differs after resuming"
    with pytest.raises(FileExistsError, match="--resume"):
        robertson.fit(parts, seed=1)
    with pytest.raises(ValueError, match="optimizer"):
        robertson.fit(tmp_path / "c", optimizer="sgd")


COMMAND_WITHOUT_THE_CHECK = """
import stiffml.fits.robertson as robertson
from stiffml.cli import app
from stiffml.diagnostics import GradientCheck

report = robertson.GradientReport((GradientCheck("y0", 2.0, 0.0),))
robertson.check_gradients = lambda *args, **kwargs: report
app()
"""


def test_killed_fit_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """A real process, killed without warning in the middle of training."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    command = [
        sys.executable,
        "-c",
        COMMAND_WITHOUT_THE_CHECK,
        "fit",
        "robertson",
        "--optimizer",
        "adamw",
        "--iterations",
        "30",
        "--out",
        str(killed),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / STATE).exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (killed / STATE).exists(), "nothing was saved before the deadline"
    assert not (killed / "weights.pt").exists(), "it was killed too late to show anything"
    assert subprocess.run([*command, "--resume"], stdout=subprocess.DEVNULL).returncode == 0
    subprocess.run([*command[:-1], str(straight)], check=True, stdout=subprocess.DEVNULL)
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(killed)[name]), f"{name} differs after the kill"


@pytest.mark.usefixtures("_without_the_check")
def test_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    run = CliRunner().invoke
    result = run(app, ["fit", "robertson", "--method", "rk45", "--out", str(tmp_path / "a")])
    assert result.exit_code == 1
    assert "unknown name 'rk45'" in result.output
    assert not (tmp_path / "a").exists()
    robertson.fit(tmp_path / "b", iterations=1, optimizer="adamw")
    adamw = ["fit", "robertson", "--optimizer", "adamw", "--out", str(tmp_path / "b")]
    result = run(app, adamw)
    assert result.exit_code == 1
    assert "--resume" in result.output
    result = run(app, ["fit", "robertson", "--out", str(tmp_path / "b")])
    assert result.exit_code == 1
    assert "by AdamW" in " ".join(result.output.split())
    result = run(app, [*adamw, "--seed", "3", "--resume"])
    assert result.exit_code == 1
    assert "seed = 0, not 3" in " ".join(result.output.split())


def quadratic(folder: Path, fails) -> tuple[nn.Linear, Trainer]:
    model = nn.Linear(2, 1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)

    def loss() -> torch.Tensor:
        if fails(model):
            raise SolveError(Status.NEWTON_FAILED, "no solution", "something else", t=0.0, h=1.0)
        return sum(p.square().sum() for p in model.parameters())

    return model, Trainer(model, torch.optim.SGD(model.parameters(), lr=0.4), loss, folder, {})


def test_training_retreats_from_weights_that_cannot_be_solved(tmp_path: Path) -> None:
    """Below 0.5 the solve fails: the update from 1 to 0.2 is halved once, and training goes on."""
    _, trainer = quadratic(tmp_path, lambda m: bool(m.bias.item() < 0.5))
    trainer.run(2)
    assert trainer.history.retreats == [0, 1]
    assert trainer.history.loss[1] == pytest.approx(3 * 0.6**2)


@pytest.mark.parametrize("error", [ReplayError, LinearSolveError])
def test_training_retreats_from_a_backward_pass_that_fails(error: type[Exception], tmp_path: Path) -> None:
    model, trainer = quadratic(tmp_path, lambda m: False)
    loss = trainer.loss

    def failing() -> torch.Tensor:
        if model.bias.item() < 0.5:
            raise error("no gradient")
        return loss()

    trainer.loss = failing
    trainer.run(2)
    assert trainer.history.retreats == [0, 1]


def test_random_minibatches_go_on_where_they_were(tmp_path: Path) -> None:
    def train(folder: Path, *until: int) -> torch.Tensor:
        torch.manual_seed(0)
        model, trainer = quadratic(folder, lambda m: False)
        for iterations in until:
            model, trainer = quadratic(folder, lambda m: False)
            trainer.loss = lambda model=model: model(torch.randn(4, 2, dtype=torch.float64)).square().mean()
            trainer.optimizer.param_groups[0]["lr"] = 0.05
            trainer.resume()
            trainer.run(iterations)
            torch.manual_seed(1)  # as a new process has another state
        return model.weight.detach()

    whole, halves = (tmp_path / name for name in ("whole", "halves"))
    whole.mkdir()
    halves.mkdir()
    assert torch.equal(train(whole, 6), train(halves, 3, 6)), "look at what Trainer saves of random numbers"


def test_training_that_cannot_go_on_explains_itself(tmp_path: Path) -> None:
    _, trainer = quadratic(tmp_path, lambda m: m.bias.item() != 1.0)
    with pytest.raises(TrainingError, match=r"iteration 1: no solution.*another seed"):
        trainer.run(2)


def test_a_damaged_state_is_not_executed(tmp_path: Path) -> None:
    import pickle

    (tmp_path / STATE).write_bytes(pickle.dumps(print))
    _, trainer = quadratic(tmp_path, lambda m: False)
    with pytest.raises(ValueError, match="no training state") as caught:
        trainer.resume()
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)
    assert "weights_only" not in str(caught.value)
