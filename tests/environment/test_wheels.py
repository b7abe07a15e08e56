"""Wheels that somebody else has made are taken where they serve, and nowhere else."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "environment" / "bootstrap.py"


def make_wheel(path: Path) -> None:
    """With the files that every wheel has, and a list of them."""
    name, version = path.name.split("-")[:2]
    inside = f"{name}-{version}.dist-info"
    files = {
        f"{inside}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nAbout it.\n",
        f"{inside}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}_of_a_test.py": "here = True\n",
    }
    lines = [f"{name},{digest(text.encode())},{len(text)}" for name, text in files.items()]
    files[f"{inside}/RECORD"] = "\n".join([*lines, f"{inside}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)


def digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a folder of two wheels that were made here."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("bootstrap_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = [
        tmp_path / "cache" / f"{name}-{script.RECIPE['petsc']}-py3-none-any.whl"
        for name in ("petsc", "petsc4py")
    ]
    made[0].parent.mkdir()
    for wheel in made:
        make_wheel(wheel)
    monkeypatch.setattr(script, "WHEELS", tmp_path / "wheels")
    with monkeypatch.context() as patch:
        patch.setattr(script, "petsc_wheels", lambda: made)
        script.leave_wheels(tmp_path / "wheels")
    return script


def test_wheels_made_here_serve_here(bootstrap: ModuleType) -> None:
    names = [wheel.name for wheel in bootstrap.petsc_wheels()]
    version = bootstrap.RECIPE["petsc"]
    assert names == [f"petsc-{version}-py3-none-any.whl", f"petsc4py-{version}-py3-none-any.whl"]
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


def test_the_wheel_of_petsc_asks_for_its_mpi(bootstrap: ModuleType) -> None:
    """pip installs both without the script; the lists of files still fit."""
    version, mpich = bootstrap.RECIPE["petsc"], bootstrap.RECIPE["mpich"]
    for name, wanted in (("petsc", [f"Requires-Dist: mpich=={mpich}"]), ("petsc4py", [])):
        with zipfile.ZipFile(bootstrap.WHEELS / f"{name}-{version}-py3-none-any.whl") as wheel:
            inside = f"{name}-{version}.dist-info"
            head, _, text = wheel.read(f"{inside}/METADATA").decode().partition("\n\n")
            assert [line for line in head.splitlines() if line.startswith("Requires-Dist")] == wanted
            assert text == "About it.\n"
            lines = [line.split(",") for line in wheel.read(f"{inside}/RECORD").decode().splitlines()]
            assert sorted(line[0] for line in lines) == sorted(wheel.namelist())
            for file, held, size in lines[:-1]:
                assert (held, int(size)) == (digest(wheel.read(file)), len(wheel.read(file)))
