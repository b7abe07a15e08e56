"""Newton failures in runs with given steps: the step is halved, recorded, and the gradient stays exact."""

from __future__ import annotations

import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import Fixed, Grid, Newton, SolveError, Status, check_gradients, solve


class Front(nn.Module):
    """A steep bistable front: Newton started from the old state overshoots unless the step is short."""

    def __init__(self, steepness: float = 8.0) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(steepness, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -20 * torch.atan(self.steepness * (y - torch.cos(4 * t))) - 0.1 * y


Y0 = torch.tensor([1.5, -0.5], dtype=torch.float64)
T = times(0, 0.5, 0.8)
NEWTON = Newton(rtol=1e-13, atol=1e-15, max_iterations=4)


@pytest.mark.parametrize("method", ["beuler", "cn", "bdf2"])
@pytest.mark.parametrize("steps", [Grid(2), Fixed(0.25)], ids=["grid", "fixed"])
def test_failing_steps_are_halved_and_recorded(method: str, steps) -> None:
    func = Front()
    solution = solve(func, Y0, T, method=method, steps=steps, newton=NEWTON)
    asked = sum(len(ends) for ends in steps.fractions(T.numpy()))
    assert solution.stats.rejected > 0, "the case is meant to make Newton fail; make the front steeper"
    assert solution.stats.accepted > asked
    for ends in solution.steps.ends:
        # Halves of halves of the steps asked for: every step a power of two shorter, none lost.
        sizes = torch.tensor(ends).diff(prepend=torch.zeros(1, dtype=torch.float64))
        ratio = torch.log2(sizes / sizes.max())
        assert torch.allclose(ratio, ratio.round(), atol=1e-6), f"not halves: {ends}"
        assert ends[-1] == 1
    report = check_gradients(func, Y0, T, method=method, steps=steps, newton=NEWTON)
    assert report.ok, report


def test_halving_has_a_limit() -> None:
    def jump(t: Tensor, y: Tensor) -> Tensor:
        return -10 * torch.sign(y)  # once y is below 10 h, no implicit step has a solution

    with pytest.raises(SolveError) as caught:
        solve(jump, Y0, T, method="beuler", steps=Grid(2))
    assert caught.value.status is Status.NEWTON_FAILED
    assert caught.value.h < 0.5


def test_a_failure_in_an_adaptive_run_cuts_the_step() -> None:
    func = Front(30.0)
    solution = solve(
        func,
        Y0,
        T,
        method="bdf2",
        rtol=1e-2,
        atol=1e-2,
        newton=Newton(rtol=1e-12, atol=1e-14, max_iterations=3),
    )
    assert solution.stats.rejected > 0
    exact = solve(func, Y0, T, rtol=1e-8, atol=1e-10).y
    assert (solution.y - exact).abs().max() <= 0.1
