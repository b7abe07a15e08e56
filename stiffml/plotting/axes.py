"""Which axes suit a solution: logarithmic where decades matter, linear elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import SymmetricalLogLocator

EARLY = 1e-2
"""Time is drawn by decades if most of what happens does so in this share of the span."""

POSITIONS = 500
"""Along an axis, at which values count alike."""

HIDDEN = 1e-3
"""Values below this share of the largest cannot be read on a linear axis."""

DECADES = 1e4
"""The ratio of the largest value to that below which digits do not count, from which decades matter."""


TICKS = 7
"""Of an axis that is logarithmic in both directions."""


@dataclass(frozen=True)
class Scale:
    """The scale of an axis of values.

    Attributes
    ----------
    name : str
        ``"linear"``, ``"log"``, or ``"symlog"``: by decades away from zero, in both directions.
    smallest : float
        The lower end of ``"log"``; the end of the linear part of ``"symlog"``.
    """

    name: str = "linear"
    smallest: float = 0.0

    def apply(self, panel: Any, largest: float) -> None:
        """Give a panel this axis; ``largest`` is the largest magnitude drawn."""
        if self.name == "log":
            panel.set_yscale("log")
            panel.set_ylim(self.smallest / 2, 3 * largest)
        if self.name == "symlog":
            # Zero has room for its number between those of the smallest powers of ten.
            decades = max(4.0, float(np.log10(largest / self.smallest)))
            panel.set_yscale("symlog", linthresh=self.smallest, linscale=decades / 4)
            locator = SymmetricalLogLocator(base=10, linthresh=self.smallest)
            locator.set_params(numticks=TICKS)
            panel.yaxis.set_major_locator(locator)


def spans_decades(time: np.ndarray) -> bool:
    """Whether the times after the first are positive and span more than three decades."""
    later = time[1:]
    return len(later) > 2 and bool((later > 0).all()) and later.max() / later.min() > 1e3


def logarithmic_from(time: np.ndarray, values: np.ndarray) -> float | None:
    """The time at which a logarithmic axis should begin, for values (n, components); None for a linear axis.

    It should be logarithmic if most components have more than half of their total variation in the first
    hundredth of the span. It begins where the first of them has a thousandth of it.
    """
    if len(time) < 4 or time[0] != 0 or not (time[1:] > 0).all():
        return None
    low, high = values.min(axis=0), values.max(axis=0)
    moving = high - low > 1e-9 * np.maximum(np.abs(low), np.abs(high))
    if not moving.any():
        return None
    change = np.cumsum(np.abs(np.diff(values[:, moving], axis=0)), axis=0)
    change = np.vstack([np.zeros(change.shape[1]), change / change[-1]])
    early = [float(np.interp(EARLY * time[-1], time, one)) for one in change.T]
    if np.median(early) <= 0.5:
        return None
    begun = (change >= 1e-3).argmax(axis=0).min()
    return float(np.clip(time[begun], time[1], 1e-3 * time[-1]))


def positions(start: float, end: float, logarithmic: bool, count: int = POSITIONS) -> np.ndarray:
    """Times that lie evenly on an axis."""
    return np.geomspace(start, end, count) if logarithmic else np.linspace(start, end, count)


def value_scale(values: np.ndarray, floor: float | None = None) -> Scale:
    """The axis for values at even positions along the axis of time.

    Parameters
    ----------
    values : ndarray
        (positions,)
    floor : float, optional
        The magnitude below which digits do not count.
    """
    size = np.abs(values[np.isfinite(values)])
    largest = size.max(initial=0.0)
    if not largest:
        return Scale()
    typical = float(np.quantile(size, 0.75))
    spiky = 0 < typical < HIDDEN * largest
    deep = floor is not None and largest > DECADES * floor and size.min() < HIDDEN * largest
    if not spiky and not deep:
        return Scale()
    least = typical if floor is None else min(floor, typical) if spiky else floor
    if values.min() < -least:
        return Scale("symlog", typical if spiky else least)
    positive = size[values > 0]
    return Scale("log", max(float(positive.min()), least))


def number_every_column(panels: Sequence[Any], columns: int, label: str) -> None:
    """Numbers and a label on the axis of time below the last panel of each column."""
    for index, panel in enumerate(panels):
        last = index + columns >= len(panels)
        panel.tick_params(labelbottom=last)
        if last:
            panel.set_xlabel(label)
