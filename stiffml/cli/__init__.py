"""The command line; each command is a module."""

from __future__ import annotations

import typer

from stiffml.cli import compare, diagnose, fit, methods, problems, solve, workprecision

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


@app.callback()
def main() -> None:
    """Scientific machine learning on stiff systems."""
