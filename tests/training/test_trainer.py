"""The Trainer: failures on the way, interruptions, random numbers, damaged states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stiffml import LinearSolveError, ReplayError, SolveError, Status
from stiffml.training import STATE, Trainer, TrainingError


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
