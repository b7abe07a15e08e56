"""Kills fits and compares what they end with.

``kill_script.py NAME KILLS SEED`` kills at random moments, ``kill_script.py NAME torn`` in the middle of
writing a state. Each try is a process of its own, forked before anything is computed, and killed by SIGKILL;
the last one goes to the end. Prints a JSON object; with the name ``all`` one for each fit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf  # noqa: F401  here, once for all tries, as are the next two
import matplotlib.figure  # noqa: F401
import torch
import torch._dynamo  # what optimizers import when the first one is made
import xarray
from fit_script import FITS, result_of

from stiffml.training import folder as folders
from stiffml.training.folder import BEFORE, HISTORY, STATE


class Try:
    """A process that does a task; ``told`` is what it calls after each iteration."""

    def __init__(self, task: Callable[[Callable[[Any], None]], object]) -> None:
        self._read, write = os.pipe()
        self._process = os.fork()
        if self._process:
            os.close(write)
            return
        try:
            torch.set_num_threads(1)
            warnings.simplefilter("error", RuntimeWarning)  # a damaged state
            task(lambda progress: os.write(write, b"."))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)

    def begun(self) -> bool:
        """Wait for the first iteration; false if there is none before the end."""
        return bool(os.read(self._read, 1))

    def ended(self, after: float | None = None) -> bool:
        """Whether it has ended by itself; it is killed after so many seconds."""
        deadline = time.monotonic() + (1e9 if after is None else after)
        status = None
        while status is None and time.monotonic() < deadline:
            done, found = os.waitpid(self._process, os.WNOHANG)
            status = found if done else None
            time.sleep(0.0005)
        if status is None:
            os.kill(self._process, signal.SIGKILL)
            status = os.waitpid(self._process, 0)[1]
        os.close(self._read)
        if os.WIFSIGNALED(status):
            return False
        if os.waitstatus_to_exitcode(status):
            raise SystemExit("a fit has failed, see above")
        return True


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same: all numbers of the state but seconds, and the history."""
    state = folders._read(folder / STATE)
    _without_seconds(state)
    with xarray.open_dataset(folder / HISTORY, engine="h5netcdf") as history:
        losses = history["loss" if "loss" in history else "error"].values.tolist()
    return {"state": state, "losses": losses}


def _without_seconds(value: Any) -> None:
    if isinstance(value, dict):
        value.pop("seconds", None)
        value.pop("_extra_state", None)
    for one in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    ):
        _without_seconds(one)


def same(one: Any, other: Any) -> bool:
    """Bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def kills(name: str, count: int, seed: int, place: Path) -> dict[str, Any]:
    """Kill a fit so often; one that ends before is followed by another."""
    generator = random.Random(seed)
    straight = Try(lambda told: result_of(name, place / "straight", told))
    straight.begun()
    began = time.monotonic()
    straight.ended()
    whole = time.monotonic() - began
    expected = outcome(place / "straight")
    found: dict[str, Any] = {
        "fit": name,
        "kills": 0,
        "in the middle of writing a state": 0,
        "at iterations": [],
    }
    rounds, different = 0, 0
    while found["kills"] < count:
        folder, rounds = place / f"killed{rounds}", rounds + 1
        while True:
            going = Try(lambda told, folder=folder: result_of(name, folder, told))
            if found["kills"] >= count:
                going.ended()
                break
            # One in five before the first iteration, or while a state is read; the others soon after it.
            if generator.random() < 0.8 and going.begun():
                ended = going.ended(generator.uniform(0, whole / 6))
            else:
                ended = going.ended(generator.uniform(0, 0.3))
            if ended:
                break
            found["kills"] += 1
            found["in the middle of writing a state"] += in_the_middle(folder)
            found["at iterations"].append(iterations(folder))
        different += not same(outcome(folder), expected)
    return {**found, "of": len(expected["losses"]), "fits": rounds, "different": different}


def in_the_middle(folder: Path) -> bool:
    return any(folder.glob(f".{STATE}.*")) or ((folder / BEFORE).exists() and not (folder / STATE).exists())


def iterations(folder: Path) -> int:
    """How many the last state has."""
    for name in (STATE, BEFORE):
        if (folder / name).exists():
            state = folders._read(folder / name)
            return len(state.get("progress", state)["rows"]["seconds"])
    return 0


class Torn:
    """Kills its own process in the writing of a state.

    At ``moment`` 0 half of the file is written, at 1 all of it, but not renamed; at 2 the old state was
    renamed and the new one was not written.
    """

    def __init__(self, moment: int, after: int) -> None:
        self.moment, self.left = moment, after
        self.write, self.replace = Path.write_bytes, os.replace
        Path.write_bytes = lambda path, data: self._write(path, data)  # type: ignore[method-assign]
        os.replace = lambda old, new: self._replace(old, new)  # type: ignore[assignment]

    def _write(self, path: Path, data: Any) -> int:
        if f".{STATE}" in path.name:
            self.left -= 1
            if not self.left and self.moment == 0:
                self.write(path, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if not self.left and self.moment == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.write(path, data)

    def _replace(self, old: Any, new: Any) -> None:
        if not self.left and self.moment == 1 and f".{STATE}" in Path(old).name:
            os.kill(os.getpid(), signal.SIGKILL)
        self.replace(old, new)


def torn(name: str, place: Path) -> dict[str, Any]:
    """A fit that is killed once in each moment of writing a state, one after the other."""
    Try(lambda told: result_of(name, place / "straight")).ended()

    def task(moment: int) -> None:
        Torn(moment, 3)
        result_of(name, place / "torn")

    killed = [not Try(lambda told, moment=moment: task(moment)).ended() for moment in range(3)]
    Try(lambda told: result_of(name, place / "torn")).ended()
    left = [path.name for path in (place / "torn").glob(".*")]
    return {
        "killed": killed,
        "left": left,
        "same": same(outcome(place / "torn"), outcome(place / "straight")),
    }


if __name__ == "__main__":
    sys.modules["stiffml.training.fit"].save_figures = lambda *_: None  # type: ignore[attr-defined]
    for name in FITS if sys.argv[1] == "all" else sys.argv[1:2]:
        with tempfile.TemporaryDirectory() as temporary:
            if sys.argv[2] == "torn":
                found = torn(name, Path(temporary))
            else:
                found = kills(name, int(sys.argv[2]), int(sys.argv[3]), Path(temporary))
        print(json.dumps(found), flush=True)
