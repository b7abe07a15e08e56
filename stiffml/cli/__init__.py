"""The command line; each command is a module."""

from __future__ import annotations

import atexit
import gc
from typing import Annotated

import typer

from stiffml.cli import compare, diagnose, experiment, fit, methods, problems, solve, workprecision

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Scientific machine learning on stiff systems."
)
app.command("problems")(problems.problems)
app.command("methods")(methods.methods)
app.command("solve")(solve.solve)
app.command("diagnose")(diagnose.diagnose)
app.command("workprecision")(workprecision.workprecision)
app.command("fit")(fit.fit)
app.command("compare")(compare.compare)
app.command("experiment")(experiment.experiment)


def _version(wanted: bool) -> None:
    if wanted:
        from stiffml import __version__

        typer.echo(f"stiffml {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[  # its callback does all
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version, and end.")
    ] = False,
) -> None:
    """Scientific machine learning on stiff systems."""
    atexit.register(gc.freeze)  # the collections of an ending Python would walk through torch for a second
