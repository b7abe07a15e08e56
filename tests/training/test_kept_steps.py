"""Steps and guesses that a training keeps are part of its state: a resumed one ends the same, bit by bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kept_training_script
import pytest
import torch
from kept_training_script import training
from torch import nn

from stiffml import KeptSteps
from stiffml.training import STATE, Trainer

ITERATIONS = 14


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict:
    """The saved state of a training without interruptions."""
    folder = tmp_path_factory.mktemp("straight")
    trainer, kept, of_block = training(folder)
    trainer.run(ITERATIONS)
    assert kept.solves == of_block.solves == ITERATIONS, "the trial of the last update must not count"
    assert kept.renewals["age"] >= 2
    return torch.load(folder / STATE, weights_only=True)


def require_same(folder: Path, straight: dict) -> None:
    resumed = torch.load(folder / STATE, weights_only=True)
    assert torch.equal(resumed["model"]["func.p"], straight["model"]["func.p"])
    assert resumed["history"]["loss"] == straight["history"]["loss"]
    for one, other in (
        (resumed["kept"][0], straight["kept"][0]),
        (resumed["model"]["kept_steps._extra_state"], straight["model"]["kept_steps._extra_state"]),
    ):
        assert one["numbers"] == other["numbers"]
        assert one["renewals"] == other["renewals"]
        for name in ("ends", "states"):
            assert all(map(torch.equal, one[name], other[name])), name


@pytest.mark.parametrize("at", [1, 5, 7])
def test_a_training_in_two_parts(at: int, tmp_path: Path, straight: dict) -> None:
    training(tmp_path)[0].run(at)
    trainer, kept, of_block = training(tmp_path)
    assert trainer.resume()
    assert kept.solves == of_block.solves == at
    trainer.run(ITERATIONS)
    require_same(tmp_path, straight)


def test_a_killed_training(tmp_path: Path, straight: dict) -> None:
    command = [sys.executable, kept_training_script.__file__, str(tmp_path), str(ITERATIONS)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while not (tmp_path / STATE).exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    begun = torch.load(tmp_path / STATE, weights_only=True)
    assert len(begun["history"]["loss"]) < ITERATIONS, "it was killed too late to show anything"
    subprocess.run(command, check=True)
    require_same(tmp_path, straight)


def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    training(tmp_path)[0].run(2)
    trainer, kept, of_block = training(tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    torch.save({**state, "kept": []}, tmp_path / STATE)
    before = trainer.model.func.p.detach().clone()
    with pytest.raises(ValueError, match="state of another model"):
        trainer.resume()
    assert torch.equal(trainer.model.func.p, before)
    assert kept.solves == of_block.solves == 0


def test_what_is_kept_is_checked(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    for wrong in (KeptSteps(), [3]):
        with pytest.raises(TypeError, match="kept must be a sequence of KeptSteps"):
            Trainer(model, optimizer, lambda: torch.zeros(()), tmp_path, {}, kept=wrong)  # type: ignore[arg-type]


def test_every_try_of_an_iteration_begins_with_the_same_steps(tmp_path: Path) -> None:
    """An update that is too large is halved; what the tries before have kept is forgotten."""
    trainer, kept, _ = training(tmp_path)
    loss, tries = trainer.loss, []

    def fails_twice() -> torch.Tensor:
        found = loss()
        tries.append(kept.solves)
        return found * float("nan") if len(tries) in (2, 3) else found

    trainer.loss = fails_twice
    trainer.run(2)
    assert trainer.history.retreats == [0, 2]
    assert tries == [1, 2, 2, 2, 3], "the last is the trial of the last update"
    assert kept.solves == 2
