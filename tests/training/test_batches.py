"""Padded tensors, and minibatches that go on where they were."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from stiffml.training.data import Forcing, Minibatches, Run, Runs

NAN = float("nan")
A = Run(
    "a",
    [0, 1, 4],
    [[1.0, NAN], [0.5, 0.4], [NAN, 0.9]],
    {"p": 1.5},
    Forcing([0, 2], [[3.0], [5.0]], ("T",)),
    [[1, 1], [2, 3], [1, 4]],
)
B = Run("b", [0, 2], [[2.0, 0.0], [NAN, 1.5]], {"p": 2.5}, Forcing([0, 1, 3], [[1.0], [2.0], [8.0]], ("T",)))
RUNS = Runs([A, B], ["A", "B"], initial={"B": 0.0})
MANY = Runs([Run(f"r{i}", [0, 1], [[float(i)], [0.0]]) for i in range(7)], ["A"])


def test_padding() -> None:
    batch = RUNS.padded()
    assert (batch.names, len(batch)) == (("a", "b"), 2)
    np.testing.assert_array_equal(batch.times, [[0, 1, 4], [0, 2, 2]])
    np.testing.assert_array_equal(batch.lengths, [3, 2])
    assert batch.values.shape == batch.mask.shape == batch.weights.shape == (3, 2, 2)
    for index, run in enumerate(RUNS):
        np.testing.assert_array_equal(batch.mask[: len(run), index], run.mask)
        np.testing.assert_array_equal(batch.values[: len(run), index], np.where(run.mask, run.values, 0))
        np.testing.assert_array_equal(batch.weights[: len(run), index], np.where(run.mask, run.weights, 0))
        assert not batch.mask[len(run) :, index].any()
        assert not batch.weights[len(run) :, index].any()
    np.testing.assert_array_equal(batch.y0, [[1, 0], [2, 0]])
    np.testing.assert_array_equal(batch.y0_noise, [[np.inf, 0], [np.inf, 0]])
    np.testing.assert_array_equal(batch.inputs, [[1.5], [2.5]])


def test_a_loss_sees_observations_only() -> None:
    batch = RUNS.padded()
    y = torch.full_like(batch.values, 3.0).requires_grad_()
    loss = (batch.weights * (y - batch.values) ** 2).sum()
    loss.backward()
    expected = sum(np.nansum(run.weights * (3 - run.values) ** 2) for run in RUNS)
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    assert ((y.grad == 0) == ~batch.mask).all()


def test_precision() -> None:
    batch = RUNS.padded(torch.float32)
    moved = RUNS.padded().to(torch.float32)
    for one in (batch, moved):
        assert (one.times.dtype, one.y0.dtype) == (torch.float32, torch.float32)
        assert (one.mask.dtype, one.lengths.dtype) == (torch.bool, torch.int64)
    with pytest.raises(TypeError, match="dtype must be a floating-point type"):
        RUNS.padded(torch.int64)


def test_forcing_between_its_times() -> None:
    batch = RUNS.padded()
    for t in (-1.0, 0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 9.0):
        expected = [np.interp(t, run.forcing.times, run.forcing.values[:, 0]) for run in RUNS]  # type: ignore
        np.testing.assert_allclose(batch.forcing_at(torch.tensor(t))[:, 0], expected, rtol=1e-14)
    own = batch.forcing_at(torch.tensor([1.5, 0.5], dtype=torch.float64))
    np.testing.assert_allclose(own, [[4.5], [1.5]])
    t = torch.tensor([1.5, 2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(batch.forcing_at(t).sum(), t)
    np.testing.assert_allclose(slope, [1.0, 3.0])
    with pytest.raises(ValueError, match="have no forcing"):
        MANY.padded().forcing_at(torch.tensor(0.0))


def members(batches: Minibatches) -> list[tuple[str, ...]]:
    return [batch.names for batch in batches]


def test_an_epoch_has_every_run_once() -> None:
    batches = MANY.minibatches(3, seed=5)
    assert len(batches) == 3
    epochs = [members(batches) for _ in range(3)]
    for epoch in epochs:
        assert [len(names) for names in epoch] == [3, 3, 1]
        assert sorted(itertools.chain(*epoch)) == sorted(MANY.names)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [batches.at(i).names for i in range(9)] == list(itertools.chain(*epochs))
    again = MANY.minibatches(3, seed=5)
    assert [members(again) for _ in range(3)] == epochs
    assert members(MANY.minibatches(3, seed=6)) != epochs[0]
    assert members(MANY.minibatches(3, shuffle=False))[0] == ("r0", "r1", "r2")


@pytest.mark.parametrize("done", [0, 2, 3, 4])
def test_a_resumed_training_goes_on(done: int, tmp_path: Path) -> None:
    whole = [name for _ in range(3) for name in members(batches)] if (batches := MANY.minibatches(3)) else []
    first, seen = MANY.minibatches(3), []
    while len(seen) < done:
        for batch in first:
            seen.append(batch.names)
            if len(seen) == done:
                break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = MANY.minibatches(3)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    while len(seen) < 9:
        seen += members(second)
    assert seen == whole
    with pytest.raises(ValueError, match="made with size = 3, not 2"):
        MANY.minibatches(2).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="state must be one that state_dict"):
        second.load_state_dict({"position": 1})
