"""The pages that are made of code and results have all of it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import problems
from stiffml import METHODS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        importlib.import_module("problem_pictures")
        return importlib.import_module("generated_pages")
    finally:
        sys.path.remove(str(DOCS))


def test_every_method(pages: ModuleType) -> None:
    assert all(f"| `{name}` |" in pages.methods() for name in METHODS)


def test_every_problem(pages: ModuleType) -> None:
    text = pages.library()
    assert [name for name in problems.names() if f"## {name}\n" not in text] == []
    assert [name for name in problems.names() if f"(pictures/{name}.png)" not in text] == []


def test_a_problem_is_drawn(pages: ModuleType, tmp_path: Path) -> None:
    drawn = importlib.import_module("problem_pictures")
    assert set(drawn.METHODS) <= set(problems.names())
    drawn.draw("robertson", tmp_path / "robertson.png")
    assert (tmp_path / "robertson.png").read_bytes().startswith(b"\x89PNG")


def test_every_bound_is_shown_with_what_was_measured(pages: ModuleType) -> None:
    text, missed = pages.results(), 0
    for path in pages.RESULTS.glob("*.json"):
        for bound in json.loads(path.read_text()).get("bounds", []):
            if isinstance(bound, dict):
                assert f"| {bound['what'].replace('|', chr(92) + '|')} | {bound['value']:.3g} |" in text, (
                    path.name
                )
                missed += not bound["met"]
    assert text.count("**missed**") == missed


def test_every_measured_method_is_shown_with_its_ratios(pages: ModuleType) -> None:
    stored = json.loads((pages.RESULTS / "defaults.json").read_text())["summary"]
    by_mode = pages.defaults().split("## ")[1:]
    for text, (mode, found) in zip(by_mode, stored.items(), strict=True):
        assert text.startswith(mode.capitalize())
        lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
        for name, of in found["methods"].items():
            shown = [f"{ratio:.2f}" for ratio in of["rtol"].values() if ratio is not None]
            assert [cell.split(" ")[0] for cell in lines[name].split(" | ")[2:-1] if "." in cell] == shown, (
                name
            )


def test_every_public_name_is_in_the_reference(pages: ModuleType) -> None:
    lines = {line.strip() for line in pages.api().splitlines()}
    assert lines >= {f"api.{name}" for name in pages.ROOMS}
    listed: set[str] = set()
    for name, text in pages.rooms().items():
        listed |= {line.strip() for line in text.splitlines() if line.startswith("   ")}
        room = importlib.import_module(name)
        of = {public: getattr(room, public) for public in room.__all__}
        things = {public for public, thing in of.items() if callable(thing) and not pages.is_alias(thing)}
        assert things <= listed, f"{name}: {things - listed}"


def test_pages_that_are_as_before_keep_their_time(pages: ModuleType, tmp_path: Path) -> None:
    pages.write_all(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "api").mkdir()
    for name in ("stiffml.solve", "stiffml.gone"):
        (tmp_path / "api" / f"{name}.rst").write_text("")
    assert len(before) == 8 + len(pages.ROOMS)
    pages.write_all(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()} == before
    assert [path.stem for path in (tmp_path / "api").iterdir()] == ["stiffml.solve"]
