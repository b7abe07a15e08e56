"""Every example on the site's pages runs; the first of each question ends in the error of its heading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import stiffml

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = {
    str(path.relative_to(DOCS)): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if not {"_build", "generated"} & set(path.relative_to(DOCS).parts) and BLOCK.search(path.read_text())
}
QUESTIONS = {
    entry.partition("\n")[0].strip(): BLOCK.findall(entry)
    for entry in PAGES["faq.md"].split("\n## ")[1:]
    if BLOCK.search(entry)
}


def run(text: str, names: dict[str, Any], where: str) -> None:
    exec(compile(text, where, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "faq.md"])
def test_examples_of_a_page(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In their order, as a reader would type them."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    for number, block in enumerate(BLOCK.findall(PAGES[page]), 1):
        run(block, names, f"docs/{page}, example {number}")


@pytest.mark.parametrize("question", QUESTIONS)
def test_question(question: str) -> None:
    def names() -> dict[str, Any]:
        torch.manual_seed(0)
        D = torch.float64
        y0, t = torch.tensor([1.0, 0.5], dtype=D), torch.linspace(0, 1, 5, dtype=D)
        return {"__name__": "example", "stiffml": stiffml, "torch": torch, "D": D, "y0": y0, "t": t}

    wrong, right = QUESTIONS[question]
    with pytest.raises(Exception, match=re.escape(question)):
        run(wrong, names(), f"docs/faq.md, the first example of {question!r}")
    run(right, names(), f"docs/faq.md, the second example of {question!r}")


def test_there_are_enough_questions() -> None:
    assert len(QUESTIONS) >= 15, "the questions are no longer found; look at how they are marked"
