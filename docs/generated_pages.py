"""Pages made of the capability table, the problem library and stored results: they cannot be out of date."""

from __future__ import annotations

import builtins
import importlib
import inspect
import json
import typing
from pathlib import Path

import experiment_pages
from markdown_tables import RESULTS, ROOT, table

import problems
from stiffml import METHODS
from stiffml.cli.methods import MEANINGS, abilities, stability_text

ROOMS = {
    "stiffml": "Solving",
    "stiffml.training": "Training",
    "stiffml.training.data": "Data",
    "stiffml.closures": "Closures",
    "stiffml.diagnostics": "Diagnostics",
    "stiffml.distributed": "Many processes",
    "stiffml.plotting": "Figures",
    "stiffml.compat.torchdiffeq": "torchdiffeq's interface",
    "problems": "Problems",
    "problems.chemistry": "Mechanisms",
    "stiffml.experiments": "Published experiments",
}
"""The rooms with public names, in the order of the page."""

_BEGIN = (ROOT / "docs" / "examples_begin.py").read_text()
EXAMPLES_BEGIN = _BEGIN.partition("\n\n")[2].replace("  # noqa: F401", "")
"""What examples take for granted."""


def write_all(folder: Path) -> None:
    """Write the pages; one that is as before keeps its time, so that a second build takes less."""
    folder.mkdir(exist_ok=True)
    pages = {
        "methods.md": methods(),
        "problems.md": library(),
        "experiments.md": experiment_pages.all_experiments(),
        **experiment_pages.own_pages(),
        "results.md": results(),
        "defaults.md": defaults(),
        "api.rst": api(),
        **{f"api.{room}.rst": text for room, text in rooms().items()},
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    listed = {f"{room}.{line.strip()}" for room, text in rooms().items() for line in text.splitlines()}
    for page in (folder / "api").glob("*.rst"):
        if page.stem not in listed:  # of a name that was there at an earlier build
            page.unlink()


def api() -> str:
    """The page of the reference: its rooms, and what their examples take for granted."""
    begin = [f"   {line}".rstrip() for line in EXAMPLES_BEGIN.splitlines()]
    pages = [f"   api.{name}" for name in ROOMS]
    return "\n".join(
        [
            "API",
            "===",
            "",
            "Every public name, room by room.",
            "",
            ".. toctree::",
            "   :maxdepth: 1",
            "",
            *pages,
            "",
            "Examples take for granted what begins so::",
            "",
            *begin,
            "",
        ]
    )


def rooms() -> dict[str, str]:
    """For each room the page of its public names."""
    found, seen = {}, set()
    for name, title in ROOMS.items():
        room = importlib.import_module(name)
        heading = f"{title}: {name}"
        parts = [
            heading,
            "=" * len(heading),
            "",
            f".. currentmodule:: {name}",
            "",
            ".. autosummary::",
            "   :toctree: api",
            "",
        ]
        for public in sorted(room.__all__, key=str.lower):
            thing = getattr(room, public)
            # A name of two rooms is shown in the first.
            if callable(thing) and not is_alias(thing) and id(thing) not in seen:
                parts.append(f"   {public}")
                seen.add(id(thing))
        found[name] = "\n".join([*parts, ""])
    return found


def classes() -> dict[str, str]:
    """The public classes by their short names: where the reference has them."""
    found: dict[str, str] = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            if inspect.isclass(getattr(module, name)):
                found.setdefault(name, f"{room}.{name}")
    return found


def say_where_a_lesson_is(conf: object, file: str) -> None:
    """Let a lesson find the files beside it: the gallery runs it without the ``__file__`` of a script."""
    builtins.__file__ = file  # type: ignore[attr-defined]


def is_alias(thing: object) -> bool:
    """Whether a name only stands for other types, such as ``Literal["a", "b"]``."""
    return typing.get_origin(thing) is not None


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
        picture = f"![{problem.title or name}](pictures/{name}.png)"
        facts_known = table(["", ""], known)
        parts.append(
            f"## {name}\n\n{problem.title}\n\n```text\n{equations}\n```\n\n{facts_known}\n{picture}\n"
        )
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


def defaults() -> str:
    """Each method against the cheapest at equal digits, on all small problems of the library."""
    stored = json.loads((RESULTS / "defaults.json").read_text())
    parts = [
        "# Small systems, all methods\n\nCPU time divided by that of the cheapest method at equal digits, "
        "median over problems: 1 is the best. In brackets: on how many problems a method failed, took too "
        "long, or found no digit; where that is most, there is no median. `f` is the same ratio by "
        "evaluations, at five digits. Methods are in the order of their means at 3 to 6 digits.\n",
        f"`{stored['command']}`; the script's docstring says what is measured.\n",
        "![Time by digits](../../benchmarks/results/defaults.png)\n",
    ]
    for mode, found in stored["summary"].items():
        tolerances = list(dict.fromkeys(at for of in found["methods"].values() for at in of["rtol"]))
        rows = [
            [
                f"`{name}`",
                str(of["problems"]),
                *(_ratio(of["rtol"].get(at), of["failed_by_rtol"].get(at)) for at in tolerances),
                _ratio(of["evaluations"].get("5"), 0),
            ]
            for name, of in found["methods"].items()
        ]
        head = ["method", "problems", *(f"rtol {float(at):g}" for at in tolerances), "f"]
        names = ", ".join(found["problems"])
        parts.append(f"## {mode.capitalize()}\n\nOn {names}.\n\n{table(head, rows)}")
    return "\n".join(parts)


def _ratio(median: float | None, failed: int | None) -> str:
    text = "" if median is None else f"{median:.2f}"
    return f"{text} ({failed})".strip() if failed else text
