"""Options that ``fit`` and ``compare`` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[
    str,
    typer.Argument(
        help="A name that `stiffml problems` lists, or a Python file that defines problem, model, or network."
    ),
]
Learn = Annotated[
    str | None,
    typer.Option(
        help="Of a problem: network, constants, or names of constants with commas. Default network for "
        "robertson, else constants."
    ),
]
Data = Annotated[
    Path | None, typer.Option(help="CSV or netCDF file, in place of data of the problem or file.")
]
Time = Annotated[
    str | None, typer.Option("--time", help="Column of times. Default: the first but the run's.")
]
Run = Annotated[str | None, typer.Option(help="Column of names of runs. Default: run, if there is one.")]
Points = Annotated[int, typer.Option(min=4, help="Observations that a problem makes.")]
Noise = Annotated[float, typer.Option(min=0, help="Of these, in units of the problem's scale.")]
HoldOut = Annotated[float, typer.Option(min=0, max=0.9, help="Share of runs that are not fitted to.")]
