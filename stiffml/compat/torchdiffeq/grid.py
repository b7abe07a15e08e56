"""Steps on a grid that is known beforehand, and outputs between its points."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from stiffml.checks import described, number
from stiffml.compat.torchdiffeq.call import Call, Taken
from stiffml.compat.torchdiffeq.names import method_of
from stiffml.interface.solve import solve
from stiffml.steps import Grid

INTERPOLATIONS = ("linear", "cubic")


def on_grid(call: Call) -> Taken:
    """The solution at the times of a call, by one step between any two points of its grid."""
    interp = call.options.get("interp", "linear")
    if interp not in INTERPOLATIONS:
        raise ValueError(
            f"options: interp must be one of {', '.join(INTERPOLATIONS)}, not {described(interp)}"
        )
    grid = _grid(call)
    # At a breakpoint no step evaluates func on both sides, as ``perturb`` wants it at every point.
    breakpoints = grid.detach() if call.options.get("perturb") else None
    y = solve(
        call.func,
        call.y0,
        grid,
        method=method_of(call.method),
        steps=Grid(),
        breakpoints=breakpoints,
        **call.kept,
    ).y
    taken = Taken(_outputs(call, grid, y, interp), grid.detach(), lambda: tree_map(Tensor.detach, y))
    callback = call.callbacks.get("callback_step")
    if callback is not None:
        for begin, state, end, _ in taken.steps():
            callback(begin, state, (end - begin).abs())
    return taken


def step_size(call: Call) -> float | None:
    size = call.options.get("step_size")
    return None if size is None else number("options: step_size", size, above=0)


def _grid(call: Call) -> Tensor:
    """(points,) from the first time of a call to its last."""
    t, size = call.t, step_size(call)
    constructor = call.options.get("grid_constructor")
    if constructor is not None and size is not None:
        raise ValueError("options: step_size and grid_constructor exclude one another; pass one of them")
    if constructor is not None:
        grid = torch.as_tensor(constructor(call.func, call.y0, t)).to(t)
        if grid.dim() != 1 or len(grid) < 2 or grid[0] != t[0] or grid[-1] != t[-1]:
            raise ValueError("options: grid_constructor must return times from t[0] to t[-1], with both")
        return grid
    if size is None:
        return t
    span = abs(float(t[-1].detach() - t[0].detach()))
    steps = max(1, math.ceil(span / size * (1 - 1e-12)))
    within = t[0] + call.direction * size * torch.arange(steps, dtype=t.dtype, device=t.device)
    return torch.cat([within, t[-1:]])


def _outputs(call: Call, grid: Tensor, y: Any, interp: str) -> Any:
    """The states at the times of a call, from those at the points of the grid."""
    t, direction = call.t, call.direction
    points, wanted = direction * grid.detach(), direction * call.t.detach()
    last = torch.searchsorted(points, wanted).clamp(
        max=len(points) - 1
    )  # of the step that ends there or later
    if interp == "linear" and torch.equal(points[last], wanted):
        return y if len(t) == len(grid) else tree_map(lambda part: part[last], y)
    first = (last - 1).clamp(min=0)
    sizes = (grid[last] - grid[first]).where(last > first, torch.ones_like(t))
    at = (t - grid[first]) / sizes
    # torchdiffeq takes a straight line on a point of the grid for that point, a cubic there for a cubic.
    is_point = points[last] == wanted if interp == "linear" else last == 0

    def shaped(values: Tensor, part: Tensor) -> Tensor:
        return values.reshape(-1, *(1,) * (part.dim() - 1))

    def weight(values: Tensor, part: Tensor) -> Tensor:
        return shaped(values, part).to(part.real.dtype)

    if interp == "linear":

        def line(part: Tensor) -> Tensor:
            between = part[first] + weight(at, part) * (part[last] - part[first])
            return torch.where(shaped(is_point, part), part[last], between)

        return tree_map(line, y)
    slopes = [_slopes(call, grid, y, which) for which in (first, last)]
    # The cubic through both ends with their slopes: Hairer, Nørsett & Wanner, Solving ODEs I, eq. II.6.7.
    weights = [(1 + 2 * at) * (1 - at) ** 2, at * (1 - at) ** 2 * sizes, at**2 * (at - 1) * sizes]

    def cubic(part: Tensor, slope: Tensor, slope_after: Tensor) -> Tensor:
        h0, h1, h2 = (weight(values, part) for values in weights)
        between = h0 * part[first] + (1 - h0) * part[last] + h1 * slope + h2 * slope_after
        return torch.where(shaped(is_point, part), part[last], between)

    return tree_map(cubic, y, *slopes)


def _slopes(call: Call, grid: Tensor, y: Any, which: Tensor) -> Any:
    """func at some points of the grid."""
    found = []
    for at in which.tolist():
        state = tree_map(lambda part, at=at: part[at], y)
        found.append(call.func(call.time(grid[at]), state))
    return tree_map(lambda *parts: torch.stack(parts), *found)
