"""``stiffml experiment``: published experiments, run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stiffml.cli.screen import Work, console, explained

if TYPE_CHECKING:
    from stiffml.experiments import Finding


def experiment(
    name: Annotated[str, typer.Argument(help="The name of an experiment, or `list`.")],
    form: Annotated[
        str, typer.Option(help="quick: seconds; medium: a minute; full: as published, minutes to hours.")
    ] = "medium",
    full: Annotated[bool, typer.Option("--full", help="The same as --form full.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for data, findings, pictures. Default runs/experiment-NAME.")
    ] = None,
) -> None:
    """Run a published experiment again: what was published, and what comes out."""
    from stiffml import experiments
    from stiffml.files import require_writable, take_back

    with explained():
        if name == "list":
            _show_list()
            return
        chosen = "full" if full else form
        if chosen not in experiments.FORMS:
            raise ValueError(f"--form {form}: choose one of {', '.join(experiments.FORMS)}")
        found = experiments.load(name)
        folder = Path("runs", f"experiment-{name}") if out is None else out
        made = require_writable(folder, "--out")
        try:
            with Work(name) as work:
                outcome = experiments.run(name, chosen, folder, work.update)
        except BaseException:
            take_back(made)
            raise
    console.print(f"[bold]{found.title}[/] ({chosen})", highlight=False)
    console.print(found.question, markup=False, highlight=False)
    console.print(_table(outcome.findings))
    console.print(f"results: {folder}", highlight=False)


def _show_list() -> None:
    from rich.table import Table

    from stiffml import experiments

    table = Table("name", "what it shows", box=None, pad_edge=False)
    for name in experiments.names():
        table.add_row(name, experiments.load(name).title)
    console.print(table)


def _table(findings: tuple[Finding, ...]) -> object:
    from rich.table import Table

    table = Table("", "here", "wanted", "published", box=None, pad_edge=False)
    for finding in findings:
        mark = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[finding.met]
        units = "" if finding.units == "1" else f" {finding.units}"
        wanted = f"{finding.bound} {mark}".strip()
        table.add_row(finding.what, f"{finding.value:.3g}{units}", wanted, finding.published)
    return table
