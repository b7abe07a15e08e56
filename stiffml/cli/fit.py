"""``stiffml fit``: train a neural ODE on a stiff problem."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stiffml.cli.screen import console, explained

app = typer.Typer(no_args_is_help=True, help="Fit a neural ODE to a stiff problem.")


@app.callback()
def main() -> None:
    """Fit a neural ODE to a stiff problem."""


@app.command()
def robertson(
    method: Annotated[str, typer.Option(help="Time stepping method; stiffml.METHODS lists them.")] = "cn",
    optimizer: Annotated[
        str, typer.Option(help="lm: Levenberg-Marquardt, from any seed. adamw: results vary between seeds.")
    ] = "lm",
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights.")] = 0,
    iterations: Annotated[
        int, typer.Option(min=1, help="Of adamw, in all, resumed ones included; lm ends by itself.")
    ] = 800,
    out: Annotated[Path, typer.Option(help="Folder for weights, netCDF files and the figure.")] = Path(
        "runs/robertson"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
) -> None:
    """Fit a neural ODE to Robertson's problem: 40 observations, 155 weights."""
    from stiffml.fits.robertson import fit

    total = iterations if optimizer == "adamw" else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("iteration {task.completed}"),
        TextColumn("error {task.fields[loss]:.1e}  {task.fields[pace]:.3f} s/iteration "),
        *([TimeRemainingColumn()] if total else []),
    )
    with explained(), Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task("fitting", total=total, loss=float("nan"), pace=float("nan"))
        before = time.perf_counter()
        pace = float("nan")

        def report(iteration: int, loss: float) -> None:
            nonlocal before, pace
            now = time.perf_counter()
            pace = now - before if pace != pace else 0.95 * pace + 0.05 * (now - before)
            before = now
            progress.update(task, completed=iteration, loss=loss, pace=pace)

        result = fit(out, method, seed, iterations, resume, report, optimizer)

    stats = result.solution.stats
    anew = f", begun anew {result.attempts - 1} times" if result.attempts > 1 else ""
    table = Table(
        "fit", f"robertson, {method}, {optimizer}, seed {seed}, {result.iterations} iterations{anew}"
    )
    table.add_row("mean absolute error, scaled", f"{result.loss:.1e}")
    table.add_row("solved again, times never seen", f"{result.unseen:.1e}")
    table.add_row("steps (cut and repeated)", f"{stats.accepted} ({stats.rejected})")
    table.add_row("Newton iterations", str(stats.newton_iterations))
    worst = max(result.gradients.checks, key=lambda check: check.error)
    least = min(check.rate for check in result.gradients.checks)
    table.add_row("gradient check", f"Taylor rate {least:.2f} or more, error {worst.error:.0e} or less")
    table.add_row("results", str(out))
    console.print(table)
    if optimizer != "lm":
        console.print("Other seeds end elsewhere: some fit less well, some not at all.")
