"""Pages of experiments have all that was found, and code and pictures that exist."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from stiffml import experiments

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
try:
    pages = importlib.import_module("experiment_pages")
finally:
    sys.path.remove(str(ROOT / "docs"))

STORED = ROOT / "benchmarks" / "results" / "experiments"
each = pytest.mark.parametrize("name", ["images", "flow"])


def stored(name: str) -> dict:
    return json.loads((STORED / name / "findings.json").read_text())


def own(name: str) -> str:
    return pages.own_pages()[pages.file(name)]


@each
def test_a_page_has_every_finding_with_its_number(name: str) -> None:
    text = own(name)
    for finding in stored(name)["findings"]:
        assert f"| {finding['what']} | {finding['value']:.3g}" in text
        assert finding["differs"] in text
    assert text.count("**missed**") == sum(one["met"] is False for one in stored(name)["findings"])
    assert stored(name)["command"].split(" --")[0] in text


@each
def test_a_page_has_every_picture_and_all_exist(name: str) -> None:
    linked = re.findall(r"\]\((\S+\.png)\)", own(name))
    assert {Path(link).name for link in linked} == {path.name for path in (STORED / name).glob("*.png")}
    assert all((ROOT / "docs" / "generated" / link).resolve().exists() for link in linked)


@each
def test_the_code_on_a_page_is_in_its_file(name: str) -> None:
    found = re.findall(r"literalinclude\} \.\./\.\./(\S+)\n:language: python\n:pyobject: (\w+)", own(name))
    assert len(found) == len(pages.PAGES[name].code) > 3
    for path, of in found:
        tree = ast.parse((ROOT / path).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert of in names, f"{path} has no {of}"


@each
def test_it_is_linked_from_learn_and_from_experiments(name: str) -> None:
    learn = (ROOT / "tutorials" / "GALLERY_HEADER.rst").read_text()
    assert f"</generated/{Path(pages.file(name)).stem}>" in learn
    everything = pages.all_experiments()
    assert f"]({pages.file(name)})" in everything
    assert f"\n{pages.file(name)}\n" in everything.partition("## ")[0], "in its table of contents"


def test_every_experiment_is_on_the_page_of_all() -> None:
    text = pages.all_experiments()
    for name in experiments.names():
        assert f"## {stored(name)['title']}\n" in text
        missed = sum(one["met"] is False for one in stored(name)["findings"])
        part = text.split(f"## {stored(name)['title']}\n")[1].split("\n## ")[0]
        assert part.count("**missed**") == missed, name
