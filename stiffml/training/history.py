"""The history of a fit as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.training.lm.progress import Row

if TYPE_CHECKING:
    import xarray

TEXTS = {
    "attempt": "number of the attempt, from 0",
    "rung": "number of the rung of the strategy, from 0",
    "cost": "half the sum of losses",
    "error": "mean absolute residual of the intervals of the rung",
    "damping": "lambda of the next step",
    "rejected": "trial steps that raised the cost",
    "failed": "trial steps that could not be solved",
    "seconds": "wall time of the iteration",
}


def history_dataset(rows: Sequence[Row], rungs: Sequence[str], attributes: dict[str, Any]) -> xarray.Dataset:
    """A row for each iteration, or beginning of a rung; ``rungs`` are the names of these."""
    import xarray

    variables = {}
    for name, text in TEXTS.items():
        units = "s" if name == "seconds" else "1"
        values = np.array([getattr(row, name) for row in rows])
        variables[name] = ("iteration", values, {"long_name": text, "units": units})
    attributes = {**attributes, "rungs": ", ".join(rungs)}
    return xarray.Dataset(variables, {"iteration": np.arange(len(rows))}, attrs=attributes)
