"""What linear="auto" does for fields: kept factors as a preconditioner, stronger ones where need be."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import GMRES, LU, Adaptive, Grid, Solution, Split, solve
from stiffml.linear import choice
from stiffml.linear.krylov import strengthened

POINTS = 34
KEPT = "gmres, matrix-free, ilu of the Jacobian"
WHOLE = "gmres, matrix-free, LU, as ILU took too many iterations, of the Jacobian"
DIRECT = "LU of the Jacobian, sparse"


class Flame(nn.Module):
    """k Δy + sin y on a square, zero around it."""

    def __init__(self, k: float = 0.3) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        p = nn.functional.pad(y, (1, 1, 1, 1))
        near = p[..., 2:, 1:-1] + p[..., :-2, 1:-1] + p[..., 1:-1, 2:] + p[..., 1:-1, :-2]
        return self.k * POINTS**2 * (near - 4 * y) + 5 * torch.sin(y)


class Own(torch.autograd.Function):
    """A sine whose backward leaves torch, so that it cannot be differentiated twice."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return torch.sin(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return cotangent * torch.cos(y)


def start(points: int = POINTS) -> Tensor:
    x = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    return torch.sin(3.14159 * x)[:, None] * (x * (1 - x) * (1 + x**2))[None, :] * 4


def solved(func: nn.Module, method: str, **arguments) -> tuple[Solution, list[Tensor]]:
    y0 = start().requires_grad_()
    solution = solve(func, y0, times(0, 0.05, 0.2), method=method, **arguments)
    assert isinstance(solution.y, Tensor)
    loss = (solution.y[1:] * start()).sum()
    return solution, [solution.y.detach(), *torch.autograd.grad(loss, [y0, *func.parameters()])]


def require_close(found: list[Tensor], expected: list[Tensor], bound: float) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        off = float((a - b).abs().max() / b.abs().max())
        assert off <= bound, f"number {number} of (y, y0, k) is off by {off:.1e}"


@pytest.mark.parametrize("method", ["bdf3", "cn", "rosw-ra34pw2", "dirk-es213sal"])
def test_results_are_those_of_new_factors(method: str) -> None:
    """Newton's tolerance is 1e-8 here, that of the linear systems of Rosenbrock methods 1e-10, and that of
    transposed ones 1e-9; steps add up a few of these."""
    solution, found = solved(Flame(), method, steps=Grid(4))
    assert solution.stats.linear.startswith(KEPT)
    direct, expected = solved(Flame(), method, steps=Grid(4), linear=LU(), jacobian="coloured")
    assert direct.stats.linear.startswith(DIRECT)
    require_close(found, expected, 1e-6)


def test_factors_are_kept_over_steps() -> None:
    solution, _ = solved(Flame(), "bdf3", steps=Adaptive(), rtol=1e-6, atol=1e-8)
    stats = solution.stats
    # Each Newton iteration has a Jacobian to take products with; those of new factors come on top.
    assert stats.jacobians - stats.newton_iterations <= stats.newton_iterations / 3
    assert stats.krylov_iterations <= 6 * stats.newton_iterations
    assert stats.adjoint is not None
    assert stats.adjoint.krylov_iterations <= 20 * stats.accepted


def test_whole_factors_take_over_where_iterations_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strengthened, "MANY", 2)
    solution, found = solved(Flame(), "bdf3", steps=Grid(4))
    assert solution.stats.linear.startswith(WHOLE)
    _, expected = solved(Flame(), "bdf3", steps=Grid(4), linear=LU(), jacobian="coloured")
    require_close(found, expected, 1e-6)


def test_a_transposed_solve_that_fails_is_repeated_with_whole_factors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward solves are to 1e-3 and take few iterations, transposed ones are to 1e-9."""
    monkeypatch.setattr(choice, "GMRES", partial(GMRES, max_iterations=8))
    monkeypatch.setattr(strengthened, "MANY", 7)
    solution, found = solved(Flame(), "cn", steps=Grid(16))
    assert solution.stats.linear.startswith(KEPT), "the forward pass must not need them"
    _, expected = solved(Flame(), "cn", steps=Grid(16), linear=LU(), jacobian="coloured")
    require_close(found, expected, 1e-6)
    monkeypatch.setattr(strengthened, "MANY", 100)
    with pytest.raises(Exception, match="transposed system"):
        solved(Flame(), "cn", steps=Grid(16))


class OnceOnly(Flame):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(t, y) - 5 * torch.sin(y) + 5 * Own.apply(y)


def linear_of(func: nn.Module, y0: Tensor, method: str = "cn", **arguments) -> str:
    return solve(func, y0, times(0, 0.01), method=method, steps=Grid(1), **arguments).stats.linear


def test_where_new_factors_stay() -> None:
    """Where products need second derivatives that there are not, where pivots may be needed, a constant
    matrix has one set of factors for each step size, or numbers are of single precision."""
    assert linear_of(Flame(), start()).startswith(KEPT)
    assert linear_of(OnceOnly(), start()).startswith(DIRECT)
    small = start()[:20, :20].contiguous()
    assert linear_of(Flame(), small).startswith(DIRECT)
    assert linear_of(Flame().float(), start().float()).startswith(DIRECT)
    mass = torch.ones(POINTS, POINTS).double()
    assert linear_of(Flame(), start(), mass=mass).startswith(DIRECT)
    split = Split(
        lambda t, y: 9 * (y.roll(1, 0) - 2 * y + y.roll(-1, 0)), lambda t, y: torch.sin(y), linear=True
    )
    assert linear_of(split, start(), "arkimex-3").startswith(DIRECT)
    assert linear_of(Flame(), start(), options={"snes_lag_jacobian": 1}).startswith(DIRECT)
