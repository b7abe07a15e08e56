"""The folder of compiled code: used again, safe against damage, and against others that write to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from stiffml.compiled import cache
from stiffml.compiled.library import Library
from stiffml.compiled.refusal import NotCompilableError

TEXT = '#include <stdint.h>\n__attribute__((visibility("default"))) int64_t number(void) {{ return {}; }}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STIFFML_CACHE", str(tmp_path / "made" / "here"))
    return tmp_path / "made" / "here"


def number_in(path: Path) -> int:
    """In a process of its own: a library that was loaded once may stay as it was."""
    script = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).number())"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_what_was_made_is_found_again(folder: Path) -> None:
    path = cache.library_of(TEXT.format(1))
    assert path.parent == folder
    with patch("subprocess.run", side_effect=AssertionError("compiled again")):
        assert cache.library_of(TEXT.format(1)) == path
    assert cache.library_of(TEXT.format(2)) != path
    assert number_in(path) == 1
    assert sorted(folder.iterdir()) == sorted({path, cache.library_of(TEXT.format(2))})  # and no rests


@pytest.mark.parametrize("damage", ["cut off", "empty", "one bit", "gone", "another library"])
def test_damage_is_noticed(folder: Path, damage: str) -> None:
    path = cache.library_of(TEXT.format(3))
    content = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    elif damage == "one bit":
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    else:
        path.write_bytes(b"x" + content)
    assert not cache.is_whole(path)
    assert cache.library_of(TEXT.format(3)) == path
    assert cache.is_whole(path)
    assert number_in(path) == 3


def test_processes_that_write_the_same(folder: Path) -> None:
    script = (
        "from stiffml.compiled import cache\n"
        f"text = {TEXT.format(4)!r}\n"
        "for _ in range(5):\n"
        "    path = cache.library_of(text)\n"
        "    assert cache.is_whole(path)\n"
        "    path.unlink(missing_ok=True)\n"
        "cache.library_of(text)\n"
    )
    root = str(Path(__file__).parents[2])
    started = [
        subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": root})
        for _ in range(3)
    ]
    # One may take a file away between another's making and checking it; what is there is always whole.
    codes = [process.wait(timeout=120) for process in started]
    assert set(codes) <= {0, 1}
    assert all(cache.is_whole(path) for path in folder.glob("*.so"))
    assert number_in(cache.library_of(TEXT.format(4))) == 4
    assert not list(folder.glob("making-*"))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STIFFML_CACHE", str(tmp_path / "file" / "folder"))
    path = cache.library_of(TEXT.format(5))
    assert number_in(path) == 5


def test_no_library_at_all(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.so"
    wrong.write_bytes(b"nothing")
    with pytest.raises(NotCompilableError, match="cannot be loaded"):
        Library(wrong, ("values",))


def test_importing_stiffml_does_not_import_casadi() -> None:
    script = "import sys, stiffml; assert 'casadi' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
