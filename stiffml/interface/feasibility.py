"""Checks that double precision resolves the span and the steps, and that the steps fit into memory."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stiffml.memory import free_bytes
from stiffml.settings import Discrete, Disk
from stiffml.steps import Adaptive, Fixed, Grid, Recorded, Steps

SPANS = (1e-40, 1e40)
"""Least and largest span. Methods form products of up to six step sizes, far shorter than the span."""

SMALL = 2**26
"""Bytes that are not worth asking the system about."""

RESOLVED = 64
"""How many numbers of double precision a span must hold."""


def require_sane_span(t: Tensor) -> None:
    """Raise ValueError for times (n,) whose span double precision does not resolve."""
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
    if 4 * np.spacing(largest) < span < RESOLVED * np.spacing(largest):  # if less, single times are equal
        raise ValueError(
            f"t: near {largest:.6g} double precision has only {span / np.spacing(largest):.0f} times in a "
            f"span of {span:.3g}, too few to step on; count time from t[0], and add that inside func"
        )


def require_schedule(steps: Steps, outputs: np.ndarray, size: int, adjoint: Discrete) -> None:
    """Raise ValueError if steps known beforehand do not fit into memory, or are too short to change the time.

    ``outputs``: the increasing times that steps end on. ``size``: the length of the flat state. Adaptive
    steps pass.
    """
    if isinstance(steps, Adaptive) or len(outputs) < 2:
        return
    counts = steps.counts(outputs)
    total, states = float(counts.sum()), adjoint.checkpoints
    # A step keeps at least its time, its size, its end as a fraction, and with some settings its state.
    kept = 0.0 if isinstance(states, Disk) else total if isinstance(states, str) else min(total, states)
    needed = 8 * (3 * total + kept * size)
    if needed > SMALL and needed > (there := free_bytes()):
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
    """Raise ValueError if recorded steps are too short at the outputs they are now used for."""
    fractions = steps.fractions(outputs)
    counts = np.array([len(part) for part in fractions])
    firsts = np.cumsum(counts) - counts
    begin, length = (np.repeat(part, counts) for part in (outputs[:-1], np.diff(outputs)))
    ends = begin + np.concatenate(fractions) * length
    before = np.concatenate([outputs[:1], ends[:-1]])
    before[firsts] = outputs[:-1]
    still = ends <= before
    if still.any():
        place = int(np.argmax(still))
        interval = int(np.searchsorted(firsts, place, side="right")) - 1
        at = place - int(firsts[interval])
        raise ValueError(
            f"steps: Recorded, interval {interval}, entry {at}: the step that ends at "
            f"{fractions[interval][at]:.17g} of the interval is too short for time to move near "
            f"{abs(begin[place]):.6g}"
        )


def _shown(steps: Steps) -> str:
    if isinstance(steps, Fixed):
        return f"Fixed({steps.h:g})"
    return f"Grid({steps.substeps})" if isinstance(steps, Grid) else "Recorded"
