"""The arguments that look on while a solve takes its steps: ``callback``, ``max_seconds``, ``progress``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from stiffml.checks import described, flag, number
from stiffml.interface.arguments import Arguments
from stiffml.run.watching import Show, Watch
from stiffml.system.space import field_of

LINES = 10.0
"""Seconds between two lines of progress where there is no terminal."""

SHOWN = 0.1
"""Seconds between two changes of the bar."""


@contextmanager
def watching(arguments: Arguments) -> Iterator[Watch | None]:
    """What looks at the steps of a solve with these arguments while this is open; None if nothing does.

    Raises
    ------
    TypeError, ValueError
        For anything wrong.
    """
    callback, limit = arguments.callback, arguments.max_seconds
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable as callback(t, y, h), not {described(callback)}")
    if limit is not None:
        limit = number("max_seconds", limit, above=0)
    if not flag("progress", arguments.progress) or getattr(field_of(arguments.func), "rank", 0) != 0:
        yield None if callback is None and limit is None else Watch(callback, limit)
        return
    with _shown(arguments.t.detach().double().cpu().numpy()) as show:
        yield Watch(callback, limit, show)


@contextmanager
def _shown(t: np.ndarray) -> Iterator[Show]:
    """A bar on a terminal or in a notebook, a line now and then elsewhere, both on the standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(t)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task, shown = progress.add_task("", total=1.0), 0.0

        def show(at: float, h: float, steps: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown > SHOWN:
                shown = now
                progress.update(task, completed=_fraction(t, at), description=_words(at, h, steps))

        yield show


def _lines(t: np.ndarray) -> Show:
    shown = time.monotonic()

    def show(at: float, h: float, steps: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > LINES:
            shown = now
            print(f"stiffml: {_fraction(t, at):.1%}, {_words(at, h, steps)}", file=sys.stderr, flush=True)

    return show


def _words(at: float, h: float, steps: int) -> str:
    return f"t = {at:.6g}, step = {h:.3g}, {steps} steps"


def _fraction(t: np.ndarray, at: float) -> float:
    """How far a solve has come: each interval between outputs counts the same, whatever its length."""
    if len(t) < 2:
        return 1.0
    direction = 1 if t[-1] > t[0] else -1
    return float(np.interp(direction * at, direction * t, np.linspace(0, 1, len(t))))
