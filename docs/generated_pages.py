"""Pages made of the capability table, the problem library and stored results: they cannot be out of date."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import problems
from stiffml import METHODS
from stiffml.cli.methods import MEANINGS, abilities, stability_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

ROOMS = {
    "stiffml": "Solving",
    "stiffml.training": "Training",
    "stiffml.training.data": "Data",
    "stiffml.closures": "Closures",
    "stiffml.diagnostics": "Diagnostics",
    "stiffml.distributed": "Many processes",
    "problems": "Problems",
    "problems.chemistry": "Mechanisms",
}
"""The rooms with public names, in the order of the page."""


def write_all(folder: Path) -> None:
    """Write the pages; one that is as before keeps its time, so that a second build takes less."""
    folder.mkdir(exist_ok=True)
    pages = {"methods.md": methods(), "problems.md": library(), "results.md": results(), "api.rst": api()}
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def api() -> str:
    """Every public name, room by room."""
    parts, seen = ["API", "===", ""], set()
    for name, title in ROOMS.items():
        room = importlib.import_module(name)
        parts += [
            title,
            "-" * len(title),
            "",
            f".. currentmodule:: {name}",
            "",
            ".. autosummary::",
            "   :toctree: api",
            "",
        ]
        for public in sorted(room.__all__, key=str.lower):
            thing = getattr(room, public)
            if callable(thing) and id(thing) not in seen:  # a name of two rooms is shown in the first
                parts.append(f"   {public}")
                seen.add(id(thing))
        parts.append("")
    return "\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), line("---" for _ in head), *(line(row) for row in rows)]) + "\n"


def methods() -> str:
    """What each method can do, from the capability table, and its stability, from its coefficients."""
    rows = []
    for name, method in METHODS.items():
        by = "PETSc" if method.stepper == "petsc" else "stiffml"
        interpolant = "yes" if method.own_interpolant else ""
        rows.append([f"`{name}`", str(method.order), stability_text(name), *abilities(name), interpolant, by])
    head = ["method", "order", "stability", "stiffly accurate", "can", "own interpolant", "steps by"]
    return f"# All methods\n\n`stiffml methods` prints this table. {MEANINGS}\n\n" + table(head, rows)


def library() -> str:
    """Each problem with its equations, source and references."""
    parts = ["# Problem library\n\n`problems.load(name)` has each; `stiffml problems NAME` prints more.\n"]
    for name in problems.names():
        try:
            problem = problems.load(name)
        except FileNotFoundError:  # a mechanism of a package that is not installed
            continue
        facts = [
            ("unknowns", f"{problem.y0.size}"),
            ("span", f"{problem.t_span[0]:g} to {problem.t_span[1]:g} {problem.time_units}"),
            ("split", "yes" if problem.parts is not None else ""),
            ("mass matrix", "yes" if problem.mass is not None else ""),
            ("conserved", ", ".join(problem.invariants)),
            ("stiffness", problem.stiffness),
            ("source", problem.citation),
        ]
        known = [(what, " ".join(str(value).split())) for what, value in facts if value]
        equations = problem.equations.rstrip()
        parts.append(f"## {name}\n\n{problem.title}\n\n```text\n{equations}\n```\n\n{table(['', ''], known)}")
    return "\n".join(parts)


def results() -> str:
    """The bounds of all stored benchmarks, those that are missed too."""
    parts = [
        "# Measured\n\nEvery figure comes from a stored run in `benchmarks/results`, with its command and "
        "machine. What is missed stays in the table.\n"
    ]
    for path in sorted(RESULTS.glob("*.json")):
        stored = json.loads(path.read_text())
        bounds = [one for one in stored.get("bounds", []) if isinstance(one, dict)]
        if not bounds:
            continue
        rows = [
            [
                one["what"],
                f"{one['value']:.3g}",
                f"{'≥' if one.get('at_least') else '≤'} {one['limit']:.3g}",
                "met" if one["met"] else "**missed**",
            ]
            for one in bounds
        ]
        command = stored.get("command", "")
        parts.append(f"## {path.stem}\n\n`{command}`\n\n{table(['what', 'measured', 'asked', ''], rows)}")
    return "\n".join(parts)
