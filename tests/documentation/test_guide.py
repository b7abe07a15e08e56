"""The guide has a page for each subject, and its numbers are those that were measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
LISTED = re.findall(r"^(\w+)$", (GUIDE / "index.md").read_text(), re.MULTILINE)


def stored(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def said(page: str) -> str:
    return " ".join((GUIDE / f"{page}.md").read_text().split())


def test_every_page_is_listed_and_subjects_have_theirs() -> None:
    assert set(LISTED) == {path.stem for path in GUIDE.glob("*.md")} - {"index"}
    assert {"batches", "compiled", "daes", "events", "training", "data", "closures"} <= set(LISTED)


@pytest.mark.parametrize("page", ["batches", "compiled", "daes", "events", "training"])
def test_a_page_has_an_example_and_leads_on(page: str) -> None:
    text = said(page)
    assert "```python" in text
    assert "](../generated/api/stiffml." in text, "to the reference"
    assert "](../learn/" in text, "to a lesson"
    assert f"]({page}.md)" in said("features"), "from the page of all features"


def test_links_between_pages_of_the_source_lead_somewhere() -> None:
    made = ("generated", "learn")
    for path in GUIDE.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            if not any(f"../{folder}/" in link and "benchmarks" not in link for folder in made):
                assert (path.parent / link).exists(), f"{path.name}: {link}"
    lessons = {path.stem for path in (ROOT / "tutorials").glob("*.py")}
    linked = {
        name for path in GUIDE.glob("*.md") for name in re.findall(r"/learn/(\w+)\.rst", path.read_text())
    }
    assert linked <= lessons


def test_numbers_of_batches() -> None:
    bounds = stored("own_steps")["bounds"]
    own, compiled = (bounds[number]["value"] for number in (1, 3))
    many = {(one["samples"], one["method"], one["end"]): one for one in stored("ensembles")["ensembles"]}
    large = many[1000, "rosw-rodaspr2", "100"]
    text = said("batches")
    assert f"{100 * own:.0f} % of the time with gradients" in text
    assert f"{100 * compiled:.1f} % of the time of shared steps" in text
    assert f"{large['forward_ms'] / 1e3:.2f} s forward and {large['backward_ms'] / 1e3:.2f} s" in text
    faster = [
        case["all at once, times_faster"]
        for case in stored("own_steps_at_once")["solves"]
        if case["samples"] == 20
    ]
    assert f"{min(faster):.0f} to {max(faster):.0f} times faster" in text


def test_numbers_of_compiled_functions() -> None:
    cases = {one["way"]: one for one in stored("compiled_steps")["cases"] if one["method"] == "bdf5"}
    text = said("compiled")
    for way in ("torch", "torch, PETSc in C", "compiled", "compiled, PETSc in C", "compiled, rows in C"):
        assert f"| {cases[way]['forward_ms']:.1f} ms | {cases[way]['both_ms']:.1f} ms |" in text, way
    assert f"{cases['compiled, rows in C']['steps']} steps of BDF" in text


def test_numbers_of_kept_steps() -> None:
    bounds = {one["what"]: one["value"] for one in stored("kept_steps")["bounds"]}
    text = said("training")
    faster = {name: bounds[f"times as fast, {name}, renewed after 25"] for name in ("bdf", "bdf3")}
    error = bounds["error by that of adaptive steps, bdf3, renewed after 25"]
    assert f"by `bdf` is {faster['bdf']:.1f} times as fast" in text
    assert f"by `bdf3` it is {faster['bdf3']:.1f} times as fast, with {error:.1f} times the error" in text
