"""A step whose matrix is exactly singular is cut, as one is that Newton's iteration cannot solve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods import NEWTON_WHOLE
from torch import Tensor

from stiffml import GMRES, LU, Fixed, Grid, solve

D = torch.float64
SINGULAR = [("beuler", 1.0), ("cn", 2.0), ("bdf2", 2.0), ("dirk-s212", 1.0)]
"""Methods, and sizes of their steps at which the matrix is singular to the last bit."""
COUPLING = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=D)


def growing(t: Tensor, y: Tensor) -> Tensor:
    """y' = A y, with the double eigenvalue 1: a stage of a step of size 1/γ has the matrix (A - I)/γ."""
    return y @ COUPLING.T


def require_cut_or_taken(method: str, size: float, **arguments: Any) -> int:
    """What comes, and its gradient, is that of the steps that were taken; how often a step was cut."""
    y0 = torch.ones(2, dtype=D, requires_grad=True)
    t = torch.tensor([0.0, size], dtype=D)
    solution = solve(growing, y0, t, method=method, steps=Grid(1), stepping="sequential", **arguments)
    assert solution.success
    again = solve(growing, y0, t, method=method, steps=solution.steps, stepping="sequential", **arguments)
    torch.testing.assert_close(again.y, solution.y, rtol=1e-9, atol=1e-9)
    slopes = [torch.autograd.grad(y.y[-1].sum(), y0)[0] for y in (solution, again)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-8)
    return solution.stats.rejected


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("method", NEWTON_WHOLE)
def test_methods(method: str, size: float) -> None:
    require_cut_or_taken(method, size)


@pytest.mark.parametrize("linear", [LU(), GMRES()], ids=["lu", "gmres"])
@pytest.mark.parametrize(
    ("method", "size"), [("beuler", 1.0), ("cn", 2.0), ("bdf2", 2.0), ("dirk-s212", 1.0)]
)
def test_the_matrix_is_singular(method: str, size: float, linear: Any) -> None:
    assert require_cut_or_taken(method, size, linear=linear) > 0


@pytest.mark.parametrize("compile", [False, True], ids=["torch", "compiled"])
@pytest.mark.parametrize("samples", [1, 3])
def test_samples_and_compiled_functions(samples: int, compile: bool) -> None:
    y0 = torch.ones(samples, 2, dtype=D)
    t = torch.tensor([0.0, 1.0], dtype=D)
    arguments: dict[str, Any] = {"method": "beuler", "batch_dims": 1, "compile": compile}
    found = solve(growing, y0, t, steps=Grid(1), stepping="sequential", **arguments)
    wanted = solve(growing, y0, t, steps=Fixed(0.5), stepping="sequential", **arguments)
    torch.testing.assert_close(found.y[-1], wanted.y[-1], rtol=1e-12, atol=1e-12)
    assert found.stats.rejected == 1
