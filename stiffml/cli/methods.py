"""``stiffml methods``: what each method can do; with a name, when to use it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from stiffml.cli.screen import console, explained

ABILITIES = {
    "adaptive": "adaptive",
    "split": "split",
    "mass": "mass",
    "dae": "DAE",
    "adaptive_dae": "adaptive DAE",
}
MEANINGS = (
    "adaptive: steps by an error estimate. split: implicit and explicit part; 'only split': nothing else. "
    "mass: a mass matrix; DAE: a singular one. Stability: L, A, A(angle), or |hλ| of explicit methods."
)


def methods(
    name: Annotated[str | None, typer.Argument(help="One method in full.")] = None,
) -> None:
    """What each time stepping method can do; with a name, its stability and when to use it."""
    with explained():
        if name is None:
            _overview()
        else:
            _detail(name)


def _overview() -> None:
    from stiffml import METHODS

    table = Table(
        Column("method", no_wrap=True),
        Column("order", justify="right"),
        Column("stability", no_wrap=True),
        Column("stiffly accurate", max_width=10),
        "can",
        caption=MEANINGS,
    )
    for name in METHODS:
        table.add_row(name, str(METHODS[name].order), stability_text(name), *abilities(name))
    console.print(table, highlight=False)


def stability_text(name: str) -> str:
    """Such as "L", "A(51°)" or, of an explicit method, "to 2.8"."""
    from stiffml.diagnostics.methods import stability

    how = stability(name)
    if how.kind == "explicit":
        return f"to {how.real_limit:.2g}"
    return f"A({how.angle:.0f}°)" if how.kind == "A(α)" else how.kind


def abilities(name: str) -> tuple[str, str]:
    """ "yes" for a stiffly accurate method, and what it can do."""
    from stiffml import METHODS
    from stiffml.diagnostics.methods import stability

    method = METHODS[name]
    able = [text for attribute, text in ABILITIES.items() if getattr(method, attribute)]
    if not method.whole:
        able = ["only split" if text == "split" else text for text in able]
    if "adaptive DAE" in able:
        able = [text for text in able if text not in ("mass", "DAE")]
    elif "DAE" in able:
        able.remove("mass")
    return "yes" if stability(name).stiffly_accurate else "", ", ".join(able)


def _detail(name: str) -> None:
    from stiffml.diagnostics.methods import stability, stiff_order, suits
    from stiffml.methods import resolve

    method, how = resolve(name), stability(name)
    measured = stiff_order(name)
    kinds = {
        "L": "L-stable",
        "A": "A-stable",
        "A(α)": f"A(α)-stable, α = {how.angle:.1f}°",
        "explicit": f"explicit: stable up to h|λ| = {how.real_limit:.3g} on the negative real axis",
        "unstable": "not stable for stiff modes",
    }
    table = Table(show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_row("method", f"{name}, {method!r}")
    table.add_row("order", str(method.order))
    if measured is not None:
        table.add_row("stiff order", f"{measured:.1f}, measured on Prothero and Robinson's problem, λ = -1e4")
    table.add_row("stability", kinds[how.kind])
    if method.implicit:
        table.add_row(
            "left of a stiff mode",
            f"{how.at_infinity:.2g} after a step" if how.at_infinity > 1e-9 else "nothing",
        )
        table.add_row("stiffly accurate", "yes" if how.stiffly_accurate else "no")
    table.add_row("steps by", "PETSc" if method.stepper == "petsc" else "stiffml")
    table.add_row("can", abilities(name)[1])
    table.add_row("between steps", "its own interpolant" if method.own_interpolant else "a polynomial")
    table.add_row("use it for", "\n".join(suits(name)))
    first = (type(method).__doc__ or "").strip().splitlines()
    if first:
        table.add_row("a step", first[0])
    console.print(table, highlight=False)
