"""AdamW beside another fit: in a process of its own, for the same time."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from stiffml.cli.asked import Asked
from stiffml.cli.screen import errors

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    from torch import Tensor, nn

FINER, COARSER = 1.05, 1.5
"""Factors between CPU times: of the weights that are kept, and of those that are solved again at the end."""

LEAST = 0.02
"""Seconds before which no weights are solved again but the first."""


class Curve(NamedTuple):
    """How an error has fallen: CPU seconds (n,), and mean errors solved again, held out if anything is."""

    seconds: np.ndarray
    error: np.ndarray


class Beside:
    """A process that makes the same set-up, and trains until it hears how long the other fit has taken.

        with Beside(asked, seed, changes) as other:
            ...  # the fit
            other.end_at(seconds)
            curve = other.curve()

    Parameters
    ----------
    asked : Asked
    seed : int
    changes : mapping
        Arguments of ``fit`` in place of those of the set-up.
    """

    def __init__(self, asked: Asked, seed: int, changes: Mapping[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")  # a copy of this one would share PETSc's state
        self._here, there = context.Pipe()
        self._process = context.Process(target=_train, args=(there, asked, seed, changes), daemon=True)
        with _not_interrupted():
            self._process.start()
        there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.join()
        self._here.close()

    def end_at(self, seconds: float) -> None:
        """Say for how long it is to train, in seconds of CPU time; it may have done so already."""
        with suppress(OSError):  # it has ended, as curve() will find
            self._here.send(seconds)

    def curve(self) -> Curve | None:
        """Wait until it has; None, with a line on stderr, if it could not."""
        try:
            found: Curve | str = self._here.recv()
        except (EOFError, OSError):
            found = "its process was ended"
        if isinstance(found, Curve):
            return found
        errors.print(f"AdamW could not be trained beside it: {found}", markup=False, highlight=False)
        return None


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """A process that begins within this is left alone by Ctrl-C: this one ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Spent(Exception):
    """The time is."""


@dataclass
class _Snapshots:
    """Weights at ever rarer CPU times, until the end is known and has come."""

    connection: Connection
    model: nn.Module
    began: float
    kept: list[tuple[float, list[Tensor]]] = field(default_factory=list)
    end: float = float("inf")

    def __call__(self, progress: object) -> None:
        now = time.process_time() - self.began
        if not self.kept or now >= self.kept[-1][0] * FINER:
            self.keep(now)
        if self.connection.poll():
            self.end = self.connection.recv()
        if now >= self.end:
            raise _Spent

    def keep(self, now: float) -> None:
        from stiffml.training.comparing.record import trainable

        self.kept.append((now, [one.detach().clone() for one in trainable(self.model)]))

    def in_time(self) -> list[tuple[float, list[Tensor]]]:
        """Those up to the end, each later than the one before by the coarser factor, and the last."""
        found: list[tuple[float, list[Tensor]]] = []
        within = [one for one in self.kept if one[0] <= self.end] or self.kept[:1]
        for one in within:
            if not found or one[0] >= max(LEAST, found[-1][0]) * COARSER or one is within[-1]:
                found.append(one)
        return found


def _train(connection: Connection, asked: Asked, seed: int, changes: Mapping[str, Any]) -> None:
    """In the other process."""
    warnings.simplefilter("ignore")  # which the first one shows
    try:
        connection.send(_trained(connection, asked, seed, changes))
    except (EOFError, BrokenPipeError):
        pass  # the first one has ended
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _trained(connection: Connection, asked: Asked, seed: int, changes: Mapping[str, Any]) -> Curve:
    import numpy as np
    import torch

    from stiffml import training
    from stiffml.cli.setups import set_up
    from stiffml.training.comparing.training import CANNOT_GO_ON, ENDLESS, Judge
    from stiffml.training.restarts import Restarts

    torch.set_num_threads(1)
    chosen = set_up(asked)
    arguments = {**chosen.of("adamw"), "iterations": ENDLESS, **changes}
    model = Restarts(chosen.model, seed, chosen.data).model
    snapshots = _Snapshots(connection, model, time.process_time())
    snapshots.keep(0.0)
    try:
        training.fit(model, chosen.data, optimizer="adamw", seed=seed, report=snapshots, **arguments)
    except (_Spent, *CANNOT_GO_ON):
        pass
    if snapshots.end == float("inf"):  # it could not go on
        snapshots.end = connection.recv()
    kept, judge = snapshots.in_time(), Judge(chosen.data, chosen.validate, arguments)
    found = [judge.error(model, weights) for _, weights in kept]
    return Curve(np.array([seconds for seconds, _ in kept]), np.array(found))
