"""On which times steps end."""

from __future__ import annotations

import numpy as np

RESOLVED = 256
"""Length of the shortest first step, in spacings of numbers at the initial time."""

CLOSE = 1e-9
"""Least distance of two times with a step between them, relative to their size or to the whole span.

Shorter steps amplify the rounding of states: multistep formulas and derivatives with respect to times divide
differences of states by the step size.
"""


def ends_of_steps(times: np.ndarray, interpolated: bool) -> np.ndarray:
    """(n,) bool: on which outputs steps end; the others are interpolated.

    Steps end on the first and on the last output. Unless ``interpolated``, they also end on every output that
    is not :data:`CLOSE` to the next one or to the first.
    """
    ends = np.zeros(len(times), dtype=bool)
    if not interpolated:
        apart = _apart(times[:-1], times[1:], abs(times[-1] - times[0]))
        ends[1:-1] = np.logical_or.accumulate(apart)[:-1] & apart[1:]
    ends[[0, -1]] = True
    return ends


def landings(times: np.ndarray, interpolated: bool, through: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where steps end: (n,) bool, on which of the increasing outputs, (k,) int, on which times ``through``.

    The times ``through`` may have any order. Ignored are those outside of the outputs, and those
    :data:`CLOSE` to an output that a step ends on. If one equals an output, a step ends there, also if
    ``interpolated``.
    """
    if not len(through):
        return ends_of_steps(times, interpolated), np.empty(0, dtype=int)
    wanted = np.isin(times, through) if interpolated else np.ones(len(times), dtype=bool)
    wanted[[0, -1]] = True
    outputs = times[wanted]
    values, numbers = np.unique(through, return_index=True)
    inside = (values > times[0]) & (values < times[-1])
    values, numbers = values[inside], numbers[inside]
    after = np.searchsorted(outputs, values)
    span = times[-1] - times[0]
    free = _apart(outputs[after - 1], values, span) & _apart(values, outputs[after], span)
    values, numbers = values[free], numbers[free]
    merged = np.concatenate([outputs, values])
    order = np.argsort(merged)
    ends = np.zeros(len(merged), dtype=bool)
    ends[order] = ends_of_steps(merged[order], False)
    on_steps = np.zeros(len(times), dtype=bool)
    on_steps[wanted] = ends[: len(outputs)]
    return on_steps, numbers[ends[len(outputs) :]]


def _apart(earlier: np.ndarray, later: np.ndarray, span: float) -> np.ndarray:
    """Whether times are not :data:`CLOSE`."""
    sizes = np.maximum(np.abs(later), np.abs(earlier))
    return np.abs(later - earlier) > CLOSE * np.minimum(sizes, span)
