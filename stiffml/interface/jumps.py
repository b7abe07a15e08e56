"""Jumps of the state at given times: doses, resets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stiffml.checks import described, several_times
from stiffml.system.function.batching import Func
from stiffml.system.split import Split
from stiffml.system.state import State

JumpFunc = Callable[[Tensor, State], State]
"""(t, y) -> the state after a jump at t (), in the form of y0."""

Jumps = Sequence[tuple[float | Tensor, JumpFunc]]
"""(time, function), in any order."""


@dataclass(frozen=True)
class Jump:
    """One jump.

    Attributes
    ----------
    number : int
        Its position in the argument.
    time : Tensor
        (), in double precision, differentiable.
    function : callable
    """

    number: int
    time: Tensor
    function: JumpFunc

    def applied(self, y: State) -> State:
        """The state after the jump from ``y``, differentiable.

        Raises
        ------
        TypeError, ValueError
            If the function does not return a finite state in the form of y.
        """
        parts = y if isinstance(y, tuple) else (y,)
        t = self.time.to(parts[0].device, parts[0].dtype)
        # Copies: the function may write to them.
        copies = tuple(part.clone() for part in parts)
        found: Any = self.function(t, copies if isinstance(y, tuple) else copies[0])
        where = f"jumps[{self.number}] at t = {float(self.time.detach()):.10g}"
        states = found if isinstance(y, tuple) and isinstance(found, tuple) else (found,)
        if not all(isinstance(state, Tensor) for state in states) or len(states) != len(parts):
            wanted = f"a tuple of {len(parts)} tensors" if isinstance(y, tuple) else "a tensor"
            raise TypeError(
                f"{where}: its function must return the new state, {wanted}, not {described(found)}"
            )
        for state, part in zip(states, parts, strict=True):
            if state.shape != part.shape or not state.is_floating_point():
                raise ValueError(
                    f"{where}: its function must return real numbers in the shape of y, {tuple(part.shape)}, "
                    f"not {described(state)}"
                )
            if not torch.isfinite(state.detach()).all():
                at = (~torch.isfinite(state.detach())).nonzero()[0].tolist()
                raise ValueError(
                    f"{where}: its function returned {float(state[tuple(at)])} at component {at}"
                )
        made = tuple(state.to(part) for state, part in zip(states, parts, strict=True))
        return made if isinstance(y, tuple) else made[0]


def jumps_of(given: object) -> list[Jump]:
    """The jumps in an argument of this name, in the order given.

    Raises
    ------
    TypeError, ValueError
        For anything but a sequence of (time, function).
    """
    wanted = "jumps must be a sequence of (time, function), with function(t, y) -> y, not "
    if given is None:
        return []
    if isinstance(given, str | bytes | Mapping | Tensor) or not isinstance(given, Iterable):
        raise TypeError(wanted + described(given))
    found = []
    for number, pair in enumerate(given):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not callable(pair[1]):
            raise TypeError(f"{wanted}{described(pair)} at position {number}")
        time = several_times(f"jumps: the time at position {number}", pair[0])
        if len(time) != 1:
            raise ValueError(f"jumps: the time at position {number} must be one number, not {len(time)}")
        found.append(Jump(number, time[0].double(), pair[1]))
    return found


def moved(y: State, begin: Tensor, end: Tensor, func: Func, has_mass: bool) -> State:
    """The state ``y`` at ``begin`` (), carried to ``end``, which is the same time with another gradient.

    Moving ``end`` alone would carry it along func.

    Raises
    ------
    ValueError
        With a mass matrix.
    """
    end = end.to(begin.device)
    if end is begin or not torch.is_grad_enabled() or not (begin.requires_grad or end.requires_grad):
        return y
    if begin.requires_grad and end.requires_grad and begin.data_ptr() == end.data_ptr():
        return y
    if has_mass:
        raise ValueError(
            f"jumps: with a mass matrix, one at t = {float(end.detach()):.10g} must not be at the time of "
            "an output, a breakpoint or another jump if either time requires a gradient; move or detach() it"
        )
    parts = y if isinstance(y, tuple) else (y,)
    with torch.no_grad():
        t = begin.to(parts[0].device, parts[0].dtype)
        halves = [func.implicit, func.explicit] if isinstance(func, Split) else [func]
        slopes = [half(t, y) for half in halves]
    by = (end - begin) - (end - begin).detach()
    found = list(parts)
    for slope in slopes:
        each = slope if isinstance(slope, tuple) else (slope,)
        found = [part + s * by.to(part) for part, s in zip(found, each, strict=True)]
    return tuple(found) if isinstance(y, tuple) else found[0]
