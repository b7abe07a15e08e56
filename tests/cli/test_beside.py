"""The training by AdamW in a process beside a fit: it ends in time, and its mishaps cost nothing."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from stiffml.cli import app
from stiffml.cli.asked import Asked
from stiffml.cli.beside import Beside, _Snapshots, _Spent

FILE = """
network, components = [2], ["x"]
data = "decay.csv"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    rows = ["run,t,x", *(f"a,{t:g},{np.exp(-t):.8g}" for t in np.linspace(0, 1, 6))]
    (tmp_path / "decay.csv").write_text("\n".join(rows))
    (tmp_path / "my.py").write_text(FILE)
    return tmp_path


def test_beside_a_fit_of_ones_own(own: Path) -> None:
    result = CliRunner().invoke(app, ["fit", str(own / "my.py"), "--beside", "--out", str(own / "run")])
    assert result.exit_code == 0, result.output
    assert re.search(r"AdamW after the same time +│ [\d.e+-]+", result.output), result.output


@pytest.mark.parametrize("how", ["fails", "is killed"])
def test_without_it_the_fit_is_kept(how: str, own: Path, capsys: pytest.CaptureFixture) -> None:
    changes = {"method": "no such method"} if how == "fails" else {}
    with Beside(Asked(str(own / "my.py")), 0, changes) as other:
        if how == "is killed":
            other._process.kill()
        other.end_at(0.1)
        assert other.curve() is None, "look at curve in cli/beside.py"
    said = " ".join(capsys.readouterr().err.split())
    assert "AdamW could not be trained beside it" in said
    assert ("no such method" if how == "fails" else "was ended") in said


class Told:
    """A connection on which the end is heard at the n-th question."""

    def __init__(self, n: int, end: float) -> None:
        self._left, self._end = n, end

    def poll(self) -> bool:
        self._left -= 1
        return self._left == 0

    def recv(self) -> float:
        return self._end


@pytest.mark.parametrize(("heard", "end"), [(30, 20.0), (30, 60.0)])
def test_weights_up_to_the_end(heard: int, end: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at 30 s to end at 20, or at 60: the last weights are from shortly before the end."""
    clock = iter(range(1, 1000))
    monkeypatch.setattr("time.process_time", lambda: float(next(clock)))
    snapshots = _Snapshots(Told(heard, end), nn.Linear(1, 1), began=0.0)  # type: ignore[arg-type]
    with pytest.raises(_Spent):
        _go_on(snapshots)
    times = [seconds for seconds, _ in snapshots.in_time()]
    assert snapshots.kept[-1][0] <= max(heard, end)
    assert end / 1.05 - 1 <= times[-1] <= end, f"{times}: look at in_time in cli/beside.py"
    assert all(later >= 1.5 * before for before, later in itertools.pairwise(times[:-1]))


def _go_on(snapshots: _Snapshots) -> None:
    while True:
        snapshots(None)


def test_weights_are_copies() -> None:
    model = nn.Linear(1, 1, bias=False)
    snapshots = _Snapshots(Told(0, 0.0), model, began=0.0)  # type: ignore[arg-type]
    before = model.weight.detach().clone()
    snapshots.keep(0.0)
    with torch.no_grad():
        model.weight += 1
    assert torch.equal(snapshots.kept[0][1][0], before)
