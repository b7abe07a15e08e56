"""Terminal events: where they are, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from gradients import compare
from methods import ADAPTIVE, WITH_EVENTS
from pendulums import TIGHT, Y0, Pendulum
from small_problems import times
from torch import Tensor

from stiffml import METHODS, Grid, Solution, Split, Status, solve
from stiffml.run.drive import Drive

OUTPUTS = times(0.1, 0.6, 1.1, 3.1)


@pytest.mark.parametrize("method", WITH_EVENTS)
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


SECOND_ORDER, HIGHER_ORDERS = 1e-4, 1e-8
"""What the root may be off by: the higher ones are exact on a cubic, but for the start of BDF."""


@pytest.mark.parametrize(
    "method", [m for m in ADAPTIVE if METHODS[m].order > 1 and not METHODS[m].exponential]
)
def test_roots_of_a_cubic_far_steps_apart(method: str) -> None:
    """Steps of 10 end in stages near zero, which cut steps repeat: what is left there is rounding of the
    states that they begin with, not of themselves."""

    def cubic(t: Tensor, y: Tensor) -> Tensor:
        return (3 * t**2 + 12 * t - 4) * torch.ones_like(y)  # y = (t + 6)(t² − 4)

    func = cubic if METHODS[method].whole else Split(cubic, lambda t, y: torch.zeros_like(y))
    y0 = torch.tensor([-120.0], dtype=torch.float64)
    solution = solve(func, y0, times(-8, 4), method=method, event=lambda t, y: y[0])
    assert solution.event is not None
    off = abs(solution.event.t.item() / -6 - 1)
    bound = HIGHER_ORDERS if METHODS[method].order > 2 else SECOND_ORDER
    assert off < bound, f"{method}: the first root is {off:.1e} off; look at native/rounding.py"


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
def test_events_that_are_no_real_numbers(method: str, event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition never changes its sign, and has no root: refused before any step."""

    def step(drive: Drive, size: float) -> float:
        raise AssertionError("a step was taken; look at checked in run/events.py")

    monkeypatch.setattr(Drive, "_step", step)
    for more in ({}, {"breakpoints": [0.5]}):
        with pytest.raises(TypeError, match=r"event must return a real number .*y\[0\] - 0\.5"):
            solve(lambda t, y: -y, Y0, times(0, 1), method=method, event=event, **more)
