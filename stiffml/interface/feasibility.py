"""What no solve could do: spans that double precision does not resolve, steps that no memory holds."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stiffml.memory import free_bytes
from stiffml.settings import Discrete, Disk
from stiffml.steps import Adaptive, Fixed, Grid, Recorded, Steps

SPANS = (1e-40, 1e40)
"""Methods form products of up to six step sizes, far shorter than the span, within double precision."""

RESOLVED = 64
"""How many numbers of double precision a span must have, for steps and their fractions to mean something."""


def require_sane_span(t: Tensor) -> None:
    """Raise ValueError for times (n,) between which steps of double precision mean nothing."""
    ends = t.detach()[[0, -1]].cpu().double().numpy()
    if len(t) < 2 or not np.isfinite(ends).all():
        return
    with np.errstate(over="ignore"):
        span = abs(ends[1] - ends[0])
    if span > 0 and not SPANS[0] <= span <= SPANS[1]:
        raise ValueError(
            f"t: the span from t[0] to t[-1] is {span:.3g} long, and powers of its steps leave the range "
            f"of double precision; choose a unit of time that makes it lie in [{SPANS[0]:g}, {SPANS[1]:g}]"
        )
    largest = np.abs(ends).max()
    if 4 * np.spacing(largest) < span < RESOLVED * np.spacing(largest):  # less is a matter of single times
        raise ValueError(
            f"t: near {largest:.6g} double precision has only {span / np.spacing(largest):.0f} times in a "
            f"span of {span:.3g}, too few to step on; count time from t[0], and add that inside func"
        )


def require_schedule(steps: Steps, outputs: np.ndarray, size: int, adjoint: Discrete) -> None:
    """Raise ValueError unless steps known beforehand fit into memory, and are long enough for time to move.

    ``outputs``: the increasing times that steps end on. ``size``: numbers in a state.
    """
    if isinstance(steps, Adaptive) or len(outputs) < 2:
        return
    counts = steps.counts(outputs)
    total, states = float(counts.sum()), adjoint.checkpoints
    # What a step leaves at least: its time and size, its end as a fraction, its state if that is kept.
    kept = 0.0 if isinstance(states, Disk) else total if isinstance(states, str) else min(total, states)
    needed, there = 8 * (3 * total + kept * size), free_bytes()
    if needed > there:
        fewer = " fewer states kept (adjoint=Discrete(checkpoints=20)),"
        raise ValueError(
            f"steps: {_shown(steps)} makes {total:.3g} steps, which take at least {needed / 2**30:.3g} GiB, "
            f"but {there / 2**30:.3g} GiB are free. Try: longer steps,"
            f"{fewer if kept * size > 3 * total else ''} or steps=Adaptive()"
        )
    if isinstance(steps, Recorded):
        _require_rising(steps, outputs)
        return
    sizes = np.diff(outputs) / counts
    shortest = 4 * np.spacing(np.maximum(np.abs(outputs[1:]), np.abs(outputs[:-1])))
    if (sizes < shortest).any():
        at = int(np.argmax(sizes < shortest))
        raise ValueError(
            f"steps: {_shown(steps)} makes steps of {sizes[at]:.3g} near t = {abs(outputs[at]):.6g}, where "
            f"times that differ by less than {shortest[at]:.3g} are equal but for rounding. Try: longer "
            "steps, or time counted from t[0]"
        )


def _require_rising(steps: Recorded, outputs: np.ndarray) -> None:
    """Times of recorded steps must differ, also at the outputs they are now used for."""
    for interval, ends in enumerate(steps.fractions(outputs)):
        begin, end = outputs[interval : interval + 2]
        still = np.diff(begin + ends * (end - begin), prepend=begin) <= 0
        if still.any():
            at = int(np.argmax(still))
            raise ValueError(
                f"steps: Recorded, interval {interval}, entry {at}: the step that ends at {ends[at]:.17g} of "
                f"the interval is too short for time to move near {abs(begin):.6g}"
            )


def _shown(steps: Steps) -> str:
    if isinstance(steps, Fixed):
        return f"Fixed({steps.h:g})"
    return f"Grid({steps.substeps})" if isinstance(steps, Grid) else "Recorded"
