"""``stiffml methods``: the table of what each method can do."""

from __future__ import annotations

from rich.table import Column, Table

from stiffml.cli.screen import console

COLUMNS = {
    "adaptive": "adaptive",
    "implicit": "implicit",
    "whole": "ODE",
    "split": "split",
    "mass": "mass matrix",
    "dae": "DAE",
    "adaptive_dae": "adaptive DAE",
    "own_interpolant": "own interpolant",
    "within_step": "within the step",
}


def methods() -> None:
    """What each time stepping method can do."""
    from stiffml import METHODS

    table = Table(Column("method", no_wrap=True), "order", Column("stepper", min_width=6), *COLUMNS.values())
    for name, method in METHODS.items():
        able = ("yes" if getattr(method, attribute) else "" for attribute in COLUMNS)
        table.add_row(name, str(method.order), method.stepper, *able)
    console.print(table)
