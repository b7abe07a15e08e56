"""``stiffml problems``: the library, or one problem in full."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.markup import escape
from rich.table import Column, Table

from stiffml.cli.screen import Settings, Size, console, explained, load
from stiffml.display import with_units

if TYPE_CHECKING:
    from problems import Problem

SHOWN = 12


def problems(
    name: Annotated[
        str | None, typer.Argument(help="One problem, or a Python file that defines one, in full.")
    ] = None,
    settings: Settings = None,
    size: Size = None,
) -> None:
    """The stiff problems of the library; with a name, its equations, source and eigenvalues."""
    with explained():
        if name is None:
            if settings or size is not None:
                raise ValueError("--set and --size need the name of a problem")
            _overview()
        else:
            _detail(load(name, settings, size))


def _overview() -> None:
    import problems as library
    from problems.spectrum import stiffness

    table = Table(
        Column("name", no_wrap=True),
        "kind",
        Column("size", justify="right"),
        Column("|λ| T", justify="right"),
        Column("digits", justify="right"),
        "what it is",
        caption="|λ| T: the fastest decay at a known state times the span. digits: of the reference.",
    )
    for name in library.names():
        try:
            problem = library.load(name)
        except (ImportError, FileNotFoundError) as error:  # Cantera's files are missing
            table.add_row(name, "", "", "", "", escape(str(error)))
            continue
        digits = min((-math.log10(r.rtol_valid) for r in problem.references), default=None)
        table.add_row(
            name,
            problem.kind,
            str(problem.size),
            f"{stiffness(problem):.0e}",
            "" if digits is None else f"{digits:.0f}",
            escape(problem.title),
        )
    console.print(table)


def _detail(problem: Problem) -> None:
    console.print(f"[bold]{escape(problem.name)}[/]  {escape(problem.title)}")
    if problem.equations:
        console.print("\n" + problem.equations, markup=False, highlight=False)
    start, end = problem.t_span
    unit = "" if problem.time_units == "1" else f" {problem.time_units}"
    split = {"": "none", "linear": "a linear implicit part", "nonlinear": "a nonlinear implicit part"}
    facts = Table(show_header=False, box=None)
    facts.add_column(style="dim", no_wrap=True)
    rows = {
        "span": f"{start:g} to {end:g}{unit}",
        "unknowns": f"{problem.size}: {', '.join(problem.components[:SHOWN])}"
        + (", …" if len(problem.components) > SHOWN else "")
        + (f" on {' x '.join(str(len(x)) for x in problem.grid.values())} points" if problem.grid else ""),
        "split": split[problem.stiff_part],
        "breakpoints": ", ".join(f"{b:g}" for b in problem.breakpoints),
        "invariants": ", ".join(problem.invariants),
        "stiffness": problem.stiffness,
        "source": problem.citation,
        "references": "\n".join(f"t = {r.t:g}: {r.source}; {r.verified}" for r in problem.references),
    }
    for what, text in rows.items():
        if text:
            facts.add_row(what, escape(text))
    console.print()
    console.print(facts, highlight=False)
    if problem.parameters:
        table = Table("parameter", Column("value", justify="right"), "units", "what it is", box=None)
        for name, parameter in problem.parameters.items():
            shape = np.shape(parameter.value)
            value = f"{shape[0] if len(shape) == 1 else shape} values" if shape else f"{parameter.value:g}"
            table.add_row(name, value, escape(parameter.units), escape(parameter.description))
        console.print()
        console.print(table, highlight=False)
    _eigenvalues(problem)


def _eigenvalues(problem: Problem) -> None:
    table = Table(with_units("t", problem.time_units), "eigenvalues", box=None)
    states = [(problem.t_span[0], problem.y0), *((r.t, r.y) for r in problem.references)]
    for t, y in states:
        values = problem.eigenvalues(t, y)
        texts = [_number(value) for value in values]
        if len(texts) > SHOWN:
            texts = [*texts[: SHOWN // 2], "…", *texts[-SHOWN // 2 :]]
        table.add_row(f"{t:g}", ", ".join(texts))
    console.print()
    console.print(table, highlight=False)


def _number(value: complex) -> str:
    if abs(value.imag) <= 1e-9 * abs(value):
        return f"{value.real:.3g}"
    return f"{value.real:.3g}{value.imag:+.3g}i"
