"""Checks of the output times, and which of them steps end on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import times as checked_times


def first_of_each(t: Tensor) -> tuple[Tensor, Tensor] | None:
    """Of times (n,) some of which repeat the one before: each once, and (n,) int which of these each is.

    None if no time is repeated.
    """
    again = torch.zeros(len(t), dtype=torch.bool, device=t.device)
    again[1:] = t.detach()[1:] == t.detach()[:-1]
    return (t[~again], torch.cumsum(~again, dim=0) - 1) if again.any() else None


def increasing(t: Tensor) -> tuple[Tensor, np.ndarray, int]:
    """Output times (n,) that increase or decrease: the tensor, the times in solver time, the direction ±1.

    Raises
    ------
    TypeError, ValueError
        For any others.
    """
    t = checked_times("t", t)
    values = t.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"t is not finite at position {int(np.argmin(np.isfinite(values)))}")
    direction = -1 if len(values) > 1 and values[1] < values[0] else 1
    outputs = direction * values
    rising = np.diff(outputs) > 0
    if not rising.all():
        at = int(np.argmin(rising))
        raise ValueError(
            "t must be strictly increasing or strictly decreasing, apart from times that repeat, "
            f"but t[{at}] = {values[at]:.17g} and t[{at + 1}] = {values[at + 1]:.17g}"
        )
    same = np.diff(outputs) <= 4 * np.finfo(float).eps * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
    if same.any():
        at = int(np.argmax(same))
        raise ValueError(
            f"t[{at}] = {values[at]:.17g} and t[{at + 1}] = {values[at + 1]:.17g} differ by rounding only, "
            "and no step is that short: leave one of them out"
        )
    return t, outputs, direction


def merged_ends(
    t: Tensor, on_steps: np.ndarray, passed: Tensor, on_passed: np.ndarray, direction: int
) -> tuple[Tensor, np.ndarray]:
    """The times that steps end on, in their order, and (n_ends,) bool which of them are output times.

    ``on_steps`` (n,) bool says on which output times steps end, ``on_passed`` (k,) int on which of the times
    ``passed``.
    """
    ends = t[torch.from_numpy(on_steps).to(t.device)]
    if not len(on_passed):
        return ends, np.ones(len(ends), dtype=bool)
    merged = torch.cat([ends.double(), passed[torch.from_numpy(on_passed).to(t.device)]])
    order = torch.argsort(direction * merged.detach())
    return merged[order], (order < len(ends)).cpu().numpy()
