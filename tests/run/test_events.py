"""Terminal events and breakpoints: where they are, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from gradients import compare
from small_problems import times
from torch import Tensor, nn

from stiffml import Adaptive, Grid, Newton, Solution, Status, check_gradients, solve

TIGHT = Newton(rtol=1e-13, atol=1e-16)
TRIED = ("cn", "bdf1", "bdf3", "rosw-ra34pw2", "dirk-es213sal", "dirk-s212", "dopri5")


class Pendulum(nn.Module):
    """Damped and driven."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([1.3, 0.4], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        angle, speed = y[..., :1], y[..., 1:]
        drive = 0.2 * torch.cos(2 * t)
        return torch.cat([speed, -self.k[0] * torch.sin(angle) - self.k[1] * speed + drive], dim=-1)


Y0 = torch.tensor([1.0, 0.3], dtype=torch.float64)
OUTPUTS = times(0.1, 0.6, 1.1, 3.1)


@pytest.mark.parametrize("method", TRIED)
def test_gradients_of_an_event(method: str) -> None:
    func, level = Pendulum(), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    y0, t = Y0.clone().requires_grad_(), OUTPUTS.clone().requires_grad_()

    def run() -> Solution:
        newton = None if method in ("dopri5", "rosw-ra34pw2") else TIGHT
        return solve(
            func,
            y0,
            t,
            method=method,
            steps=Grid(4),
            event=lambda t, y: y[0] - level * torch.cos(t),
            params=[level],
            newton=newton,
        )

    def loss(solution: Solution | None = None) -> Tensor:
        solution = run() if solution is None else solution
        assert solution.event is not None
        assert isinstance(solution.y, Tensor)
        return 3 * solution.event.t + (solution.event.y * torch.tensor([0.3, 1.7])).sum() + solution.y.sum()

    solution = run()
    assert solution.status is Status.EVENT
    assert solution.success
    assert len(solution.t) == 3, "outputs after the event are not reached"
    groups = {"y0": [y0], "t": [t], "parameters": [func.k], "event": [level]}
    gradients = torch.autograd.grad(loss(solution), [p for group in groups.values() for p in group])
    for (name, group), gradient in zip(groups.items(), gradients, strict=True):
        error, rate = compare(lambda: loss().detach(), group, [gradient], 1e-4)
        assert error <= 1e-6, f"{method}: {name} off by {error:.1e}; look at events.py and end_time_tangents"
        assert rate >= 1.9, f"{method}: {name} has Taylor rate {rate:.2f}"


@pytest.mark.parametrize(("count", "afterwards"), [(3, True), (8, False)], ids=["afterwards", "outputs"])
@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "dirk-es213sal", "dopri5"])
def test_gradients_between_the_last_steps(method: str, count: int, afterwards: bool) -> None:
    """What is interpolated there depends on where the last step ends, and so on the event."""
    func, y0 = Pendulum(), Y0.clone().requires_grad_()
    t = times(0, 1.2, 1.6, 1.85, 4).requires_grad_()

    def loss() -> Tensor:
        solution = solve(
            func,
            y0,
            t[[0, -1]] if afterwards else t,
            method=method,
            steps=Grid(count),
            outputs="interpolate",
            event=lambda t, y: y[0] - 0.1 * torch.cos(t),
            newton=None if method in ("dopri5", "rosw-ra34pw2", "rosw-rodas3") else TIGHT,
        )
        assert solution.event is not None
        assert 1.85 < solution.event.t < 2.6
        y = solution.interpolate(t[1:4]) if afterwards else solution.y[1:]
        assert isinstance(y, Tensor)
        return (y * torch.tensor([[0.3, 1.7], [0.5, -0.2], [1.1, 0.6]])).sum()

    groups = {"y0": [y0], "t": [t], "parameters": [func.k]}
    gradients = torch.autograd.grad(loss(), [y0, t, func.k])
    for (name, group), gradient in zip(groups.items(), gradients, strict=True):
        error, rate = compare(lambda: loss().detach(), group, [gradient], 1e-4)
        assert error <= 1e-6, f"{method}: {name} off by {error:.1e}; look at moved_with_end in events.py"
        assert rate >= 1.9, f"{method}: {name} has Taylor rate {rate:.2f}"


def fall(t: Tensor, y: Tensor) -> Tensor:
    return torch.cat([y[..., 1:], -9.81 + 0 * y[..., :1]], dim=-1)


@pytest.mark.parametrize("method", ["bdf", "rosw-rodas3", "dopri5", "arkimex-4"])
@pytest.mark.parametrize("outputs", ["steps", "interpolate"])
def test_an_event_is_found(method: str, outputs: str) -> None:
    y0 = torch.tensor([10.0, 0.0], dtype=torch.float64)
    solution = solve(
        fall, y0, times(0, 0.5, 1, 5), method=method, event=lambda t, y: y[0], rtol=1e-8, outputs=outputs
    )
    assert solution.event is not None
    assert abs(solution.event.t.item() - math.sqrt(20 / 9.81)) < 1e-6
    assert abs(solution.event.y[0].item()) < 1e-12
    assert len(solution.t) == 3


