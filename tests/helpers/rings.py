"""Points on a ring, each coupled to its neighbours: the smallest problem with a sparse Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from small_problems import times
from torch import Tensor

from stiffml import Grid, Solution, solve

T = times(0, 0.1)


def ring(t: Tensor, y: Tensor) -> Tensor:
    """Diffusion along the last axis, round the end to the beginning."""
    return 50 * (y.roll(1, -1) - 2 * y + y.roll(-1, -1)) - y**3 + torch.sin(t)


def mixed(t: Tensor, y: Tensor) -> Tensor:
    """All components depend on all."""
    return torch.cos(y.mean(-1, keepdim=True)) - y


def line(n: int) -> Tensor:
    return torch.linspace(0.1, 1, n, dtype=torch.float64)


def one_step(func: Callable, y0: Any, t: Tensor = T, method: str = "cn", **arguments: Any) -> Solution:
    return solve(func, y0, t, method=method, steps=Grid(1), **arguments)
