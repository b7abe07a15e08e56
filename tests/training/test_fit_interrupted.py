"""Fits that are killed, and fits whose solves fail: what their folders hold, and how they go on."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from decays import RISING, Chain, Interrupt, Rising, chain_runs

from stiffml import Adaptive, Grid, KeptSteps
from stiffml.training import FirstOrder, MultipleShooting, Run, Runs, TrainingError, Whole, fit
from stiffml.training import folder as folder_module
from stiffml.training.folder import BEFORE, CONFIG, FAILURES, FIGURES, HISTORY, STATE, versions_used


def decay_fit(folder: Path, **more: Any):
    options = {"strategy": MultipleShooting(iterations=9), "method": "bdf2", "steps": Grid(2), "attempts": 2}
    runs = chain_runs(noise=0.01, initial="learned")
    return fit(Chain(), runs, folder=folder, save_every=3, **{**options, **more})


def test_a_fit_that_was_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = decay_fit(tmp_path / "whole")
    for after in (4, 7, 11):
        with pytest.raises(KeyboardInterrupt):
            decay_fit(tmp_path / "parts", resume=after != 4, report=Interrupt(after))
    resumed = decay_fit(tmp_path / "parts", resume=True)
    assert torch.equal(whole.model.logs, resumed.model.logs), "look at Climb.state_dict"
    for name in ("error", "cost", "damping"):
        np.testing.assert_array_equal(whole.history[name], resumed.history[name])
    np.testing.assert_array_equal(whole.initial["a"], resumed.initial["a"])
    again = decay_fit(tmp_path / "parts", resume=True)
    assert torch.equal(whole.model.logs, again.model.logs)


def test_the_folder_holds_what_is_promised(tmp_path: Path) -> None:
    decay_fit(tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(
        [BEFORE, CONFIG, FAILURES, FIGURES, HISTORY, STATE]
    )
    assert sorted(p.name for p in (tmp_path / "a" / FIGURES).iterdir()) == ["fit.png", "history.png"]
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert config["fit"]["method"] == "bdf2"
    assert "torch" in config["versions"]
    with xarray.open_dataset(tmp_path / "a" / HISTORY, engine="h5netcdf") as history:
        assert history["error"].dims == ("iteration",)
    with pytest.raises(FileExistsError, match="resume=True"):
        decay_fit(tmp_path / "a")
    with pytest.raises(ValueError, match="method = bdf2, not cn"):
        decay_fit(tmp_path / "a", resume=True, method="cn")


@pytest.mark.parametrize("damage", [0, 1, 2, 3])
def test_a_damaged_state_is_named_and_the_one_before_taken(damage: int, tmp_path: Path) -> None:
    """Empty, cut short, of something else, or with one wrong byte, which torch would not notice."""
    folder = tmp_path / "a"
    expected = decay_fit(folder).model.logs
    whole = (folder / STATE).read_bytes()
    place = whole.rindex(b"\x40", 0, 2 * len(whole) // 3)
    damaged = [b"", whole[: len(whole) // 2], b"nothing", whole[:place] + b"\x41" + whole[place + 1 :]][
        damage
    ]
    (folder / STATE).write_bytes(damaged)
    with pytest.warns(RuntimeWarning, match=rf"{STATE} is damaged.*{BEFORE}"):
        again = decay_fit(folder, resume=True)
    assert torch.equal(again.model.logs, expected)
    assert (folder / "state.damaged.pt").read_bytes() == damaged
    for name in (STATE, BEFORE):
        (folder / name).write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{STATE} is damaged.*{BEFORE} is damaged.*use another folder"):
        decay_fit(folder, resume=True)


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": "adamw"}, r"optimizer = Adam\(lr=0.1"),
    ({"learning_rate": 0.3}, r"optimizer = Adam\(lr=0.1"),
    ({"first_order": FirstOrder(clip=2.0)}, "first_order = "),
    (
        {"first_order": FirstOrder(schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 3))},
        "schedule = none",
    ),
    ({"model": Rising(0.0), "data": RISING}, "model = Chain"),
    ({"data": chain_runs(noise=0.1)}, "data = 2 runs of A, B"),
    ({"validate": chain_runs(noise=0.1)}, "validate = none"),
    ({"seed": 3}, "seed = 0"),
    ({"method": "cn"}, "method = sdirk3"),
    ({"steps": KeptSteps(Grid(2))}, "kept = none"),
    ({"optimizer": "lm", "learning_rate": None, "iterations": None}, r"optimizer = Adam\(lr=0.1"),
]


ADAM: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.1, "iterations": 2, "steps": Grid(2)}


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Path:
    """A folder with a fit by Adam."""
    folder = tmp_path_factory.mktemp("held")
    fit(Chain(), chain_runs(), folder=folder, scale=1.0, **ADAM)
    return folder


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_another_fit_is_refused_by_name(other: dict[str, Any], message: str, held: Path) -> None:
    arguments = {"model": Chain(), "data": chain_runs(), "folder": held, "scale": 1.0, **ADAM}
    before = {path.name: path.read_bytes() for path in held.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=message):
        fit(**{**arguments, **other}, resume=True)
    assert before == {path.name: path.read_bytes() for path in held.iterdir() if path.is_file()}


def test_other_versions_are_refused_by_name(tmp_path: Path, monkeypatch) -> None:
    decay_fit(tmp_path / "a")
    monkeypatch.setattr(folder_module, "versions_used", lambda: {**versions_used(), "torch": "1.0"})
    with pytest.raises(ValueError, match=r"torch = .* not 1\.0; its numbers .* use these versions"):
        decay_fit(tmp_path / "a", resume=True)


def test_a_finished_fit_goes_on_with_more_iterations(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"optimizer": "adam", "steps": Grid(2)}
    straight = fit(Chain(), chain_runs(), iterations=7, **arguments)
    fit(Chain(), chain_runs(), iterations=3, folder=tmp_path, **arguments)
    more = fit(Chain(), chain_runs(), iterations=7, folder=tmp_path, resume=True, **arguments)
    assert torch.equal(straight.model.logs, more.model.logs)


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"without fit\.json"):
        decay_fit(tmp_path)
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(ValueError, match="is not of a fit"):
        decay_fit(tmp_path, resume=True)


class Writer:
    """In place of TensorBoard's."""

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step, self.closed = log_dir, purge_step, False
        self.values: dict[tuple[str, int], float] = {}
        WRITERS.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.values[name, step] = value

    def close(self) -> None:
        self.closed = True


