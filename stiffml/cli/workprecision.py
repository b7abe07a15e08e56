"""``stiffml workprecision``: what digits cost, by method and tolerance."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from stiffml.checks import number
from stiffml.cli.screen import Name, Settings, Size, Work, console, explained, load, results_folder

if TYPE_CHECKING:
    import xarray


def workprecision(
    name: Name,
    methods: Annotated[
        str, typer.Option(help="Comma separated. A method ending in /split takes the two parts apart.")
    ] = "bdf,bdf3,rosw-ra34pw2,cn",
    rtols: Annotated[str, typer.Option(help="Comma separated tolerances.")] = "1e-3,1e-4,1e-5,1e-6,1e-7,1e-8",
    repeats: Annotated[int, typer.Option(min=1, help="Solves whose median time counts.")] = 3,
    longest: Annotated[
        float, typer.Option(min=0, help="Seconds after which a solve is stopped, and smaller tolerances.")
    ] = 60.0,
    settings: Settings = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for workprecision.nc and .png. Default runs/NAME.")
    ] = None,
) -> None:
    """Digits against time and against evaluations of f, for several methods and tolerances."""
    from problems.datasets import save_dataset
    from problems.workprecision import measure, plot
    from stiffml.files import save_picture

    with explained():
        chosen = [method.strip() for method in methods.split(",")]
        tolerances = [_tolerance(rtol) for rtol in rtols.split(",")]
        problem = load(name, settings, size)
        total = len(chosen) * len(tolerances)
        with results_folder(problem, out) as folder, Work(problem.name, total) as work:
            done = itertools.count(1)

            def report(method: str, rtol: float) -> None:
                work.update(next(done), note=f"{method}, rtol {rtol:g}")

            def save(data: xarray.Dataset) -> None:
                save_dataset(data.assign(failure=data["failure"].astype(str)), folder / "workprecision.nc")

            data = measure(problem, chosen, tolerances, repeats, report, save, longest)
            save_picture(folder / "workprecision.png", plot(data))

    right = [
        Column(text, justify="right") for text in ("rtol", "digits", "time [s]", "f evaluations", "steps")
    ]
    table = Table("method", *right, "")
    for method in data["method"].values:
        for rtol in data["rtol"].values:
            one = data.sel({"method": method, "rtol": rtol})
            failure = str(one["failure"].values)
            numbers = [] if failure else [f"{float(one['digits']):.1f}", f"{float(one['wall_s']):.3f}"]
            numbers += [] if failure else [f"{int(one['rhs_evals'])}", f"{int(one['steps'])}"]
            table.add_row(str(method), f"{rtol:g}", *(numbers or [""] * 4), escape(failure))
        table.add_section()
    console.print(table)
    console.print(f"reference: {data.attrs['reference']}", markup=False, highlight=False)
    console.print(f"results: {folder}", highlight=False)


def _tolerance(text: str) -> float:
    try:
        return number("rtol", float(text), above=0)
    except ValueError:
        raise ValueError(f"--rtols: {text.strip()!r} is no tolerance; write --rtols 1e-3,1e-6") from None
