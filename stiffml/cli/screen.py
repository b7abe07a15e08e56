"""What the commands share: the console, errors as one line, and how a problem is named."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from typing import Self

    from problems import Problem

console = Console()
errors = Console(stderr=True)
"""For what is no result: mistakes and progress."""

USAGE, FAILED = 2, 1
"""Exit statuses: what was asked for is wrong; it could not be done."""

EVERY = 30.0
"""Seconds between lines of progress where there is no terminal."""

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
    """End the command with the message of an expected error on stderr.

    The exit status is 2 for wrong arguments, such as a file that is missing or a folder that is taken, and 1
    for solves, trainings, disks, packages that fail.
    """
    from stiffml.errors import SolveError
    from stiffml.training import TrainingError

    try:
        yield
    except (ValueError, OSError, ImportError, SolveError, TrainingError) as error:
        errors.print("[red]error[/]: ", end="")
        errors.print(str(error), markup=False, highlight=False, emoji=False, soft_wrap=True)
        wrong = isinstance(error, ValueError | FileNotFoundError | FileExistsError)
        raise typer.Exit(USAGE if wrong else FAILED) from None


class Work:
    """Progress with the time that is left: a bar on a terminal, elsewhere a line now and then, on stderr.

    Parameters
    ----------
    what : str
    total : int, optional
        Parts of the work, where their number is known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what, self._total = what, total
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None
        if errors.is_terminal:
            columns: list[ProgressColumn] = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            ]
            columns += [TextColumn("left"), TimeRemainingColumn()] if total else []
            self._bar = Progress(*columns, console=errors, refresh_per_second=4, transient=True)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """``done`` parts are done; ``note`` says what is looked at."""
        self._total = self._total if total is None else total
        text = f"{self._what}, {note}" if note else self._what
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total, description=text)
            return
        now = time.monotonic()
        if now - self._said < EVERY:
            return
        self._said = now
        spent = now - self._began
        of = f" of {self._total}" if self._total else ""
        left = f", {duration(spent / done * (self._total - done))} left" if self._total and done else ""
        errors.print(
            f"{text}: {done}{of} after {duration(spent)}{left}", markup=False, highlight=False, emoji=False
        )


def duration(seconds: float) -> str:
    """A time to read: 42 s, 3 min, 1.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
