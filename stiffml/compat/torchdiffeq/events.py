"""Solves that go on until an event function is zero."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from stiffml.compat.torchdiffeq.adaptive import adaptive_solution
from stiffml.compat.torchdiffeq.call import Call
from stiffml.compat.torchdiffeq.grid import step_size
from stiffml.compat.torchdiffeq.names import SCIPY, is_fixed, method_of
from stiffml.interface.solution import Solution
from stiffml.interface.solve import solve
from stiffml.steps import Grid

DOUBLINGS = 40
"""How often the span that is searched for the event is doubled: up to 1e12 times the first."""


def until_event(call: Call, event_fn: Callable[[Tensor, Any], Tensor]) -> tuple[Tensor, Any]:
    """The time at which an element of the event function first changes its sign, and y0 with the state there.

    Both are differentiable, the time through the event function as well.
    """
    if len(call.t) != 2:
        raise ValueError(
            f"t must have two times with event_fn, where to begin and which way, not {len(call.t)}"
        )
    if call.method == SCIPY:
        raise ValueError("event_fn: scipy_solver has no events; use dopri5, or bdf for a stiff problem")
    with torch.no_grad():
        signs = torch.sign(event_fn(call.time(call.t[0]), call.y0))
    if (signs == 0).any():
        return call.t[0], _both(call.y0, call.y0)

    def event(t: Tensor, y: Any) -> Tensor:
        return (event_fn(t, y) * signs).min()

    y, begin = call.y0, call.t[0]
    span = float((call.t[1] - call.t[0]).detach())
    for _ in range(DOUBLINGS):
        solution = _section(call, y, begin, span, event)
        if solution.event is not None:
            return solution.event.t, _both(call.y0, solution.event.y)
        y, begin = tree_map(lambda part: part[-1], solution.y), solution.t[-1].detach()
        span *= 2
    raise RuntimeError(f"event_fn has not changed its sign up to t = {float(begin):.6g}")


def _section(
    call: Call, y: Any, begin: Tensor, span: float, event: Callable[[Tensor, Any], Tensor]
) -> Solution:
    size = step_size(call)
    if not is_fixed(call.method):
        t = torch.stack([begin, begin.detach() + span])
        return adaptive_solution(dataclasses.replace(call, y0=y, t=t), event=event)
    if size is None:
        raise ValueError("options: step_size must be given with event_fn, for a method without error control")
    steps = max(1, math.ceil(abs(span) / size * (1 - 1e-12)))
    t = torch.stack([begin, begin.detach() + math.copysign(steps * size, span)])
    method = method_of(call.method)
    return solve(call.func, y, t, method=method, steps=Grid(steps), event=event, **call.kept)


def _both(first: Any, last: Any) -> Any:
    return tree_map(lambda a, b: torch.stack([a, b]), first, last)
