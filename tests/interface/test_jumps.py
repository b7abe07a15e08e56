"""Jumps of the state, as doses are: values against closed forms, gradients, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from gradients import compare
from methods import EVERY_KIND
from pendulums import TIGHT, Y0, Pendulum
from small_problems import decay, times
from torch import Tensor

import stiffml
from stiffml import METHODS, Adaptive, Grid, KeptSteps, Status, solve

D = torch.float64
FINE = {"rtol": 1e-9, "atol": 1e-11}


def doses(t: Tensor, k: Tensor, dose: Tensor, when: Tensor) -> Tensor:
    """The solution of y' = −k y from 2, to which ``dose`` is added at each of ``when``; there, after it."""
    since = (t[:, None] - when).clamp(min=0)
    given = torch.where(t[:, None] >= when, dose * torch.exp(-k * since), torch.zeros_like(since))
    return 2 * torch.exp(-k * (t - t[0])) + given.sum(1)


@pytest.mark.parametrize("method", [m for m in EVERY_KIND if m != "cn"])
@pytest.mark.parametrize("outputs", ["steps", "interpolate"])
def test_doses(method: str, outputs: str) -> None:
    """Values and gradients by rate, dose and times of the doses; outputs between doses."""
    k, dose = torch.tensor([1.1, 0.7], dtype=D, requires_grad=True)
    when = times(1, 2, 4, 8).requires_grad_()
    t = torch.linspace(0, 10.5, 23, dtype=D)[[n for n in range(23) if n % 2 or n > 17]]
    jumps = [(one, lambda t, y: y + dose) for one in when]
    tight = {"rtol": 1e-7, "atol": 1e-9} if METHODS[method].order < 4 else FINE
    y = solve(
        lambda t, y: -k * y, times(2), t, jumps=jumps, method=method, outputs=outputs, params=[k], **tight
    ).y
    expected = doses(t, k, dose, when)
    assert (y[:, 0] - expected).abs().max() <= 2e-5
    weights = torch.linspace(1, 2, len(t), dtype=D)
    found, right = (torch.autograd.grad((v * weights).sum(), [k, dose, when]) for v in (y[:, 0], expected))
    for name, one, other in zip(("rate", "dose", "times"), found, right, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm(), f"gradient by {name}: {one} for {other}"


@pytest.mark.parametrize("method", ["cn", "bdf2", "rosw-ra34pw2", "dopri5"])
@pytest.mark.parametrize("state", ["tensor", "tuple"])
def test_gradients_are_those_of_the_steps(method: str, state: str) -> None:
    func, y0, t = Pendulum(), Y0.clone().requires_grad_(), times(0, 0.4, 1.0).requires_grad_()
    kick, when = times(0.3, -0.2).requires_grad_(), times(0.23, 0.61).requires_grad_()
    newton = None if method in ("dopri5", "rosw-ra34pw2") else TIGHT
    joined = (lambda t, y: func(t, torch.cat(y)).split(1)) if state == "tuple" else func

    def push(t: Tensor, y: stiffml.system.state.State):
        if isinstance(y, tuple):
            return y[0] + kick[0] * t, y[1] * kick[1]
        y[0] += kick[0] * t  # the state may be written to
        return torch.stack([y[0], y[1] * kick[1]])

    def loss() -> Tensor:
        start = tuple(y0.split(1)) if state == "tuple" else y0
        jumps = [(when[0], push), (when[1], push)]
        y = solve(
            joined, start, t, method=method, steps=Grid(3), jumps=jumps, newton=newton, params=[func.k]
        ).y
        y = torch.cat(y, dim=1) if isinstance(y, tuple) else y
        return (y * torch.linspace(0.3, 1.7, y.numel(), dtype=D).view_as(y)).sum()

    groups = {"y0": [y0], "t": [t], "parameters": [func.k], "kick": [kick], "times": [when]}
    found = torch.autograd.grad(loss(), [p for group in groups.values() for p in group])
    for (name, group), gradient in zip(groups.items(), found, strict=True):
        error, rate = compare(lambda: loss().detach(), group, [gradient], 1e-4)
        assert error <= 1e-6, f"{name} off by {error:.1e}; look at solve_in_sections and jumps.py"
        assert rate >= 1.9, f"{name} has Taylor rate {rate:.2f}"


@pytest.mark.parametrize("direction", [1, -1])
def test_where_jumps_may_be(direction: int) -> None:
    """At both ends, at an output, outside; in the order given. Outputs are after, interpolation is before."""
    t = direction * times(0, 1, 2)
    asked = [(2 * direction, 4), (0, 1), (direction, 3), (3 * direction, 9), (-direction, 9), (direction, 5)]
    calls: list[tuple[float, int]] = []

    def appended(number: int):
        def jump(t: Tensor, y: Tensor) -> Tensor:
            calls.append((t.item(), number))
            return 10 * y + number

        return jump

    jumps = [(at, appended(number)) for at, number in asked]
    solution = solve(lambda t, y: 0 * y, times(7), t, jumps=jumps, method="bdf2")
    assert calls == [(0, 1), (direction, 3), (direction, 5), (2 * direction, 4)]
    assert torch.allclose(solution.y[:, 0], times(71, 7135, 71354), rtol=1e-12)
    before = solution.interpolate(t)[:, 0]
    assert torch.allclose(before, times(71, 71, 7135), rtol=1e-12)
    assert solution.step_times.tolist().count(direction) == 2
    states = solution.step_states()[:, 0]
    at = solution.step_times.tolist().index(direction)
    assert torch.allclose(states[at : at + 2], times(71, 7135), rtol=1e-12)
    assert states[-1] == solution.y[-1, 0]
    only = solve(lambda t, y: 0 * y, times(7), t[:1], jumps=jumps)
    assert only.y.tolist() == [[71]]
    assert solve(decay, Y0, t, jumps=[]).success


@pytest.mark.parametrize("which", ["output", "end", "each other", "breakpoint"])
def test_gradients_of_times_that_coincide(which: str) -> None:
    """A jump moved to be slightly earlier, while what it coincides with stays: by the closed form."""
    tau = times(1.0).requires_grad_()
    other = times(1.0).requires_grad_()
    t = {"output": times(0, 1, 2), "end": times(0, 1)}.get(which, times(0, 2)).requires_grad_()
    jumps = [(tau, lambda t, y: 3 * y + 1)]
    if which == "each other":
        jumps.append((other, lambda t, y: y * y))
    at = other if which == "breakpoint" else None

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 1, 0.5, 2.0) * y if which == "breakpoint" else 0.5 * y

    y = solve(func, times(1), t, jumps=jumps, breakpoints=at, **FINE).y[:, 0]
    b = math.exp(0.5)
    a = 3 * b + 1
    assert y[1].item() == pytest.approx(
        {"output": a, "end": a, "breakpoint": a * math.exp(2)}.get(which, a * a * b)
    )
    inputs = [tau, t] if which in ("output", "end") else [tau, other]
    found = [torch.autograd.grad(row, inputs, retain_graph=True, allow_unused=True) for row in y[1:]]
    if which in ("output", "end"):
        # y(1) = (3 exp(τ/2) + 1) exp((1 − τ)/2)
        assert found[0][0].item() == pytest.approx(1.5 * b - a / 2, rel=1e-6)
        assert found[0][1][1].item() == pytest.approx(a / 2, rel=1e-6)
    if which == "output":
        assert found[1][0].item() == pytest.approx((1.5 * b - a / 2) * b, rel=1e-6)
        assert abs(found[1][1][1].item()) <= 1e-6
    if which == "each other":
        # ((3 exp(τ/2) + 1) exp((σ − τ)/2))² exp((2 − σ)/2)
        assert found[0][0].item() == pytest.approx(2 * a * b * (1.5 * b - a / 2), rel=1e-6)
        assert found[0][1].item() == pytest.approx(b * (a * a - a * a / 2), rel=1e-6)
    if which == "breakpoint":
        # The breakpoint σ first: (3 exp(σ/2 + 2 (τ − σ)) + 1) exp(2 (2 − τ))
        assert found[0][0].item() == pytest.approx((6 * b - 2 * a) * math.exp(2), rel=1e-5)
        assert found[0][1].item() == pytest.approx(-4.5 * b * math.exp(2), rel=1e-5)


