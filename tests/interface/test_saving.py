"""Files that cannot be written or read: an error with the path, and nothing is lost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
from typer.testing import CliRunner

import problems
import stiffml
from stiffml.cli import app
from stiffml.cli.screen import console, errors
from stiffml.files import require_writable, save_atomically, take_back


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is broken."""
    monkeypatch.setattr(console, "_width", 500)
    monkeypatch.setattr(errors, "_width", 500)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np, xarray
import problems

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
data = xarray.Dataset({"a": ("x", np.zeros(9))}, {"x": np.arange(9)}, {"text": "x" * 3000})
path = Path(sys.argv[1])
problems.save_dataset(data, path)
before = path.read_bytes()
for limit in (0, 90, 2000, 5000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        problems.save_dataset(data.assign(b=data["a"] + 1), path)
    except OSError as error:
        print(limit, type(error).__name__, error)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """Of netCDF, whose library ends the process with a segmentation fault when it meets one."""
    path = tmp_path / "data.nc"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(rf"OSError .*cannot be written.*{re.escape(str(path))}", done.stdout)) == 4, (
        done.stdout
    )
    assert not done.stderr, done.stderr


def test_netcdf_keeps_all_there_is(tmp_path: Path) -> None:
    data = xarray.Dataset(
        {"a": (("x", "y"), np.arange(6.0).reshape(2, 3), {"units": "kg"}), "n": ("x", ["é", "two"])},
        {"y": [1, 2, 3]},
        attrs={"title": "α", "count": 3},
    )
    problems.save_dataset(data, tmp_path / "a.nc")
    found = problems.load_dataset(tmp_path / "a.nc")
    assert found.attrs.pop("Conventions") == "CF-1.8"
    assert found.attrs.pop("stiffml_version") == stiffml.__version__
    assert found.identical(data)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot be written .*nowhere/a\.bin"):
        save_atomically(tmp_path / "nowhere" / "a.bin", lambda file: file.write(b"1"))
    with pytest.raises(ZeroDivisionError):
        save_atomically(tmp_path / "a.bin", lambda file: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_folders_are_tried_and_taken_back(tmp_path: Path) -> None:
    made = require_writable(tmp_path / "a" / "b", "--out")
    assert made == [tmp_path / "a", tmp_path / "a" / "b"]
    assert not list(made[-1].iterdir())
    (tmp_path / "a" / "kept").touch()
    take_back(made)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["kept"]
    with pytest.raises(NotADirectoryError, match="--out: no files can be written"):
        require_writable(tmp_path / "a" / "kept" / "c", "--out")
    with pytest.raises(OSError, match="--out: no files can be written"):
        require_writable(tmp_path / "a" / "kept", "--out")


@pytest.mark.parametrize(
    "command",
    [("solve", "hires"), ("workprecision", "hires"), ("fit", "robertson")],
    ids=lambda command: command[0],
)
def test_commands_find_out_first(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is solved."""

    def solved(*args, **kwargs):
        raise AssertionError("solved for a folder that nothing can be written to")

    monkeypatch.setattr("stiffml.solve", solved)
    monkeypatch.setattr("stiffml.training.fit", solved)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "runs"):
        result = CliRunner().invoke(app, [*command, "--out", str(out)])
        assert result.exit_code == 1, result.output
        assert "--out" in result.output
        assert str(out) in result.output


OWN = """
import torch
from problems import Problem

def rhs(t, y, p):
    {body}

problem = Problem("own", rhs, y0=[1.0], t_span=(0.0, 1.0))
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nundefined\n", r"own\.py, line 2: NameError: name 'undefined'"),
        ("x = (\n", r"own\.py, line 1: SyntaxError"),
        ("import nothing_of_that_name\n", r"own\.py, line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", r"own\.py, line 2: SystemExit"),
        ("x = 1\n", "must define problem"),
        ("def problem():\n    return 1 / 0\n", r"own\.py, line 2: ZeroDivisionError"),
        ("def problem():\n    return 3\n", "must define problem.*not 3"),
        (OWN.format(body="return p['k'] * y"), r"own\.py, line 6: KeyError: 'k'"),
        (
            OWN.format(body="return torch.zeros(2)"),
            r"own\.py: rhs must return a tensor of shape \(1,\), not \(2,\)",
        ),
        (OWN.format(body="return None"), "must return a tensor.*not NoneType"),
    ],
)
def test_problem_files_that_raise(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        problems.load(str(path))
    result = CliRunner().invoke(app, ["solve", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "ProblemFileError" not in result.output
    assert "own.py" in result.output
    assert re.search(message, result.output), result.output
    assert not (tmp_path / "run").exists()


def test_problem_files_may_hold_dataclasses(tmp_path: Path) -> None:
    """Which look for the module that they are in."""
    path = tmp_path / "torch.py"  # nor is it taken for a module of that name
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Rate:\n    k: float = 2.0\n\n" + OWN.format(body="return -Rate().k * y")
    )
    assert float(problems.load(str(path)).solve().y[-1]) == pytest.approx(np.exp(-2), rel=1e-4)
