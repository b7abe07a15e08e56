"""Public names say what they are, each with an example, and every example of a docstring runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
try:
    pages = importlib.import_module("generated_pages")
finally:
    sys.path.remove(str(ROOT / "docs"))

WITHOUT_EXAMPLE: dict[str, str] = {}
"""By name the reason; errors have none either."""

SECTIONS = ("Parameters", "Attributes", "Returns", "Raises")


def docstrings() -> Iterator[tuple[str, int, str]]:
    """Of all files that stiffml consists of: where, its line, its text; read, so that nothing hides one."""
    for path in sorted([*(ROOT / "stiffml").rglob("*.py"), *(ROOT / "problems").rglob("*.py")]):
        text = path.read_text()
        if ">>> " not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found = ast.get_docstring(node)
                if found and ">>> " in found:
                    name = f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}"
                    yield name, node.body[0].lineno, found


EXAMPLES = {f"{name}:{line}": (line, text) for name, line, text in docstrings()}


def public() -> dict[str, Any]:
    """What the page of the reference lists, by its first name there."""
    found, seen = {}, set()
    for room in pages.ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and not pages.is_alias(thing) and id(thing) not in seen:
                found[f"{room}.{name}"] = thing
                seen.add(id(thing))
    return found


PUBLIC = public()


def run_in_it(text: str) -> list[doctest.Example]:
    return [one for one in doctest.DocTestParser().get_examples(text) if doctest.SKIP not in one.options]


@pytest.mark.parametrize("place", EXAMPLES)
def test_example_of_a_docstring(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gives what it says, after the lines that the page of the reference begins with."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    line, text = EXAMPLES[place]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(pages.EXAMPLES_BEGIN, "docs/examples_begin.py", "exec"), names)
    test = doctest.DocTestParser().get_doctest(text, names, place, place.split(":")[0], line)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_every_public_name_has_an_example() -> None:
    examined = {name: thing for name, thing in PUBLIC.items() if not _is_error(thing)}
    without = {name for name, thing in examined.items() if not run_in_it(inspect.getdoc(thing) or "")}
    assert without == set(WITHOUT_EXAMPLE)
    assert len(examined) > 130, "public names are no longer found"


def _is_error(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Exception)


def test_every_public_name_and_method_says_what_it_is() -> None:
    silent = [name for name, thing in _with_members() if not inspect.getdoc(thing)]
    assert silent == []


def test_sections_are_read_as_they_are_meant() -> None:
    """numpydoc leaves out a section whose name it does not know, and takes a sentence for a parameter."""
    docscrape = pytest.importorskip("numpydoc.docscrape")
    wrong = []
    for name, thing in _with_members():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parsed = docscrape.NumpyDocString(inspect.getdoc(thing) or "")
        wrong += [f"{name}: {str(one.message).splitlines()[0]}" for one in caught]
        for section in SECTIONS:
            for entry in parsed[section]:
                label = entry.name or entry.type
                if len(label) > 60 or re.search(r"\w\.(\s|$)|``|:", label):
                    wrong.append(f"{name}, {section}: {label[:60]!r}")
    assert wrong == []


def _with_members() -> Iterator[tuple[str, Any]]:
    for name, thing in PUBLIC.items():
        yield name, thing
        if inspect.isclass(thing) and not _is_error(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and isinstance(
                    value, property | classmethod | staticmethod | type(test_every_public_name_has_an_example)
                ):
                    yield f"{name}.{member}", getattr(thing, member)
