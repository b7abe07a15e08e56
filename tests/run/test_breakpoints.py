"""Times at which the right-hand side jumps: the order of a method, and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from gradients import compare
from pendulums import TIGHT, Y0, Pendulum
from small_problems import times
from torch import Tensor

from stiffml import Adaptive, Grid, check_gradients, solve


class Switched(Pendulum):
    """The drive jumps at t = 0.77."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        force = torch.where(t < 0.77, self.k[0], -2 * self.k[1])
        jump = torch.cat([torch.zeros_like(y[..., :1]), force + 0 * y[..., 1:]], dim=-1)
        return super().forward(t, y) + jump


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "dirk-es213sal", "dopri5"])
@pytest.mark.parametrize("steps", [Grid(3), Adaptive()], ids=["grid", "adaptive"])
def test_gradients_with_breakpoints(method: str, steps) -> None:
    tolerances = {"rtol": 1e-3, "atol": 1e-4} if isinstance(steps, Adaptive) else {}
    report = check_gradients(
        Switched(), Y0, times(0, 0.5, 0.78, 1.1), method=method, steps=steps, breakpoints=[0.77], **tolerances
    )
    assert report.ok, f"{method}:\n{report}\nlook at breakpoints.py"


def test_breakpoints_keep_the_order() -> None:
    """Without them the error is that of a step across the jump; with them that of a smooth problem."""
    t = times(0, 1.3)
    exact = solve(Switched(), Y0, t, rtol=1e-11, atol=1e-13, breakpoints=[0.77]).y[-1]
    coarse, fine, blind = (
        (solve(Switched(), Y0, t, method="cn", steps=Grid(n), breakpoints=at).y[-1] - exact)
        .abs()
        .max()
        .item()
        for n, at in ((20, [0.77]), (40, [0.77]), (80, None))
    )
    assert abs(math.log2(coarse / fine) - 2) < 0.2
    assert blind > 3 * fine


@pytest.mark.parametrize("method", ["beuler", "cn", "rosw-ra34pw2", "dirk-es213sal", "rk4"])
@pytest.mark.parametrize("at", [0.3, 0.77])
@pytest.mark.parametrize("of_times", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_states", [torch.float32, torch.float64])
def test_breakpoints_in_single_precision(method: str, at: float, of_times, of_states) -> None:
    """0.3 in single precision lies after 0.3, and 0.77 before; y' = ±1 leaves rounding of states only."""

    def jump(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < at, 1.0, -1.0).to(y.dtype) + 0 * y

    near = 8 * torch.finfo(of_states).eps
    around = torch.tensor([0, at, 1], dtype=of_times)
    for t, after in ((around, 1), (around.flip(0), -1)):
        for outputs in (t, t[[0, 2]]):
            y0 = torch.full((1,), min(0, -after) * (2 * at - 1), dtype=of_states)
            solution = solve(jump, y0, outputs, method=method, steps=Grid(4), breakpoints=[at])
            off = abs(solution.y[-1].item() - y0.item() - after * (2 * at - 1))
            assert off <= near, f"from {t[0]} to {t[-1]} off by {off:.2g}: look at _inside in breakpoints.py"
            assert solution.stats.accepted == 8, "an output there is the breakpoint: look at solve_in_pieces"
            solution.interpolate(outputs)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_breakpoints_at_the_ends(precision) -> None:
    """func jumps at both ends of t as well, and is to stay between them."""

    def bump(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t > 0.3) & (t < 0.77), 1.0, 1e3).double() + 0 * y

    t = torch.tensor([0.3, 0.77], dtype=precision)
    y = solve(bump, times(0), t, method="cn", steps=Grid(2), breakpoints=[0.1, 0.3, 0.77, 0.9]).y
    span = (t[1].double() - t[0].double()).item()
    assert abs(y[-1].item() - span) <= 1e-14, "look at the jumps of a piece in breakpoints.py"


def test_the_gradient_of_times_in_single_precision() -> None:
    """A step of y' = ±1 changes y by its own length."""
    t, at = torch.tensor([0.0, 0.77, 1.0], requires_grad=True), times(0.77).requires_grad_()

    def jump(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.77, 1.0, -1.0) + 0 * y

    y = solve(jump, times(0), t, method="cn", steps=Grid(2), breakpoints=at).y
    wrt_t, wrt_at = torch.autograd.grad(y[-1].sum(), [t, at])
    # The first piece ends on the output there, and the second begins on the breakpoint.
    assert wrt_t.tolist() == pytest.approx([-1, 1, -1])
    assert wrt_at.tolist() == pytest.approx([1])


@pytest.mark.parametrize(
    ("t", "named"),
    [
        (torch.empty(0), "t must be one-dimensional with at least one time"),
        (torch.zeros(2, 2), "t must be one-dimensional, not of shape"),
        (times(0, 0.9, 0.5, 2), r"t\[1\] = 0.9.* and t\[2\] = 0.5"),
        (times(0, 0.9, math.inf), "t is not finite at position 2"),
    ],
)
def test_breakpoints_leave_the_errors_of_times_as_they_are(t: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        solve(Switched(), Y0, t, breakpoints=[0.77])


def test_breakpoints_and_a_single_time() -> None:
    assert torch.equal(solve(Switched(), Y0, times(0.5), breakpoints=[0.77]).y, Y0[None])


def test_the_gradient_of_a_breakpoint() -> None:
    """What moves with the breakpoint is where the steps end; the jump itself is in func."""
    at = torch.tensor([0.5, 0.77], dtype=torch.float64, requires_grad=True)
    func, t = Pendulum(), times(0, 1.1)

    def loss() -> Tensor:
        y = solve(func, Y0, t, method="cn", steps=Grid(3), breakpoints=at, newton=TIGHT).y
        assert isinstance(y, Tensor)
        return (y**2).sum()

    (gradient,) = torch.autograd.grad(loss(), at)
    error, rate = compare(lambda: loss().detach(), [at], [gradient], 1e-3)
    assert error <= 1e-6
    assert rate >= 1.9


def test_backwards_through_a_jump() -> None:
    ahead = solve(Switched(), Y0, times(0, 0.77, 1.2), breakpoints=[0.77], rtol=1e-9, atol=1e-12)
    back = solve(
        Switched(), ahead.y[-1].detach(), times(1.2, 0.5, 0), breakpoints=[0.77], rtol=1e-9, atol=1e-12
    )
    assert torch.allclose(back.y[-1], Y0, atol=1e-6)
    assert torch.allclose(back.interpolate(times(0.77, 1.2))[0], ahead.y[1], atol=1e-6)


def test_the_steps_of_pieces_with_outputs_between_can_be_taken_again() -> None:
    arguments = {"breakpoints": [0.77], "outputs": "interpolate", "rtol": 1e-6, "atol": 1e-9}
    t = times(0, 0.2, 0.5, 0.9, 1.0, 1.2)
    solution = solve(Switched(), Y0, t, **arguments)
    del arguments["rtol"], arguments["atol"]
    again = solve(Switched(), Y0, t, steps=solution.steps, **arguments)
    assert again.stats.accepted == solution.stats.accepted
    assert (again.y - solution.y).abs().max() <= 1e-5, "look at how solve_in_pieces deals out the intervals"
