"""Patterns of a Jacobian that lack entries, or that belong to another time: noticed, and not kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from fields import jacobian_of
from rings import T, line, one_step, ring
from small_problems import times
from torch import Tensor

from stiffml import (
    GMRES,
    Assembled,
    Grid,
    PointBlock,
    Sparsity,
    solve,
)
from stiffml.linear.sparse.compression import MissingEntriesError


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"linear": GMRES(PointBlock())},
        {"linear": GMRES(Assembled()), "method": "rosw-ra34pw2"},
        {"linear": GMRES(Assembled(sparsity=Sparsity(np.eye(10)))), "jacobian": "auto"},
    ],
)
def test_a_missing_entry_is_noticed(arguments: dict[str, Any]) -> None:
    pattern = jacobian_of(ring, line(10)) != 0
    pattern[3, 4] = False
    with pytest.raises(
        MissingEntriesError, match=r"lacks entries .* (row|column) of component \[\d\].*matrix-free"
    ):
        one_step(ring, line(10), **{"jacobian": Sparsity(pattern), **arguments})


@pytest.mark.parametrize("scale", [1.0, 1e12], ids=["alone", "beside a huge entry"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_missing_entry_is_noticed_in_any_precision(dtype: torch.dtype, scale: float) -> None:
    size = torch.ones(10, dtype=dtype)
    size[0] = scale

    def func(t: Tensor, y: Tensor) -> Tensor:
        coupled = torch.cat([torch.zeros(1, dtype=dtype), y[1:].roll(1)])
        return -size * y + 0.3 * coupled

    if scale > 1 and dtype == torch.float32:
        return  # its rounding is larger than what is missing
    with pytest.raises(MissingEntriesError, match="lacks entries"):
        one_step(func, line(10).to(dtype), jacobian=Sparsity(np.eye(10)))


def test_a_jacobian_that_is_not_finite_gets_differences() -> None:
    """It is not taken for one that lacks entries."""
    y0 = torch.linspace(0, 1, 10, dtype=torch.float64)
    found = one_step(lambda t, y: -y.clamp(min=0).sqrt(), y0, jacobian="coloured")
    assert found.stats.mended_jacobians > 0, "look at linear/non_finite.py"
    assert found.y[-1, 0] == 0


class Later:
    """Components depend on their neighbours from a certain time on."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 0.15 else -y + y.roll(1, -1)


@pytest.mark.parametrize("method", ["cn", "rosw-ra34pw2"])
def test_an_entry_that_appears_is_noticed(method: str) -> None:
    func = Later()
    y = solve(func, line(10), T, method=method, steps=Grid(2), jacobian="coloured").y
    torch.testing.assert_close(y[-1], line(10) * math.exp(-0.1), rtol=1e-3, atol=0)
    with pytest.raises(MissingEntriesError, match="lacks entries"):
        solve(func, line(10), times(0, 0.1, 0.3), method=method, steps=Grid(2), jacobian="coloured")


def test_the_pattern_of_a_method_is_found_once() -> None:
    """Each mention of it makes another object."""

    class Model:
        calls = 0

        def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return ring(t, y)

    model = Model()
    calls = []
    for _ in range(2):
        model.calls = 0
        one_step(ring, line(40), linear=GMRES(Assembled(model.diffusion)))
        calls.append(model.calls)
    assert calls[1] < calls[0] - 20, f"{calls} evaluations; look at known_pattern"


def test_solves_do_not_depend_on_those_before() -> None:
    func = Later()
    one_step(func, line(10), T, jacobian="coloured")
    later, dense = (one_step(func, line(10), times(0.2, 0.3), jacobian=j).y for j in ("coloured", "dense"))
    off = float((later - dense).abs().max())
    assert off <= 1e-8, f"off by {off:.1e}: was a pattern of another time taken? Look at known_pattern"
