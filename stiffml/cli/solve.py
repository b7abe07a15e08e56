"""``stiffml solve``: solve a problem and report on the solution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from rich.table import Table

from stiffml.cli.screen import Name, Settings, Size, console, explained, load, results_folder


def solve(
    name: Name,
    method: Annotated[str, typer.Option(help="Time stepping method; `stiffml methods` lists them.")] = "bdf",
    rtol: Annotated[float, typer.Option(help="Relative tolerance of a step.")] = 1e-6,
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
    from problems.datasets import save_dataset, solution_dataset
    from stiffml.files import save_picture

    with explained():
        problem = load(name, settings, size)
        with results_folder(problem, out) as folder:
            with console.status(f"solving {problem.name} with {method}"), torch.no_grad():
                solution = problem.solve(method=method, rtol=rtol, split=split)
            assert isinstance(solution.y, torch.Tensor)
            report = problem.check(solution)
            costs = {key: value for key, value in vars(solution.stats).items() if key != "adjoint"}
            data = solution_dataset(problem, solution.t.numpy(), solution.y.numpy())
            data.attrs.update(method=method, rtol=rtol, **costs)
            save_dataset(data, folder / "solution.nc")
            save_picture(folder / "solution.png", problem.plot(solution))

    stats = solution.stats
    table = Table("solve", f"{problem.name}, {method}{' split' if split else ''}, rtol {rtol:g}")
    for what, much in report.rows():
        table.add_row(escape(what), escape(much))
    table.add_row("steps (cut and repeated)", f"{stats.accepted} ({stats.rejected})")
    table.add_row("evaluations of f, Jacobians", f"{stats.rhs_evals}, {stats.jacobians}")
    table.add_row("Newton iterations", str(stats.newton_iterations))
    table.add_row("wall time", f"{stats.wall_s:.2f} s")
    table.add_row("results", str(folder))
    console.print(table)
