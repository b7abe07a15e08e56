"""Fits that are killed, and fits whose solves fail: what their folders hold, and how they go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from decays import RISING, Chain, Rising, chain_runs

from stiffml import Adaptive, Grid
from stiffml.training import MultipleShooting, Run, Runs, TrainingError, Whole, fit
from stiffml.training.folder import CONFIG, FAILURES, HISTORY, STATE
from stiffml.training.lm.climb import Progress


class Interrupt:
    """A report that stops a fit after some calls."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, progress: Progress) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


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
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted([CONFIG, FAILURES, HISTORY, STATE])
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert config["fit"]["method"] == "bdf2"
    assert "torch" in config["versions"]
    with xarray.open_dataset(tmp_path / "a" / HISTORY, engine="h5netcdf") as history:
        assert history["error"].dims == ("iteration",)
    with pytest.raises(FileExistsError, match="resume=True"):
        decay_fit(tmp_path / "a")
    with pytest.raises(ValueError, match="method = bdf2, not cn"):
        decay_fit(tmp_path / "a", resume=True, method="cn")
    (tmp_path / "a" / STATE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        decay_fit(tmp_path / "a", resume=True)


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
