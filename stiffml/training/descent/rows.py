"""What a descent tells of itself: a row for each iteration, and each solve that failed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.training.columns import columns_of, rows_of
from stiffml.training.descent.loss import Fault

if TYPE_CHECKING:
    import xarray

TEXTS = {
    "rung": ("number of the rung of the strategy, from 0", "1"),
    "loss": ("mean loss before the update", "1"),
    "checked": ("mean loss over the data to validate on, or since the last check; NaN between checks", "1"),
    "norm": ("norm of the gradient, before it is clipped", "1"),
    "rate": ("learning rate", "1"),
    "halved": ("times the update before was halved, or this one tried with half the learning rate", "1"),
    "left_out": ("intervals left out because they could not be solved", "1"),
    "seconds": ("wall time of the iteration", "s"),
}


@dataclass
class Row:
    """One iteration, for the history."""

    rung: int
    loss: float
    norm: float
    rate: float
    halved: int
    left_out: int
    seconds: float
    checked: float = float("nan")


@dataclass(frozen=True)
class Failure:
    """A solve, or an update, that failed."""

    rung: str
    iteration: int
    run: str
    t: float
    cause: str
    remedy: str

    @classmethod
    def of(cls, fault: Fault, rung: str, iteration: int) -> Failure:
        return cls(rung, iteration, fault.run, fault.t, fault.cause, fault.remedy)

    def __str__(self) -> str:
        when = "" if np.isnan(self.t) else f", t = {self.t:.6g}"
        run = f", run {self.run}" if self.run else ""
        return f"{self.rung}, iteration {self.iteration}{run}{when}: {self.cause}; {self.remedy}"


@dataclass
class DescentProgress:
    """How far a descent is.

    Attributes
    ----------
    level : int
        The present rung.
    done : int
        Iterations of the present rung that are finished.
    back : int
        How often it went back to the rung before.
    in_a_row : int
        Evaluations in a row without any loss.
    lost : dict of str to int
        By run, in how many iterations in a row one of its intervals was left out.
    best, slow : float and int
        The lowest check of the present rung; checks in a row that were not clearly lower.
    total, count : float and int
        Sum and number of losses since the last check.
    seconds : float
        Of all iterations.
    outcome : str
        Why it ended before its iterations were done; empty if it has not.
    """

    level: int = 0
    done: int = 0
    back: int = 0
    in_a_row: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    best: float = float("inf")
    slow: int = 0
    total: float = 0.0
    count: int = 0
    seconds: float = 0.0
    outcome: str = ""
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def state_dict(self, not_ended: str) -> dict[str, Any]:
        """In tensors, numbers and texts. ``not_ended``: an outcome after which it may go on."""
        held = {one.name: copy.copy(getattr(self, one.name)) for one in fields(self)}
        held |= {name: columns_of(kind, getattr(self, name)) for name, kind in LISTS.items()}
        return {**held, "outcome": "" if self.outcome == not_ended else self.outcome}

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> DescentProgress:
        """From a ``state_dict``."""
        return cls(**{**held, **{name: rows_of(kind, held[name]) for name, kind in LISTS.items()}})


LISTS = {"rows": Row, "failures": Failure}
"""Of a progress."""


def history_dataset(rows: Sequence[Row], rungs: Sequence[str], attributes: dict[str, Any]) -> xarray.Dataset:
    """A row for each iteration; ``rungs`` are the names of these."""
    import xarray

    variables = {
        name: (
            "iteration",
            np.array([getattr(row, name) for row in rows]),
            {"long_name": text, "units": units},
        )
        for name, (text, units) in TEXTS.items()
    }
    attributes = {**attributes, "rungs": ", ".join(rungs)}
    return xarray.Dataset(variables, {"iteration": np.arange(len(rows))}, attrs=attributes)
