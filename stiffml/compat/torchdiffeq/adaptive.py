"""Adaptive steps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from stiffml.checks import several_times
from stiffml.compat.torchdiffeq.call import Call, Taken
from stiffml.compat.torchdiffeq.controller import Controller
from stiffml.compat.torchdiffeq.names import method_of
from stiffml.interface.solution import Solution
from stiffml.interface.solve import solve
from stiffml.steps import Adaptive, Fractions, Recorded

CONTROLLED = ("norm", "safety", "ifactor", "dfactor", "min_step")
"""Options that stiffml's own controllers do not have."""

MOST = 2**31 - 1


def adaptively(call: Call) -> Taken:
    """The solution at the times of a call, by adaptive steps."""
    solution = adaptive_solution(call)
    times = torch.from_numpy(_ends(call, solution))

    @torch.no_grad()
    def states() -> Any:
        return tree_map(Tensor.detach, solution.interpolate(times))

    return Taken(solution.y, times, states)


def adaptive_solution(call: Call, **more: Any) -> Solution:
    """The solution of a call; ``more`` are further arguments of :func:`stiffml.solve`."""
    options, method = call.options, method_of(call.method)
    jumps = several_times("options: jump_t", _or_none(options.get("jump_t"))).double()
    landings = several_times("options: step_t", _or_none(options.get("step_t"))).double()
    own = {
        "breakpoints": jumps if len(jumps) else None,
        "outputs": "interpolate",
        **call.kept,
        **more,
    }
    if call.callbacks or any(options.get(name) is not None for name in CONTROLLED):
        if not hasattr(method, "tableau") or method.implicit:
            raise ValueError(
                "options: norm, safety, ifactor, dfactor, min_step and callbacks are for explicit methods, "
                f"not for {method}"
            )
        ends = Controller(call, method.tableau, method.order).ends(
            _forward(call, torch.cat([jumps, landings]))
        )
        chosen = Recorded(_fractions(ends, _forward(call, jumps)))
        return solve(call.func, call.y0, call.t, method=method, steps=chosen, **own)
    limit, largest = options.get("max_num_steps", MOST), options.get("max_step")
    steps = Adaptive(
        initial=options.get("first_step"),
        maximum=None if largest is None or largest == float("inf") else largest,
        max_steps=min(int(limit), MOST),
        stop_if_stiff=False,
    )
    through = landings if len(landings) else None
    return solve(
        call.func, call.y0, call.t, method=method, steps=steps, through=through, **call.tolerances, **own
    )


def _or_none(times: Any) -> Any:
    return () if times is None else times


def _forward(call: Call, times: Tensor) -> np.ndarray:
    return (call.direction * times.detach().cpu()).numpy()


def _fractions(ends: np.ndarray, jumps: np.ndarray) -> Fractions:
    """For each section between jumps the ends of its steps, as fractions of it."""
    inside = np.unique(jumps[(jumps > ends[0]) & (jumps < ends[-1])])
    bounds = np.searchsorted(ends, [ends[0], *inside, ends[-1]])
    sections = itertools.pairwise(bounds)
    found = [(ends[a + 1 : b + 1] - ends[a]) / (ends[b] - ends[a]) for a, b in sections]
    for fractions in found:
        fractions[-1] = 1.0
    return tuple(found)


def _ends(call: Call, solution: Solution) -> np.ndarray:
    """(steps + 1,) the ends of all steps of a solution, in the time of func."""
    parts = [piece.tape.run.trajectory.times for piece in solution.pieces]
    times = np.concatenate([parts[0], *(part[1:] for part in parts[1:])]) if parts else np.empty(0)
    return call.direction * times
