"""What goes wrong in Krylov methods and in what they are given: said clearly, and once."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from fields import TIGHT, Brusselator, waves
from leftovers import nothing_left_behind
from methods import IMPLICIT_KINDS
from small_problems import times
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from unsolvable import T, gradients, problem, require_same

from stiffml import (
    GMRES,
    Assembled,
    Discrete,
    Grid,
    Krylov,
    LinearSolveError,
    PointBlock,
    SolveError,
    Status,
    solve,
)
from stiffml.system.derivatives.graph import NotTwiceDifferentiableError

# Methods that do not converge.

STALLING = GMRES(max_iterations=1, rtol=1e-10)


@pytest.mark.parametrize("method", IMPLICIT_KINDS)
def test_a_method_that_stalls(method: str) -> None:
    func, steps = problem(method), Grid(2)
    with nothing_left_behind(), pytest.raises(SolveError) as caught:
        solve(func, waves(), T, method=method, steps=steps, linear=STALLING)
    error = caught.value
    assert error.status is Status.LINEAR_FAILED, f"{method}: {error}"
    assert error.t == 0.1
    assert 0 < error.h <= 0.05 * (1 + 1e-12)
    wanted = (
        r"the linear systems .* could not be solved.*: gmres stopped after 1 iterations \(too many "
        r"iterations\); last residuals: \d\.\d\de[+-]\d\d.* \(t = 0\.1, step = .*\)\. Try: .*preconditioner"
        r".*max_iterations"
    )
    assert re.search(wanted, str(error)), f"{method}: {error}"
    assert error.solution is not None
    assert len(error.solution.t) == 1

    solution = solve(func, waves(), T, method=method, steps=steps, linear=STALLING, throw=False)
    assert not solution.success
    assert solution.status is Status.LINEAR_FAILED
    assert solution.message == str(error)
    assert solution.stats.rejected > 0


@pytest.mark.parametrize("method", IMPLICIT_KINDS)
def test_adaptive_steps_do_not_go_on_with_a_method_that_stalls(method: str) -> None:
    with nothing_left_behind(), pytest.raises(SolveError, match="gmres stopped after 1 iterations") as caught:
        solve(problem(method), waves(), T, method=method, rtol=1e-4, atol=1e-6, linear=STALLING)
    assert caught.value.status is Status.LINEAR_FAILED
    assert caught.value.solution.stats.accepted < 200, "look at STALLED in forward.py"


def test_other_reasons_have_names() -> None:
    """A conjugate gradient method on a matrix that is far from symmetric."""

    def rotation(t: Tensor, y: Tensor) -> Tensor:
        return 1e4 * torch.stack([y[..., 1], -y[..., 0]], dim=-1)

    start = torch.tensor([1.0, 0.5], dtype=torch.float64)
    with pytest.raises(
        SolveError, match=r"cg stopped after \d+ iterations \((it|too|a|[a-z ]+)\); last"
    ) as caught:
        solve(
            rotation, start, T, method="cn", steps=Grid(1), linear=Krylov("cg", rtol=1e-10, max_iterations=3)
        )
    assert caught.value.status is Status.LINEAR_FAILED


LOOSE = GMRES(max_iterations=6, rtol=0.3, adjoint_rtol=1e-13)


@pytest.mark.parametrize("method", ["cn", "bdf3", "arkimex-3"])
def test_a_transposed_system_that_stalls(method: str) -> None:
    func = problem(method)
    y0 = waves().requires_grad_()
    with nothing_left_behind():
        y = solve(func, y0, T, method=method, steps=Grid(2), linear=LOOSE).y
        message = (
            r"a transposed system of the backward pass at t = 0\.\d+ could not be solved: gmres stopped "
            r"after 6 iterations \(too many iterations\); last residuals: \d.*Try: .*preconditioner"
        )
        with pytest.raises(LinearSolveError, match=message):
            y.sum().backward()
        del y
    solve(func, y0, T, method=method, steps=Grid(2), linear=GMRES()).y.sum().backward()


def test_a_recorded_system_that_stalls() -> None:
    y0 = waves().requires_grad_()
    # Newton's updates are solved more loosely than the transposed systems, and fail later.
    linear = replace(LOOSE, max_iterations=3)
    arguments = {"method": "cn", "steps": Grid(2), "linear": linear, "adjoint": Discrete(1)}
    y = solve(Brusselator(), y0, T, **arguments).y
    with pytest.raises(
        LinearSolveError, match=r"a system of a recorded step at t = 0\.\d+ could not be solved"
    ):
        y.sum().backward()


@pytest.mark.parametrize("start", [1e-9, 1.5], ids=["at the first step", "at a later one"])
def test_newtons_iteration_still_speaks_for_itself(start: float) -> None:
    def jump(t: Tensor, y: Tensor) -> Tensor:
        return -10 * torch.sign(y) - y  # once y is below 10 h, no implicit step has a solution

    y0 = start * torch.tensor([1.0, 0.7], dtype=torch.float64)
    wanted = r"Newton.* did not converge.*last updates, .*tolerance: \d"
    with pytest.raises(SolveError, match=wanted) as caught:
        solve(jump, y0, times(0, 1), method="beuler", steps=Grid(2), linear=GMRES())
    assert caught.value.status is Status.NEWTON_FAILED


def test_a_method_that_stalls_at_a_later_step() -> None:
    """There a step is cut until it ends before what makes it fail."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        spread = y.roll(1, -1) - 2 * y + y.roll(-1, -1)
        return -y if t < 0.15 else 1e12 * spread * torch.linspace(1, 2, 10, dtype=y.dtype)

    start = torch.linspace(1, 2, 10, dtype=torch.float64) ** 2
    linear = GMRES(max_iterations=2, rtol=1e-8)
    with pytest.raises(SolveError, match=r"linear systems.*gmres stopped after 2 iterations") as caught:
        solve(func, start, times(0, 0.3), method="beuler", steps=Grid(2), linear=linear)
    assert caught.value.status is Status.LINEAR_FAILED
    assert 0.1 < caught.value.t <= 0.15


