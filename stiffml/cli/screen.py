"""What the commands share: the console, errors as one line, and how a problem is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from problems import Problem

console = Console()

Name = Annotated[
    str,
    typer.Argument(help="A name that `stiffml problems` lists, or a Python file that defines a problem."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another parameter value; repeatable.")
]
Size = Annotated[int | None, typer.Option(min=2, help="Grid points along each axis, for problems on a grid.")]


@contextmanager
def explained() -> Iterator[None]:
    """End the command with the message of an expected error, and exit status 1."""
    from stiffml.errors import SolveError
    from stiffml.training import TrainingError

    try:
        yield
    except (ValueError, OSError, ImportError, SolveError, TrainingError) as error:
        console.print(f"[red]{type(error).__name__}[/]: ", end="")
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from None


def load(name: str, settings: Sequence[str] | None, size: int | None) -> Problem:
    """Load a problem with the parameter values and the size that were given."""
    import problems

    values: dict[str, Any] = {}
    for setting in settings or ():
        parameter, _, value = setting.partition("=")
        try:
            values[parameter] = float(value)
            if not math.isfinite(values[parameter]):
                raise ValueError
        except ValueError:
            raise ValueError(f"--set {setting}: write NAME=VALUE with a number, such as eps=1e-4") from None
    return problems.load(name, size=size, **values)


@contextmanager
def results_folder(problem: Problem, out: Path | None) -> Iterator[Path]:
    """The folder asked for, or runs/NAME. A missing one is made, and removed again if the command fails.

    Raises
    ------
    OSError
        If nothing can be written there, before the work is done.
    """
    from stiffml.files import require_writable, take_back

    folder = Path("runs", problem.name) if out is None else out
    made = require_writable(folder, "--out")
    try:
        yield folder
    except BaseException:
        take_back(made)
        raise
