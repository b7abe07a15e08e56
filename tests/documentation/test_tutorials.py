"""The tutorials run, in time, and have the form that the gallery of the documentation needs."""

from __future__ import annotations

import ast
import itertools
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
SECONDS = {"quick": 30, "full": 120}
"""Of processor time: several times what they take on an idle core."""
LINES_BETWEEN_PICTURES = 45

each_tutorial = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def cells(path: Path) -> list[str]:
    """The parts that begin with ``# %%``; what comes before the first is left out."""
    return re.split(r"^# %%.*\n", path.read_text(), flags=re.MULTILINE)[1:]


def text(cell: str) -> str:
    """The comment that a cell begins with, as reStructuredText."""
    found = re.match(r"(#.*\n?)*", cell)
    assert found is not None
    return re.sub(r"^# ?", "", found.group(), flags=re.MULTILINE)


def code(cell: str) -> str:
    return cell[len(re.match(r"(#.*\n?)*", cell).group()) :]


@each_tutorial
def test_sources_are_cited(path: Path) -> None:
    (found,) = (text(cell) for cell in cells(path) if text(cell).startswith("Sources\n"))
    assert found.count("\n* ") >= 2
    assert re.search(r"\d{4}|GRI-Mech", found), "no year, and no number of a preprint"


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", ["quick", pytest.param("full", marks=pytest.mark.sweep)])
@each_tutorial
def test_tutorial_runs(path: Path, form: str, tmp_path: Path) -> None:
    """All its checks hold, in the quick form that its sizes have and in the one that readers see."""
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "STIFFML_TUTORIALS": form,
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    tail = "\n".join(run.stdout.splitlines()[-40:])
    assert run.returncode == 0, f"exit status {run.returncode}:\n{tail}"
    assert "Warning" not in run.stdout, tail
    assert seconds < SECONDS[form], f"{seconds:.0f} s of processor time:\n{tail}"
    assert not list(tmp_path.iterdir()), "a tutorial writes nothing"


@each_tutorial
def test_tutorial_begins_with_a_title(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    title, line, *rest = docstring.splitlines()
    assert title
    assert line == "=" * len(line)
    assert len(line) >= len(title)
    assert any(rest), "the title is followed by what the tutorial is about"


@each_tutorial
def test_tutorial_says_at_the_top_what_it_gives_and_takes(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "After this you will be able to\n\n* " in docstring
    words = " ".join(docstring.split())
    assert re.search(r"minute on one core", words), "how long it takes"
    assert re.search(r"\bseeds?\b|random", words.lower()), "what is random, and from which seed"


@each_tutorial
def test_tutorial_alternates_text_and_code(path: Path) -> None:
    parts = cells(path)
    assert len(parts) >= 8
    for number, part in enumerate(parts):
        assert text(part).strip(), f"cell {number} does not begin with text"
    assert sum(bool(code(part).strip()) for part in parts) >= 6
    # Headings are underlined over their whole length.
    for part in parts:
        lines = text(part).splitlines()
        for heading, line in itertools.pairwise(lines):
            if re.fullmatch(r"-{4,}", line):
                assert len(line) >= len(heading), heading


@each_tutorial
def test_tutorial_has_a_picture_on_every_screen(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    shows = source.split("plt.show()")
    assert len(shows) > 1
    assert calls.count("plt.show") == len(shows) - 1
    assert calls.count("plt.subplots") + calls.count("plt.figure") == len(shows) - 1
    stretches = [source.partition("# %%")[2].split("plt.show()")[0], *shows[1:-1]]
    for number, stretch in enumerate(stretches, 1):
        lines = [line for line in stretch.splitlines() if line.strip(" #")]
        assert len(lines) <= LINES_BETWEEN_PICTURES, f"{len(lines)} lines before picture {number}"


@each_tutorial
def test_tutorial_checks_what_it_says(path: Path) -> None:
    asserts = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text())))
    assert asserts >= 8


@each_tutorial
def test_tutorial_ends_with_exercises(path: Path) -> None:
    last = cells(path)[-1]
    assert not code(last).strip()
    heading, line, *rest = text(last).splitlines()
    assert heading == "Exercises"
    assert re.fullmatch(r"-+", line)
    numbers = [int(match) for match in re.findall(r"^(\d+)\. ", "\n".join(rest), flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 3 <= len(numbers) <= 6
    exercises = re.split(r"^\d+\. ", "\n".join(rest), flags=re.MULTILINE)[1:]
    assert [one.count("*Answer.*") for one in exercises] == [1] * len(numbers)
