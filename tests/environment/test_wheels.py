"""Wheels that somebody else has made are taken where they serve, and nowhere else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "environment" / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a folder of two wheels that were made here."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("bootstrap_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = [tmp_path / "cache" / f"{name}-{script.RECIPE['petsc']}-x.whl" for name in ("petsc", "petsc4py")]
    made[0].parent.mkdir()
    for wheel in made:
        wheel.write_bytes(b"wheel")
    monkeypatch.setattr(script, "WHEELS", tmp_path / "wheels")
    with monkeypatch.context() as patch:
        patch.setattr(script, "petsc_wheels", lambda: made)
        script.leave_wheels(tmp_path / "wheels")
    return script


def test_wheels_made_here_serve_here(bootstrap: ModuleType) -> None:
    names = [wheel.name for wheel in bootstrap.petsc_wheels()]
    version = bootstrap.RECIPE["petsc"]
    assert names == [f"petsc-{version}-x.whl", f"petsc4py-{version}-x.whl"]
    assert not list(bootstrap.WHEELS.glob("*.partial"))


@pytest.mark.parametrize(
    "change",
    [
        {"python": "cpython-39"},
        {"platform": "linux-riscv64"},
        {"libc": ["glibc", "99.1"]},
        {"libc": ["musl", "1.2"]},
        {"recipe": {"petsc": "3.26.1"}},
    ],
)
def test_wheels_for_elsewhere_are_left(change: dict, bootstrap: ModuleType) -> None:
    note = bootstrap.WHEELS / bootstrap.ORIGIN
    note.write_text(json.dumps({**json.loads(note.read_text()), **change}))
    assert bootstrap.given_wheels() == []


def test_an_older_libc_serves(bootstrap: ModuleType) -> None:
    note = bootstrap.WHEELS / bootstrap.ORIGIN
    held = json.loads(note.read_text())
    note.write_text(json.dumps({**held, "libc": [held["libc"][0], "2.1"]}))
    assert len(bootstrap.given_wheels()) == 2


def test_a_note_that_is_none(bootstrap: ModuleType) -> None:
    for text in ("", "[]", "{}", '{"libc": 3}'):
        (bootstrap.WHEELS / bootstrap.ORIGIN).write_text(text)
        assert bootstrap.given_wheels() == []
