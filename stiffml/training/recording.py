"""Drives a fit to its end, keeps it in its folder, and shows how it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stiffml.extras import to_install
from stiffml.training.folder import RunFolder

if TYPE_CHECKING:
    import xarray

REST = 5.0
"""Seconds between two writings of the history, at least; the state has it too."""


class Job(Protocol):
    """A fit, one iteration at a time."""

    progress: Any

    @property
    def finished(self) -> bool: ...

    def advance(self) -> None: ...


@dataclass(frozen=True)
class Recording:
    """How a fit is kept and shown.

    Attributes
    ----------
    folder : RunFolder or None
    save_every : int
        Iterations between states.
    shows, board : bool
        Whether a bar is shown, and values are written for TensorBoard.
    report : callable or None
        Called with the progress after each iteration.
    """

    folder: RunFolder | None
    save_every: int
    shows: bool
    board: bool
    report: Callable[[Any], None] | None

    def drive(
        self,
        job: Job,
        state: Callable[[], Any],
        load: Callable[[Any], None],
        history: Callable[[], xarray.Dataset],
        total: int | None,
    ) -> None:
        """Go on to the end, from the state in the folder if it holds one.

        ``state`` and ``load`` give and take it; ``total``: iterations, if they are known.
        """
        folder = self.folder
        held = folder.load() if folder is not None and folder.resumes else None
        if held is not None:
            load(held)
        written = time.perf_counter()
        with ExitStack() as stack:
            listeners = self._listeners(stack, job, total)
            try:
                while not job.finished:
                    before = len(job.progress.rows)
                    job.advance()
                    done = len(job.progress.rows)
                    if done == before:  # an attempt that could not begin, say
                        continue
                    for listener in listeners:
                        listener()
                    if folder is not None and done % self.save_every == 0:
                        folder.save(state())
                        if time.perf_counter() - written > REST:
                            folder.write(history(), job.progress.failures)
                            written = time.perf_counter()
                    if self.report is not None:
                        self.report(job.progress)
            finally:
                if folder is not None:
                    folder.write(history(), job.progress.failures)
        if folder is not None:
            folder.save(state())

    def _listeners(self, stack: ExitStack, job: Job, total: int | None) -> list[Callable[[], None]]:
        found = []
        if self.board:
            assert self.folder is not None, "fit asks for one"
            found.append(stack.enter_context(_board(self.folder, job)))
        if self.shows:
            found.append(stack.enter_context(_bar(job, total)))
        return found


def summary_writer() -> Any:
    """The class that writes for TensorBoard.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"tensorboard=True needs the package tensorboard ({error}): {to_install('tensorboard')}"
        ) from error
    return SummaryWriter


@contextmanager
def _board(folder: RunFolder, job: Job) -> Iterator[Callable[[], None]]:
    """Writes all finite numbers of each row; steps that a killed fit had beyond its state are purged."""
    done = len(job.progress.rows)
    writer = summary_writer()(log_dir=str(folder.path / "tensorboard"), purge_step=done)

    def write() -> None:
        nonlocal done
        for row in job.progress.rows[done:]:
            for name, value in asdict(row).items():
                if np.isfinite(value):
                    writer.add_scalar(f"fit/{name}", value, done)
            done += 1

    try:
        yield write
    finally:
        writer.close()


@contextmanager
def _bar(job: Job, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar in a terminal or a notebook."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("fit", total=total, completed=len(job.progress.rows))

        def show() -> None:
            rows = job.progress.rows
            if rows:
                name = "loss" if hasattr(rows[-1], "loss") else "error"
                failed = len(job.progress.failures)
                text = f"rung {rows[-1].rung}  {name} {getattr(rows[-1], name):.3e}"
                text += f"  {failed} failures" if failed else ""
                progress.update(task, completed=len(rows), description=text)

        yield show
