"""Functions are called between the ends of a solve only, and on one side of a breakpoint; gradients too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gradients import compare
from methods import BEYOND_THE_STEP, WHOLE, WITH_CHECKED_SPANS
from small_problems import times
from torch import Tensor

from stiffml import METHODS, Adaptive, Grid, Newton, Split, sensitivities, solve
from stiffml.methods.tableaux import ROSENBROCK
from stiffml.system.function.span import Span

TIGHT = Newton(rtol=1e-13, atol=1e-16)


class Seen:
    """Notes the times that a function is called at, those of native batches included."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def at(self, t: Tensor) -> None:
        if not torch._C._functorch.is_batchedtensor(t):
            low, high = t.detach().min().item(), t.detach().max().item()
            if low == low:  # a trial with NaN asks for no time
                self.low, self.high = min(self.low, low), max(self.high, high)

    def require_within(self, t: Tensor, where: str) -> None:
        first, last = sorted((t[0].item(), t[-1].item()))
        assert first <= self.low, f"{where}: func called at {self.low!r}, before {first!r}"
        assert self.high <= last, f"{where}: func called at {self.high!r}, after {last!r}"


def quotient(seen: Seen) -> Callable[[Tensor, Tensor], Tensor]:
    """y' = y/t, which does not exist everywhere: y is proportional to t."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        seen.at(t)
        return y / t

    return func


def forms(func) -> dict[str, object]:
    """The function in the ways that methods take it."""

    def nothing(t: Tensor, y: Tensor) -> Tensor:
        return 0 * y

    splits = {"implicit": Split(func, nothing), "explicit": Split(nothing, func)}
    return {"whole": func, **splits, "linear": Split(nothing, func, linear=True)}


FORMS = [
    pytest.param(name, form, id=f"{name}-{form}")
    for name, method in METHODS.items()
    for form in (
        ["linear"]
        if method.exponential
        else ["whole"] * method.whole + ["implicit", "explicit"] * method.split
    )
]


def settings(name: str) -> dict[str, object]:
    return {"method": name, **({"newton": TIGHT} if METHODS[name].newton else {})}


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_func_is_called_within_the_span(name: str, form: str) -> None:
    for around in (times(1, 1.7, 3), times(3, 1.7, 1), times(0.1, 0.2, 0.7)):
        seen, t = Seen(), around.clone().requires_grad_()
        y0 = times(1).requires_grad_()
        func = forms(quotient(seen))[form]
        y = solve(func, y0, t, method=name, steps=Grid(4)).y
        found = torch.autograd.grad(y[-1].sum(), [y0, t])
        seen.require_within(around, f"{name} {around.tolist()}: look at system/function/span.py")
        exact = (around[-1] / around[0]).item()
        assert y[-1].item() == pytest.approx(exact, rel=0.3)  # first-order methods on four steps
        assert found[0].item() == pytest.approx(y[-1].item(), rel=1e-6), "the solve is linear in y0"


@pytest.mark.parametrize("name", WHOLE)
def test_other_precisions_and_modes(name: str) -> None:
    """float32 between float64 times, adaptive steps, outputs between steps, breakpoints, an event."""
    method, seen = METHODS[name], Seen()
    func, around = quotient(seen), times(0.1, 0.3)
    assert around[1].float() > around[1], "0.3 rounds up, out of the span"
    solve(func, torch.tensor([0.1]), around, method=name, steps=Grid(3))
    if method.adaptive:
        solve(func, times(0.1), around, method=name, rtol=1e-3)
        solve(func, times(0.1), around.flip(0), method=name, rtol=1e-3)
    more = {"steps": Grid(2), "method": name, "breakpoints": [0.15, 0.25], "outputs": "interpolate"}
    ended = solve(func, times(0.1), around, event=lambda t, y: seen.at(t) or y[0] - 0.29, **more)
    assert ended.event is not None
    ended.interpolate(times(0.1, 0.17, 0.26))
    seen.require_within(around, f"{name}: look at system/function/span.py")


def test_the_table_says_whose_stages_lie_within_their_step() -> None:
    for name, method in METHODS.items():
        if hasattr(method, "table"):
            c = [part.c for part in (method.table.implicit, method.table.explicit) if part is not None]
        elif name.startswith("rosw"):
            c = [ROSENBROCK[method.name].a_sum]
        else:
            c = [np.array([0.0, 1.0])]
        abscissae = np.concatenate(c)
        within = abscissae.min() > -1e-9 and abscissae.max() < 1 + 1e-9
        assert method.within_step == within, f"{name}: abscissae {abscissae}"
    assert "dirk-es648sa" in BEYOND_THE_STEP
    assert "rosw-r3prl2" in BEYOND_THE_STEP
    assert "rosw-rodaspr" not in BEYOND_THE_STEP, "beyond by rounding only"


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_the_side_of_a_jump(name: str, form: str) -> None:
    """y' = −1, then 1: exact on both sides, so that y ends where it began."""

    def jump(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t <= 0, -1.0, 1.0) + 0 * y

    for t in (times(-1, 1), times(1, -1)):
        y = solve(forms(jump)[form], times(0), t, method=name, steps=Grid(2), breakpoints=[0.0]).y
        assert abs(y[-1].item()) <= 1e-13, f"{name}: y(1) = {y[-1].item():.2g}; see _Within in breakpoints.py"