def test_one_tensor_as_breakpoint_and_jump() -> None:
    """Both move together."""
    tau, t = times(1.0).requires_grad_(), times(0, 2)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < tau, 0.5, 2.0) * y

    y = solve(
        func, times(1), t, jumps=[(tau[0], lambda t, y: y + 1)], breakpoints=tau, params=[tau], **FINE
    ).y[-1, 0]
    assert y.item() == pytest.approx((math.exp(0.5) + 1) * math.exp(2), rel=1e-6)
    (found,) = torch.autograd.grad(y, tau)
    right = (0.5 * math.exp(0.5) - 2 * (math.exp(0.5) + 1)) * math.exp(2)
    assert found.item() == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("method", ["bdf3", "rosw-ra34pw2", "arkimex-3"])
def test_algebraic_variables_are_consistent_after_a_jump(method: str) -> None:
    """x' = −x, 0 = z − x²; also where the jump is at an end."""
    dose = torch.tensor(0.5, dtype=D, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[..., 0], y[..., 1] - y[..., 0] ** 2], dim=-1)

    def add(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[0] + dose, y[1]])

    for when in (0.0, 0.6, 1.0):
        y = solve(
            func,
            times(1, 1),
            times(0, 0.6, 1),
            mass=times(1, 0),
            jumps=[(when, add)],
            method=method,
            rtol=1e-7,
            atol=1e-9,
        ).y
        t = times(0, 0.6, 1)
        x = torch.exp(-t) + torch.where(t >= when, dose * torch.exp(when - t), torch.zeros_like(t))
        assert (y - torch.stack([x, x**2], 1)).abs().max() <= 1e-5
        (found,) = torch.autograd.grad(y.sum(), dose, retain_graph=True)
        (right,) = torch.autograd.grad((x + x**2).sum(), dose)
        assert found.item() == pytest.approx(right.item(), rel=1e-5)


