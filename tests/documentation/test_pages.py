"""Every example of the README and the site runs; the first of each question ends in its error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from kinetics import write_kinetics
from small_problems import times
from torch import Tensor

import stiffml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if not {"_build", "generated", "learn"} & set(path.relative_to(ROOT).parts)
    and BLOCK.search(path.read_text())
}
QUESTIONS = {
    entry.partition("\n")[0].strip(): BLOCK.findall(entry)
    for entry in PAGES["docs/faq.md"].split("\n## ")[1:]
    if BLOCK.search(entry)
}
MOST_WORDS = 600


class Model(torch.nn.Module):
    """Diffusion and a reaction."""

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return 100 * (y.roll(1, -1) + y.roll(-1, -1) - 2 * y)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(t, y) - y**3


def supposed() -> dict[str, Any]:
    """What examples of the guide take for granted."""
    model = Model()
    return {
        "__name__": "example",
        "stiffml": stiffml,
        "torch": torch,
        "model": model,
        "func": model,
        "y0": torch.linspace(1, 2, 12, dtype=torch.float64),
        "t": times(0, 1e-6),  # so that a large field takes a moment
    }


def run(text: str, names: dict[str, Any], where: str) -> None:
    exec(compile(text, where, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/faq.md"])
def test_examples_of_a_page(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In their order, as a reader would type them; those of the guide each by itself."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    write_kinetics(tmp_path / "experiments.csv")
    names: dict[str, Any] = {"__name__": "example"}
    for number, block in enumerate(BLOCK.findall(PAGES[page]), 1):
        run(block, supposed() if "/guide/" in page else names, f"{page}, example {number}")


def test_the_readme_is_short_and_says_what_its_example_prints(capsys) -> None:
    text = PAGES["README.md"]
    assert len(text.split()) <= MOST_WORDS
    run(BLOCK.findall(text)[0], {"__name__": "example"}, "README.md")
    printed, said = capsys.readouterr().out, re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert said is not None
    numbers = [[float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", of)] for of in (printed, said[1])]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_numbers_of_the_readme_are_those_that_were_measured() -> None:
    def of(name: str) -> list[dict[str, Any]]:
        return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["bounds"]

    seeds, unseen, seconds = (bound["value"] for bound in of("fits_robertson_40"))
    own, _, compiled, with_gradient = (1 / bound["value"] for bound in of("own_steps"))
    in_c = max(bound["value"] for bound in of("compiled_steps") if "rows in C" in bound["what"])
    assert (seeds, unseen) == (1, 1)
    said = [
        f"through {len(set(map(repr, stiffml.METHODS.values())))} implicit and explicit methods",
        f"a median of {seconds:.1f} s",
        f"take 1/{own:.0f} of the time",
        f"compiled 1/{float(f'{compiled:.2g}'):.0f}, with gradients 1/{float(f'{with_gradient:.2g}'):.0f} ",
        f"takes at most {in_c:.1f} of the time of PETSc's own",
    ]
    text = " ".join(PAGES["README.md"].split())
    assert [words for words in said if words not in text] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGES["README.md"])
    assert [link for link in links if not (ROOT / link).exists()] == []


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
