"""How far a climb of the rungs has come, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stiffml.training.lm.levenberg_marquardt import State
from stiffml.training.lm.residuals import Path


@dataclass(frozen=True)
class Goal:
    """When a climb ends.

    Attributes
    ----------
    error : float
        Mean absolute residual of whole runs at which it ends; 0: no such goal.
    judged : float or None
        What the judge may say at most of an attempt that reached ``error``.
    attempts : int
        At most.
    seconds : float
        At most; inf for no limit.
    """

    error: float = 0.0
    judged: float | None = None
    attempts: int = 1
    seconds: float = float("inf")


@dataclass
class Row:
    """One iteration, for the history."""

    attempt: int
    rung: int
    cost: float
    error: float
    damping: float
    rejected: int
    failed: int
    seconds: float


@dataclass
class Attempt:
    """An attempt that has ended.

    Attributes
    ----------
    number : int
        From 0.
    error, judged : float
        Its mean absolute residual, and the judge's error.
    outcome : str
        Why it ended.
    given_up : bool
        Whether it could have gone on, but too slowly.
    """

    number: int
    error: float
    judged: float
    outcome: str
    given_up: bool = False


@dataclass
class Failure:
    """A trial step, or the beginning of a rung, that could not be solved."""

    attempt: int
    rung: str
    iteration: int
    run: str
    t: float
    cause: str

    def __str__(self) -> str:
        when = "" if np.isnan(self.t) else f", t = {self.t:.6g}"
        where = f"attempt {self.attempt}, {self.rung}, iteration {self.iteration}"
        return f"{where}{', run ' + self.run if self.run else ''}{when}: {self.cause}"


@dataclass
class Progress:
    """All that a climb depends on, so that one that was killed ends where it would have ended.

    Attributes
    ----------
    theta : ndarray
        (size,) where the next rung begins.
    paths : list of (times, states), or None
        The states of the rung before.
    level, back : int
        The present rung; how often this attempt went back.
    came_from : int
        The rung that ``paths`` belong to.
    held : dict or None
        All vectors of the rung before, if it had them as unknowns.
    state : State or None
        Of the present rung; None where it has not begun.
    taken_up : bool
        Whether the present attempt is one that was given up, and goes on now that no other was better.
    """

    theta: np.ndarray
    attempt: int = 0
    level: int = 0
    back: int = 0
    came_from: int = -1
    paths: list[Path] | None = None
    held: dict[str, Any] | None = None
    state: State | None = None
    taken_up: bool = False
    best_theta: np.ndarray | None = None
    best_point: dict[str, Any] | None = None
    best: Attempt | None = None
    rows: list[Row] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    outcome: str = ""