@pytest.mark.parametrize("linear", [GMRES(), GMRES(Assembled()), "auto"], ids=["gmres", "ilu", "lu"])
def test_a_solution_that_blows_up(linear: Krylov | str) -> None:
    start = torch.linspace(0.5, 1, 8, dtype=torch.float64)
    jacobian = "coloured" if linear == "auto" else "auto"
    with pytest.raises(SolveError) as caught:
        solve(lambda t, y: y**2, start, times(0, 1.5), method="bdf", linear=linear, jacobian=jacobian)
    assert 0.99 < caught.value.t < 1.01, f"{caught.value}"


@pytest.mark.parametrize(
    "arguments",
    [{"linear": GMRES()}, {"linear": GMRES(Assembled())}, {"jacobian": "coloured"}],
    ids=["gmres", "ilu", "coloured"],
)
def test_a_start_that_is_not_finite(arguments: dict[str, Any]) -> None:
    with pytest.raises(SolveError, match="func or the state became infinite or NaN") as caught:
        solve(lambda t, y: torch.log(-y), torch.ones(8).double(), T, method="cn", steps=Grid(1), **arguments)
    assert caught.value.status is Status.NON_FINITE


# Functions that cannot be differentiated twice.


class Cubed(torch.autograd.Function):
    """With a backward that torch knows it cannot differentiate."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y**3

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return 3 * y**2 * cotangent


class SilentlyCubed(Cubed):
    """With a backward that leaves torch, and so passes for a constant."""

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.from_numpy(3 * y.detach().numpy() ** 2 * cotangent.detach().numpy())


class OpenlyCubed(Cubed):
    """With a backward that torch refuses to leave with a gradient."""

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.from_numpy(3 * y.detach().numpy() ** 2 * cotangent.numpy())


class Closure(nn.Module):
    """A Brusselator and a sink with an operation of one's own."""

    def __init__(self, operation: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.model, self.operation = Brusselator(), operation

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.model(t, y) - 0.1 * self.operation.apply(y)


@pytest.mark.parametrize("linear", [GMRES(), GMRES(PointBlock()), Krylov("bcgs", Assembled())], ids=str)
@pytest.mark.parametrize("operation", [Cubed, SilentlyCubed, OpenlyCubed], ids=lambda o: o.__name__)
@pytest.mark.parametrize("method", ["cn", "dirk-es213sal"])
def test_what_cannot_be_differentiated_twice(method: str, operation: Any, linear: Krylov) -> None:
    func = Closure(operation)
    message = (
        rf"func cannot be differentiated twice.*\b{operation.__name__}\b.*jacobian='coloured' or 'dense'"
    )
    with nothing_left_behind(), pytest.raises(NotTwiceDifferentiableError, match=f"(?s){message}"):
        solve(func, waves(), T, method=method, steps=Grid(1), linear=linear)


def test_a_compiled_function_cannot_be_differentiated_twice() -> None:
    model = torch.compile(nn.Linear(3, 3, dtype=torch.float64), backend="aot_eager")
    y0 = torch.ones(3, dtype=torch.float64)
    with pytest.raises(NotTwiceDifferentiableError, match="func cannot be differentiated twice"):
        solve(lambda t, y: model(y), y0, times(0, 0.1), method="cn", steps=Grid(1), linear=GMRES())


@pytest.mark.parametrize("operation", [Cubed, SilentlyCubed], ids=lambda o: o.__name__)
def test_what_to_do_instead(operation: Any) -> None:
    """First derivatives are enough for a Jacobian of rows."""
    found = []
    for func in (Closure(operation), Closure(torch.autograd.Function)):
        if func.operation is torch.autograd.Function:
            func.forward = lambda t, y, model=func.model: model(t, y) - 0.1 * y**3  # type: ignore[method-assign]
        for jacobian in ("coloured", "dense"):
            y0 = waves().requires_grad_()
            y = solve(func, y0, T, method="cn", steps=Grid(1), newton=TIGHT, jacobian=jacobian).y
            found.append(gradients(func, y, y0))
    for others in found[1:]:
        require_same(others, found[0])
