"""A limit of steps, which Python and code that takes all steps by itself keep alike."""

from __future__ import annotations

import pytest
import torch

from stiffml import Grid, SolveError, Status, solve
from stiffml.run.watching import StepLimit

pytest.importorskip("casadi")

Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
T = torch.linspace(0, 1, 4, dtype=torch.float64)


def decay(t, y):
    return -2 * y


def test_code_in_c_ends_at_the_limit():
    with pytest.raises(SolveError) as caught:
        solve(decay, Y0, T, method="cn", steps=Grid(4), compile=True, callback=StepLimit(7))
    assert caught.value.status is Status.MAX_STEPS
    assert caught.value.solution is not None
    assert len(caught.value.solution.step_times) == 8, "seven steps were taken"


def test_python_ends_at_the_limit():  # which bounds make it take the steps
    found = solve(decay, Y0, T, method="cn", steps=Grid(4), callback=StepLimit(7), bounds=(-9.0, 9.0))
    assert found.status is Status.STOPPED
    assert len(found.step_times) == 8


@pytest.mark.parametrize("compiled", [False, True])
def test_a_limit_that_is_not_reached_changes_nothing(compiled):
    given = {"method": "cn", "steps": Grid(4), "compile": compiled}
    wanted, found = solve(decay, Y0, T, **given), solve(decay, Y0, T, callback=StepLimit(13), **given)
    torch.testing.assert_close(found.y, wanted.y, rtol=1e-12, atol=0)
    assert found.stats.in_c == 12, "the limit must not decide where steps are taken"