class Forced(torch.nn.Module):
    """y' = −k y² + sin 3t, and 1 more from the breakpoint on; an implicit and an explicit part."""

    def __init__(self) -> None:
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
        self.at = times(0.4)

    def decay(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * y**2 * (1 + 0.3 * torch.cos(2 * t))

    def force(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(3 * t) + (t >= self.at.detach()) + 0 * y

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.decay(t, y) + self.force(t, y)


@pytest.mark.parametrize(("backwards", "substeps"), [(False, 1), (True, 3)])
@pytest.mark.parametrize("name", WITH_CHECKED_SPANS)
def test_gradients_at_the_ends_and_at_a_breakpoint(name: str, backwards: bool, substeps: int) -> None:
    """What is taken at an end in place of a stage moves with that end, be it of t or a breakpoint."""
    func, y0 = Forced(), times(0.8, 1.1)
    t = times(1, 0.1) if backwards else times(0.1, 1)
    at = func.at

    def loss() -> Tensor:
        arguments = {"steps": Grid(substeps), "breakpoints": at, **settings(name)}
        return (solve(func, y0, t, **arguments).y ** 2).sum()

    inputs = [y0, t, at, func.k]
    for tensor in inputs:
        tensor.requires_grad_()
    found = torch.autograd.grad(loss(), inputs)
    for tensor in inputs:
        tensor.requires_grad_(tensor is func.k)
    # y0 and k are right with wrong times, so two comparisons find what is wrong.
    for what, which in (("t or the breakpoint", slice(1, 3)), ("y0 or k", slice(0, None, 3))):
        error, _ = compare(lambda: loss().detach(), inputs[which], found[which], 3e-4)
        assert error <= 1e-7, f"{name}: gradient of {what} off by {error:.1e}; look at gradients/times.py"


@pytest.mark.parametrize("name", ["dirk-es648sa", "dirk-s7511sal"])
def test_more_derivatives_through_extrapolated_stages(name: str) -> None:
    """Forward sensitivities, second derivatives, and the time of an event in the last step."""
    func, y0, t = Forced(), times(0.8, 1.1), times(0.1, 1)
    func.at = times(-1)  # no jump
    arguments = {"steps": Grid(2), **settings(name)}

    def loss(k: Tensor) -> Tensor:
        def moved(t: Tensor, y: Tensor) -> Tensor:
            return -k * y**2 * (1 + 0.3 * torch.cos(2 * t)) + func.force(t, y)

        return (solve(moved, y0, t, params=[k], **arguments).y[-1] ** 2).sum()

    k = func.k.detach().clone()

    def grad(at: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(loss, at)

    _, second = torch.autograd.functional.vhp(loss, k, torch.ones_like(k))
    e = 1e-5
    difference = (grad(k + e) - grad(k - e)) / (2 * e)
    assert second.item() == pytest.approx(difference.item(), rel=1e-7), "look at system/function/span.py"

    forward = sensitivities(func, y0, t, **arguments)
    wrt = (2 * forward.solution.y[-1] * forward.wrt["k"][-1]).sum()
    assert wrt.item() == pytest.approx(grad(k).item(), rel=1e-9)

    def ended(level: Tensor, end: Tensor) -> Tensor:
        span = torch.stack([t[0], end])
        solution = solve(func, y0, span, event=lambda t, y: t + 0.1 * y[0] - level, **arguments)
        assert solution.event is not None
        return solution.event.t + (solution.event.y**2).sum()

    inputs = [times(1.02)[0], times(1.0)[0]]
    for tensor in inputs:
        tensor.requires_grad_()
    value = ended(*inputs)
    found = torch.autograd.grad(value, inputs)
    for tensor in inputs:
        tensor.requires_grad_(False)
    for tensor, gradient, what in zip(inputs, found, ("the event", "t[-1]"), strict=True):
        error, _ = compare(lambda: ended(*inputs).detach(), [tensor], [gradient], 1e-3)
        assert error <= 1e-6, f"{name}: {what} moves the event otherwise; look at end_time_tangents"


def test_extrapolation_is_exact_for_polynomials() -> None:
    span, s = Span(1.0, 3.0, degree=5), times(0.9, 2.9, 3.04, 3.0 + 4e-16, 3.6, 9)
    found = span.expanded(s)
    assert found is not None
    assert ((found.times >= 1) & (found.times <= 3)).all()
    assert torch.bincount(found.rows).tolist() == [6, 1, 6, 1, 6, 6]

    def sums(power: int) -> Tensor:
        weighted = found.weights * found.times**power
        return torch.zeros(6, dtype=torch.float64).index_add(0, found.rows, weighted)

    # Where the span has room for five times the distance it is taken as it is; else drawn nearer.
    meant = sums(1)
    assert torch.allclose(meant[:4], s[:4], atol=1e-9)
    assert 3.3 < meant[4] < 3.4
    assert meant[5].item() == pytest.approx(3.4)
    for power in (0, 2, 3, 4, 5):
        assert torch.allclose(sums(power), meant**power, rtol=1e-10)
    assert Span(1.0, 3.0).trim(np.nextafter(3.0, 4)) == 3.0
    assert span.expanded(times(1, 2, 3)) is None


@pytest.mark.parametrize("end", [0, 1])
def test_extrapolation_is_smooth(end: int) -> None:
    """Also at the ends, on which stages two steps behind lie where steps are equal, and as room runs out."""
    ends, out = Span(1.0, 3.0).ends(), (-1.0, 1.0)[end]
    s = ends[end] + out * times(-1e-3, -1e-15, 0, 1e-15, 1e-3, 0.4, 2 / 3, 5)

    def values(s: Tensor, ends: Tensor) -> Tensor:
        found = Span(*ends.tolist(), degree=3).expanded(s, ends)
        assert found is not None
        return torch.zeros_like(s).index_add(0, found.rows, found.weights * torch.exp(found.times))

    assert torch.allclose(values(s, ends)[:5], torch.exp(s[:5]), rtol=1e-10)
    inputs = s.clone().requires_grad_(), ends.clone().requires_grad_()
    found = torch.autograd.grad(values(*inputs).sum(), inputs)
    assert torch.allclose(found[0][:5], torch.exp(s[:5]), rtol=1e-7), "at the end the derivative is f's there"
    e = 1e-4
    for k, gradient in enumerate(found):
        for i, step in enumerate(e * torch.eye(len(gradient), dtype=torch.float64)):
            up, down = ((s + m * step, ends) if k == 0 else (s, ends + m * step) for m in (1, -1))
            difference = (values(*up) - values(*down)).sum().item() / (2 * e)
            assert gradient[i].item() == pytest.approx(difference, rel=1e-6, abs=1e-6)


def test_adaptive_steps_with_extrapolated_stages() -> None:
    """As accurate as before where the function depends on time."""

    def forced(t: Tensor, y: Tensor) -> Tensor:
        return -20 * (y - torch.sin(3 * t)) + 3 * torch.cos(3 * t)

    for name in BEYOND_THE_STEP:
        if METHODS[name].adaptive:
            y = solve(forced, times(0), times(0, 2), method=name, steps=Adaptive(), rtol=1e-6, atol=1e-8).y
            assert abs(y[-1].item() - np.sin(6)) <= 1e-4, f"{name}: look at system/function/span.py"