def test_steps_can_be_kept_and_taken_again() -> None:
    when = times(0.5)
    arguments = {"jumps": [(when, lambda t, y: y + 1), (2.0, lambda t, y: 3 * y)]}
    t = times(0, 0.2, 0.5, 1.0, 2.0)
    first = solve(decay, Y0, t, rtol=1e-6, atol=1e-9, **arguments)
    again = solve(decay, Y0, t, steps=first.steps, **arguments)
    assert again.stats.accepted == first.stats.accepted
    assert (again.y - first.y).abs().max() <= 1e-5
    kept = KeptSteps(Adaptive())
    y0 = Y0.clone().requires_grad_()
    found = [solve(decay, y0, t, steps=kept, **arguments) for _ in range(2)]
    assert kept.renewals.total() == 1
    assert (found[1].y - found[0].y).abs().max() <= 1e-5
    with pytest.raises(ValueError, match=r"KeptSteps hold the steps of solves with jumps = \[0.5, 2.0\]"):
        solve(decay, y0, t, steps=kept, jumps=[(when + 0.1, lambda t, y: y + 1)])


def test_the_jacobian_of_all_outputs() -> None:
    k, dose, y0 = (times(v).requires_grad_() for v in (1.3, 0.4, 2.0))
    jumps = [(0.5, lambda t, y: y + dose * k), (1.0, lambda t, y: y * dose)]
    solution = solve(
        lambda t, y: -k * y, y0, times(0, 0.5, 0.8, 1), jumps=jumps, params=[k], rtol=1e-9, atol=1e-12
    )
    found = solution.jacobian([y0, k, dose])
    for one, p in zip(found, (y0, k, dose), strict=True):
        right = [torch.autograd.grad(row[0], p, retain_graph=True)[0] for row in solution.y]
        assert torch.allclose(one[:, 0], torch.stack(right), rtol=1e-9, atol=1e-12)


def test_events_and_callbacks_with_jumps() -> None:
    solution = solve(
        decay,
        times(1),
        times(0, 5),
        jumps=[(1.0, lambda t, y: y - 0.2), (3.0, lambda t, y: y + 9)],
        event=lambda t, y: y[0] - 0.1,
        **FINE,
    )
    assert solution.status is Status.EVENT
    at = 1 + math.log((math.exp(-1) - 0.2) / 0.1)
    assert solution.event.t.item() == pytest.approx(at, rel=1e-6)
    seen: list[float] = []
    stopped = solve(
        decay,
        times(1),
        times(0, 5),
        jumps=[(1.0, lambda t, y: y + 1)],
        callback=lambda t, y, h: seen.append(y.item()) or bool(t > 2),
    )
    assert stopped.status is Status.STOPPED
    assert len(seen) == stopped.stats.accepted
    assert max(seen) > 1, "after the jump"


@pytest.mark.parametrize(
    ("jumps", "error", "said"),
    [
        (3.0, TypeError, r"jumps must be a sequence of \(time, function\)"),
        ([3.0], TypeError, r"jumps must be .* not 3.0 at position 0"),
        ([(0.5, 1.0)], TypeError, r"jumps must be"),
        ([("x", decay)], TypeError, "jumps: the time at position 0"),
        ([(math.nan, decay)], ValueError, "jumps: the time at position 0 must be finite"),
        ([(times(1, 2), decay)], ValueError, "position 0 must be one number, not 2"),
        (
            [(0.5, lambda t, y: None)],
            TypeError,
            r"jumps\[0\] at t = 0.5: .*must return the new state, a tensor",
        ),
        (
            [(0.1, lambda t, y: y), (0.5, lambda t, y: y[:1])],
            ValueError,
            r"jumps\[1\] at t = 0.5.*shape of y, \(2,\)",
        ),
        ([(0.5, lambda t, y: y / 0)], ValueError, r"jumps\[0\] at t = 0.5.*returned inf at component \[0\]"),
    ],
)
def test_jumps_that_are_wrong(jumps, error, said: str) -> None:
    with pytest.raises(error, match=said):
        solve(decay, times(1, 2), times(0, 1), jumps=jumps)


def test_jumps_that_are_refused() -> None:
    jumps = [(0.5, lambda t, y: y + 1)]
    with pytest.raises(ValueError, match=r"^jumps: .*times of its own"):
        solve(decay, times(1).expand(2, 1), times(0, 1).expand(2, 2), batch_dims=1, jumps=jumps)
    with pytest.raises(NotImplementedError, match="not available with jumps"):
        stiffml.sensitivities(decay, times(1), times(0, 1), ["y0"], jumps=jumps)
    tau = times(0.5).requires_grad_()
    arguments = {"mass": times(2, 3), "jumps": [(tau, lambda t, y: y + 1)]}
    assert solve(decay, Y0, times(0, 0.6), **arguments).success
    with pytest.raises(ValueError, match=r"with a mass matrix, one at t = 0.5 must not be at the time"):
        solve(decay, Y0, times(0, 0.5, 1), **arguments)
