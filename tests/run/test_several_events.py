"""Several events: directions, the first of them, those recorded on the way, spans without end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gradients import compare
from methods import EVERY_KIND
from pendulums import TIGHT, Y0, Pendulum
from small_problems import decay, times
from torch import Tensor

from stiffml import (
    Adaptive,
    Crossing,
    Discrete,
    Fixed,
    Grid,
    KeptSteps,
    Recorded,
    Solution,
    SolveError,
    Status,
    solve,
)

D = torch.float64


def turning(t: Tensor, y: Tensor) -> Tensor:
    """y = (sin t, cos t)"""
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


def fall(t: Tensor, y: Tensor) -> Tensor:
    return torch.cat([y[..., 1:], -9.81 + 0 * y[..., :1]], dim=-1)


START = times(0, 1)
PRECISE = {"rtol": 1e-9, "atol": 1e-11}


def level(t: Tensor, y: Tensor) -> Tensor:
    return y[0] - 0.5


@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2", "arkimex-3", "dopri5"])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("outputs", ["steps", "interpolate"])
def test_all_are_recorded(method: str, direction: int, outputs: str) -> None:
    """sin t = 1/2 at π/6, 5π/6, …; falling ones are every other, in the direction of the solve."""
    watched = [Crossing(level, which, terminal=False) for which in ("both", "rising", "falling")]
    t = direction * times(0, 7, 20)
    tolerances = {"rtol": 1e-5, "atol": 1e-7} if method in ("rosw-ra34pw2", "arkimex-3") else PRECISE
    solution = solve(turning, START, t, method=method, event=watched, outputs=outputs, **tolerances)
    assert solution.event is None
    assert solution.status is Status.SUCCESS
    whole = 2 * np.pi * np.arange(-5, 5)
    expected = np.sort(np.concatenate([whole + np.pi / 6, whole + 5 * np.pi / 6]) * direction)
    expected = direction * expected[(expected > 0) & (expected < 20)]
    rising = np.cos(expected) * direction > 0
    for events, wanted in zip(solution.events, (expected, expected[rising], expected[~rising]), strict=True):
        assert events.t.numpy() == pytest.approx(wanted, abs=2e-3)
        assert events.y[:, 0].numpy() == pytest.approx(np.full(len(wanted), 0.5), abs=1e-12)
        assert torch.allclose(events.y, solution.interpolate(events.t), atol=1e-10)


@pytest.mark.parametrize(
    ("which", "roots"), [("both", [0.21, 0.3, 0.55]), ("rising", [0.21, 0.55]), ("falling", [0.3])]
)
def test_several_roots_within_a_step(which: str, roots: list[float]) -> None:
    """y = (t − 0.21)(t − 0.3)(t − 0.55), exact in three steps, of which the first has two of the roots."""

    def slope(t: Tensor, y: Tensor) -> Tensor:
        return (3 * t**2 - 2.12 * t + 0.3435) * torch.ones_like(y)

    start, exact = times(-0.21 * 0.3 * 0.55), {"method": "rk4", "steps": Grid(3)}
    passed = Crossing(lambda t, y: y[0], which, terminal=False)
    found = solve(slope, start, times(0, 1), event=[passed], **exact).events[0].t
    assert found.tolist() == pytest.approx(roots, abs=1e-12)
    ended = solve(slope, start, times(0, 1), event=Crossing(lambda t, y: y[0], which), **exact)
    assert ended.event is not None, "look at _bracket in run/events.py"
    assert ended.event.t.item() == pytest.approx(roots[0], abs=1e-12)


@pytest.mark.parametrize("method", ["bdf", "dopri5"])
def test_the_first_of_several_ends_a_solve(method: str) -> None:
    """Also where several functions have roots within one step."""
    functions = [lambda t, y, at=at: y[0] - at for at in (0.9, 0.2, 0.8, 0.7)]
    asked = [Crossing(functions[0]), Crossing(functions[1], "falling"), Crossing(functions[2]), functions[3]]
    for steps in (Adaptive(), Adaptive(initial=1.4, minimum=1e-3)):
        tolerances = PRECISE if steps == Adaptive() else {"rtol": 1e-2, "atol": 1e-2}
        solution = solve(turning, START, times(0, 9), event=asked, method=method, steps=steps, **tolerances)
        assert solution.event is not None
        assert solution.event.number == 3
        assert solution.event.y[0].item() == pytest.approx(0.7, abs=1e-12)
        assert [len(events.t) for events in solution.events] == [0, 0, 0, 1]
        assert solution.events[3].t[0] is not None
        assert solution.step_times[-1] == solution.event.t
        assert (solution.event.t - math.asin(0.7)).abs() < (1e-6 if steps == Adaptive() else 0.1)
        again = solve(
            turning, START, times(0, 9), event=functions[3], method=method, steps=steps, **tolerances
        )
        assert torch.equal(again.event.t, solution.event.t), "other functions must not change the event"
        assert again.stats.accepted == solution.stats.accepted


@pytest.mark.parametrize(
    ("method", "checkpoints"),
    [
        ("cn", "stages"),
        ("bdf2", 4),
        ("rosw-ra34pw2", "stages"),
        ("dirk-es213sal", "solutions"),
        ("dopri5", "stages"),
    ],
)
def test_gradients_of_recorded_events(method: str, checkpoints) -> None:
    """Also of one in the last step, which another event has cut short."""
    func, y0 = Pendulum(), Y0.clone().requires_grad_()
    t, height = times(0, 1.5, 6).requires_grad_(), times(0.1).requires_grad_()
    watched = [
        Crossing(lambda t, y: y[0] - height[0] * torch.cos(t), terminal=False),
        Crossing(lambda t, y: y[1] + 0.05, terminal=False),
        Crossing(lambda t, y: t - 4.8 + y[0]),
    ]

    def solved() -> Solution:
        newton = None if method in ("dopri5", "rosw-ra34pw2") else TIGHT
        adjoint = Discrete(checkpoints)
        return solve(
            func,
            y0,
            t,
            method=method,
            steps=Grid(14),
            newton=newton,
            adjoint=adjoint,
            event=watched,
            params=[height],
        )

    counts = [len(events.t) for events in solved().events]
    assert counts[0] >= 1
    assert counts[1] >= 1
    assert counts[2] == 1

    def loss() -> Tensor:
        parts = [2 * events.t.sum() + (events.y * times(0.7, -1.3)).sum() for events in solved().events]
        return torch.stack(parts).sum()

    groups = {"y0": [y0], "t": [t], "parameters": [func.k], "event": [height]}
    gradients = torch.autograd.grad(loss(), [p for group in groups.values() for p in group])
    for (name, group), gradient in zip(groups.items(), gradients, strict=True):
        error, rate = compare(lambda: loss().detach(), group, [gradient], 1e-4)
        assert error <= 1e-6, f"{name} off by {error:.1e}; look at interface/events.py"
        assert rate >= 1.9, f"{name} has Taylor rate {rate:.2f}"


@pytest.mark.parametrize("method", EVERY_KIND)
def test_a_span_without_end(method: str) -> None:
    height = torch.tensor(10.0, dtype=D, requires_grad=True)
    rtol = 1e-5 if method == "cn" else 1e-8
    solution = solve(
        fall,
        torch.stack([height, 0 * height]),
        times(0, 0.5, math.inf),
        event=lambda t, y: y[0],
        method=method,
        rtol=rtol,
    )
    assert solution.event is not None
    assert solution.event.t.item() == pytest.approx(math.sqrt(20 / 9.81), rel=1e-6)
    (gradient,) = torch.autograd.grad(solution.event.t, height)
    assert gradient.item() == pytest.approx(0.5 * math.sqrt(2 / 98.1), rel=1e-6)
    assert solution.t.tolist() == [0, 0.5]


def test_a_ball_bounces_without_end() -> None:
    """Each run starts from where the one before was found to end."""
    y, begin, gaps = times(1, 0), 0.0, []
    for _ in range(7):
        event = solve(fall, y, times(begin, math.inf), event=lambda t, y: y[0]).event
        assert event is not None
        gaps.append(event.t.item() - begin)
        begin = event.t.item()
        y = torch.stack([event.y[0], -0.9 * event.y[1]])
    expected = [math.sqrt(2 / 9.81) * (1 if n == 0 else 2 * 0.9**n) for n in range(7)]
    assert gaps == pytest.approx(expected, rel=1e-4)


def test_a_span_without_end_that_no_event_ends() -> None:
    event = {"event": lambda t, y: y[0] + 1}
    with pytest.raises(SolveError, match="no event came, and steps have grown without limit") as found:
        solve(decay, times(1), times(0, 1, math.inf), **event)
    assert found.value.status is Status.NO_EVENT
    assert found.value.solution.t.tolist() == [0, 1]
    backwards = solve(lambda t, y: y, times(1), times(0, -math.inf), throw=False, **event)
    assert (backwards.status, backwards.t.tolist()) == (Status.NO_EVENT, [0])
    limited = solve(
        turning,
        START,
        times(0, math.inf),
        steps=Adaptive(max_steps=50),
        throw=False,
        **{"event": lambda t, y: y[0] + 2},
    )
    assert limited.status is Status.MAX_STEPS
    with pytest.raises(ValueError, match="position 1: an end at inf needs a terminal event"):
        solve(decay, times(1), times(0, math.inf))
    with pytest.raises(ValueError, match="position 1: an end at -inf needs a terminal event"):
        solve(decay, times(1), times(0, -math.inf), event=Crossing(event["event"], terminal=False))
    with pytest.raises(ValueError, match="steps: to an infinite end only Adaptive"):
        solve(decay, times(1), times(0, math.inf), method="cn", steps=Fixed(0.1), **event)


def test_recorded_events_of_other_ways_to_solve() -> None:
    """All steps at once, in C, kept steps, over breakpoints and jumps, of a tuple, of a failed solve."""
    passed = Crossing(level, terminal=False)
    t, roots = times(0, 3), [math.pi / 6, 5 * math.pi / 6]
    for more in (
        {"steps": Grid(200), "method": "cn"},
        {"compile": True, **PRECISE},
        {"steps": KeptSteps(), **PRECISE},
        {"breakpoints": [roots[0] - 0.01, 1.0], **PRECISE},
        {"jumps": [(1.0, lambda t, y: y)], **PRECISE},
    ):
        solution = solve(turning, START, t, event=passed, **more)
        assert solution.events[0].t.tolist() == pytest.approx(roots, abs=1e-3)
        assert solution.stats.at_once + solution.stats.in_c > 0 or "method" not in more
    pair = solve(
        lambda t, y: (y[1], -y[0]),
        (times(0), times(1)),
        t,
        event=Crossing(lambda t, y: y[0] - 0.5, terminal=False),
    )
    assert [part.shape for part in pair.events[0].y] == [(2, 1), (2, 1)]
    none = solve(turning, START, t, event=Crossing(lambda t, y: y[0] + 5, terminal=False))
    assert none.events[0].t.shape == (0,)
    assert none.events[0].y.shape == (0, 2)
    over = solve(turning, START, t, event=passed, jumps=[(0.2, lambda t, y: y + 1)])
    assert len(over.events[0].t) == 1, "what a jump passes over is no event"
    failed = solve(turning, START, times(0, 300), event=passed, steps=Adaptive(max_steps=90), throw=False)
    assert failed.status is Status.MAX_STEPS
    assert failed.events[0].t[0].item() == pytest.approx(roots[0], abs=1e-3)
    assert isinstance(failed.steps, Recorded)


def test_events_that_are_wrong() -> None:
    with pytest.raises(TypeError, match=r"event must be callable .* not 1.0 at position 1"):
        solve(decay, times(1), times(0, 1), event=[level, 1.0])
    with pytest.raises(ValueError, match="Crossing: direction must be one of both, rising, falling"):
        Crossing(level, "up")
    with pytest.raises(TypeError, match=r"event must return a real number"):
        solve(decay, times(1), times(0, 1), event=Crossing(lambda t, y: y[0] > 0, terminal=False))
    with pytest.raises(ValueError, match=r"^event: .*times of its own"):
        solve(decay, times(1).expand(2, 1), times(0, 1).expand(2, 2), batch_dims=1, event=[level])
    with pytest.raises(ValueError, match="event: KeptSteps"):
        solve(decay, times(1), times(0, 1), steps=KeptSteps(), event=level)