WRITERS: list[Writer] = []


@pytest.mark.parametrize("optimizer", ["lm", "adam"])
def test_tensorboard_gets_every_iteration(optimizer: str, tmp_path: Path, monkeypatch) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    WRITERS.clear()
    arguments: dict[str, Any] = {
        "optimizer": optimizer,
        "steps": Grid(2),
        "folder": tmp_path,
        "tensorboard": True,
    }
    more = {} if optimizer == "lm" else {"iterations": 4}
    with pytest.raises(KeyboardInterrupt):
        fit(Chain(), chain_runs(), **arguments, **more, report=Interrupt(3), save_every=1)
    result = fit(Chain(), chain_runs(), **arguments, **more, resume=True)
    first, second = WRITERS
    assert first.closed
    assert second.closed
    assert first.log_dir == str(tmp_path / "tensorboard")
    assert (first.purge_step, second.purge_step) == (0, 3)
    name = "error" if optimizer == "lm" else "loss"
    for step, value in enumerate(result.history[name].values):
        assert (first.values | second.values)[f"fit/{name}", step] == value
    assert all(np.isfinite(value) for value in (first.values | second.values).values())


def test_tensorboard_that_is_missing_is_said_before_the_fit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[tensorboard\]'"):
        decay_fit(tmp_path / "a", tensorboard=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("optimizer", ["lm", "adam"])
def test_a_bar_shows_how_far_it_is(optimizer: str, capsys) -> None:
    more: dict[str, Any] = {} if optimizer == "lm" else {"iterations": 4}
    result = fit(Chain(), chain_runs(), optimizer=optimizer, steps=Grid(2), progress=True, **more)
    shown = capsys.readouterr().out
    count = result.history.sizes["iteration"]
    assert f"{count}/{count if more else '?'}" in shown
    assert ("loss" if more else "error") in shown
    fit(Chain(), chain_runs(), optimizer=optimizer, steps=Grid(2), **more)
    assert not capsys.readouterr().out


def test_solves_that_fail_are_rejected_steps() -> None:
    """The truth, k = log 0.8, is next to where trajectories blow up."""
    result = fit(Rising(-6.0), RISING, strategy=Whole(), method="bdf", steps=Adaptive())
    assert result.model.k.item() == pytest.approx(np.log(0.8), abs=1e-4)
    assert result.failures, "a step from k = −6 leads beyond the pole"
    assert result.failures[0].run in ("", "up")
    assert int(result.history["failed"].sum()) == len(result.failures)


def test_a_fit_without_a_trajectory_says_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no trajectory.*run up.*Try") as caught:
        fit(Rising(2.0), RISING, strategy=Whole(), method="bdf", steps=Adaptive(), folder=tmp_path / "a")
    assert "attempts=8" in str(caught.value)
    assert "run up" in (tmp_path / "a" / FAILURES).read_text()


def test_a_ladder_begins_where_whole_trajectories_do_not_exist() -> None:
    """With k = log 1.1 there is none beyond t = 0.9, but from each observation to the next there is."""
    times = np.linspace(0, 1, 5)
    runs = Runs([Run("up", times, 1 / (1 - 0.8 * times)[:, None])], ["A"], initial="known")
    with pytest.raises(TrainingError):
        fit(Rising(np.log(1.1)), runs, strategy=Whole(), steps=Grid(40))
    result = fit(Rising(np.log(1.1)), runs, strategy=MultipleShooting((1, 2)), steps=Grid(40))
    assert result.model.k.item() == pytest.approx(np.log(0.8), abs=1e-4)
