"""``stiffml solve``: solve a problem and report on the solution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from rich.table import Table

from stiffml.cli.screen import Name, Settings, Size, console, errors, explained, load, results_folder
from stiffml.steps import Adaptive, Fixed, Grid


def solve(
    name: Name,
    method: Annotated[str, typer.Option(help="Time stepping method; `stiffml methods` lists them.")] = "bdf",
    rtol: Annotated[float, typer.Option(help="Relative tolerance of a step.")] = 1e-6,
    steps: Annotated[
        str,
        typer.Option(
            help="adaptive, fixed:H for steps of H, grid:N for N steps between output times, or max:H for "
            "adaptive ones of at most H."
        ),
    ] = "adaptive",
    points: Annotated[int | None, typer.Option(min=1, help="Output times after the start.")] = None,
    split: Annotated[
        bool, typer.Option("--split", help="Implicit and explicit part apart, for arkimex methods.")
    ] = False,
    settings: Settings = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for solution.nc and solution.png. Default runs/NAME.")
    ] = None,
) -> None:
    """Solve a problem; print digits, invariants and costs; write a netCDF file and a picture."""
    from problems.checking import attributes_of
    from problems.datasets import save_dataset
    from stiffml.files import save_picture

    with explained():
        chosen = _steps(steps)
        problem = load(name, settings, size)
        with results_folder(problem, out) as folder:
            with errors.status(f"solving {problem.name} with {method}"), torch.no_grad():
                solution = problem.solve(
                    None if points is None else problem.times(points),
                    method=method,
                    rtol=rtol if isinstance(chosen, Adaptive) else None,
                    split=split,
                    steps=chosen,
                )
            assert isinstance(solution.y, torch.Tensor)
            report = problem.check(solution)
            data = solution.to_xarray()
            data.attrs.update(attributes_of(report))
            save_dataset(data, folder / "solution.nc")
            save_picture(folder / "solution.png", problem.plot(solution))

    how = f"rtol {rtol:g}" if isinstance(chosen, Adaptive) else f"steps {steps}"
    table = Table("solve", f"{problem.name}, {method}{' split' if split else ''}, {how}")
    for what, much in report.rows():
        table.add_row(escape(what), escape(much))
    for what, much in solution.stats.rows():
        table.add_row(escape(what), escape(much))
    table.add_row("results", str(folder))
    console.print(table)


def _steps(text: str) -> Adaptive | Fixed | Grid:
    """What ``--steps`` says."""
    kind, _, value = text.partition(":")
    try:
        if kind == "grid":
            return Grid(int(value or "1"))
        if kind == "fixed":
            return Fixed(float(value))
        if kind == "max":
            return Adaptive(maximum=float(value))
        if text == "adaptive":
            return Adaptive()
    except (ValueError, TypeError) as error:
        raise ValueError(f"--steps {text}: {error}") from None
    raise ValueError(f"--steps {text}: write adaptive, fixed:H, grid:N or max:H, such as fixed:0.01")