def test_an_event_that_never_comes_and_wrong_ones() -> None:
    solution = solve(Pendulum(), Y0, OUTPUTS, event=lambda t, y: y[0] + 100)
    assert solution.event is None
    assert solution.status is Status.SUCCESS
    with pytest.raises(TypeError, match="one element"):
        solve(Pendulum(), Y0, OUTPUTS, event=lambda t, y: y)
    with pytest.raises(TypeError, match="event must be callable"):
        solve(Pendulum(), Y0, OUTPUTS, event=1.0)


@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2", "dirk-es213sal", "dopri5"])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("clock", ["goes on", "begins anew"])
def test_a_ball_bounces(method: str, precision, clock: str) -> None:
    """Each run starts from where the event of the one before was found, above the floor or below by rounding:
    that is no root of its own. The time between bounces falls by the factor of the speed."""
    y, begin, gaps = torch.tensor([1.0, 0.0], dtype=precision), 0.0, []
    for _ in range(9):
        t = torch.tensor([begin, begin + 3], dtype=precision)
        event = solve(fall, y, t, method=method, event=lambda t, y: y[0], rtol=1e-5).event
        assert event is not None, f"after {gaps} none was found: look at EventFinder"
        gaps.append(event.t.item() - begin)
        begin = event.t.item() if clock == "goes on" else 0.0
        y = torch.stack([event.y[0], -0.9 * event.y[1]])
    expected = [math.sqrt(2 / 9.81) * (1 if n == 0 else 2 * 0.9**n) for n in range(9)]
    assert gaps == pytest.approx(expected, rel=1e-3), "look at _starts_from_root in events.py"


@pytest.mark.parametrize("start", [1e-9, -1e-9])
def test_a_root_next_to_the_start_counts(start: float) -> None:
    """It is a million times further away than rounding."""
    y0 = torch.tensor([start], dtype=torch.float64)
    slope = -math.copysign(1, start)
    event = solve(lambda t, y: slope + 0 * y, y0, times(1, 2), event=lambda t, y: y[0]).event
    assert event is not None
    assert abs(event.t.item() - 1 - 1e-9) < 1e-15


@pytest.mark.parametrize("method", ["beuler", "cn", "bdf2", "rosw-ra34pw2", "dirk-es213sal", "rk4"])
def test_an_event_within_rounding_of_the_end_of_a_step(method: str) -> None:
    """Taken again, a step ends on the other side of the root, or exactly on it."""
    for rate in (0.7, *(n / 37 for n in range(4, 37))):
        for level in (rate * 0.1, rate / 10):
            event = solve(
                lambda t, y, rate=rate: rate + 0 * y,
                times(0),
                times(0, 0.1, 5),
                method=method,
                steps=Grid(1),
                event=lambda t, y, level=level: y[0] - level,
            ).event
            assert event is not None
            # As exactly as times of the longer step, the second, are found.
            assert abs(event.t.item() - 0.1) <= 4 * math.ulp(5), "look at how EventFinder brackets the root"


def test_an_event_that_is_nan_has_no_sign() -> None:
    def grow(t: Tensor, y: Tensor) -> Tensor:
        return 1 + 0 * y

    def gap(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((y[0] - 0.5).abs() < 0.01, math.nan, 0.5 - y[0])

    arguments = {"method": "cn", "steps": Grid(9)}
    late = solve(grow, times(0), times(0, 1), event=lambda t, y: torch.sqrt(y[0] - 0.5) - 0.5, **arguments)
    assert late.event is not None
    assert abs(late.event.t.item() - 0.75) < 1e-14
    with pytest.raises(ValueError, match=r"event is NaN at t = 0\.5"):
        solve(grow, times(0), times(0, 1), event=gap, **arguments)


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
        (torch.zeros(2, 2), "t must be one-dimensional with at least one time"),
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


@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2", "arkimex-3", "dopri5"])
@pytest.mark.parametrize(
    "event",
    [
        lambda t, y: y[0] > 0.5,
        lambda t, y: (y[0] > 0.5).int() * 2 - 1,
        lambda t, y: torch.complex(y[0], y[1]),
    ],
    ids=["condition", "integer", "complex"],
)
def test_events_that_are_no_real_numbers(method: str, event) -> None:
    """A condition never changes its sign, and has no root: refused before any step."""
    calls = 0

    def func(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -y

    solve(func, Y0, times(0, 1e-9), method=method, steps=Grid(1))
    of_a_step, calls = calls, 0
    for more in ({}, {"breakpoints": [0.5]}):
        with pytest.raises(TypeError, match=r"event must return a real number .*y\[0\] - 0\.5"):
            solve(func, Y0, times(0, 1), method=method, event=event, **more)
        assert calls <= of_a_step, "look at checked in run/events.py"
        calls = 0
