"""Few steps, down to one, are solved together too, with the solution and the gradient of steps one by one."""

from __future__ import annotations

import pytest
import torch
from methods import NEWTON_WHOLE
from remembering import Y0, Func, T
from torch import Tensor

from stiffml import Grid, Newton, Solution, solve


def gradients(func: Func, solution: Solution) -> tuple[Tensor, ...]:
    return torch.autograd.grad((solution.y**2).sum(), list(func.inner.parameters()))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("method", NEWTON_WHOLE)
def test_the_same_as_one_by_one(method: str, count: int) -> None:
    func, given = Func(), {"method": method, "steps": Grid(), "newton": Newton(rtol=1e-11)}
    found = solve(func, Y0, T[: count + 1], **given)
    other = solve(func, Y0, T[: count + 1], stepping="sequential", **given)
    assert found.stats.at_once == found.stats.accepted == other.stats.accepted
    assert other.stats.at_once == 0
    torch.testing.assert_close(found.y, other.y, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradients(func, found), gradients(func, other), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("count", "beside"), [(1, 0), (2, 2)])
def test_one_step_needs_no_look_at_its_own_iteration(count: int, beside: int) -> None:
    """Two may lead elsewhere than steps one by one; then both are looked at."""
    stats = solve(Func(), Y0, T[: count + 1], method="cn", steps=Grid()).stats
    assert stats.jacobians == (count + 1) * stats.newton_iterations + beside
