"""Events whose function has the same sign at both ends of a step, and the other one between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stiffml import METHODS, Adaptive, Grid, Status, odeint, solve
from stiffml.run.events import EventFinder

D = torch.float64
EXACT = [
    name
    for name, method in METHODS.items()
    if method.whole and method.order >= 3 and method.history == 1 and method.within_step
]
"""One-step methods that have a cubic of time alone right in one step, also where that is the whole solve."""


def cubic(t: Tensor, y: Tensor) -> Tensor:
    """y = (t + 6)(t² − 4)."""
    return (3 * t**2 + 12 * t - 4) * torch.ones_like(y)


@pytest.mark.parametrize("method", EXACT)
def test_two_roots_in_one_step(method: str) -> None:
    start = torch.tensor([-5.5], dtype=D)
    y0 = ((start + 6) * (start**2 - 4)).requires_grad_()
    t = torch.tensor([-5.5, 4.0], dtype=D)
    solution = solve(cubic, y0, t, method=method, steps=Grid(1), event=lambda t, y: y[0])
    assert solution.event is not None, "the roots at -2 and 2 were stepped over; look at EventFinder._inside"
    assert solution.event.t.item() == pytest.approx(-2.0, rel=1e-9)
    (gradient,) = torch.autograd.grad(solution.event.t, y0)
    assert gradient.item() == pytest.approx(1 / 16, rel=1e-6), "dt/dy0 = -1/y'(-2)"


@pytest.mark.parametrize("method", ["bdf", "rosw-rodaspr2", "arkimex-4", "dirk-s659a", "bosh3", "dopri5"])
def test_all_roots_from_one_to_the_next(method: str) -> None:
    found: list[float] = []
    t0, y = torch.tensor(-8.0, dtype=D), torch.tensor([-120.0], dtype=D)
    end = torch.tensor(4.0, dtype=D)
    while len(found) < 4:
        solution = solve(cubic, y, torch.stack([t0, end]), method=method, event=lambda t, y: y[0])
        if solution.event is None:
            break
        t0, y = solution.event.t, solution.event.y
        found.append(t0.item())
    assert found == pytest.approx([-6.0, -2.0, 2.0], rel=1e-5)


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-rodas3", "arkimex-4", "dopri5"])
@pytest.mark.parametrize("steps", [Grid(1), Adaptive()], ids=str)
def test_what_only_comes_near_is_no_root(method: str, steps: Grid | Adaptive) -> None:
    """y = (t − 1)² + 0.1, and the states are those of a solve without an event."""
    if isinstance(steps, Adaptive) and not METHODS[method].adaptive:
        pytest.skip("no error estimate")
    y0, t = torch.tensor([1.1], dtype=D), torch.linspace(0, 2, 3, dtype=D)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return (2 * (t - 1)) * torch.ones_like(y)

    solution = solve(func, y0, t, method=method, steps=steps, event=lambda t, y: y[0])
    assert solution.status is Status.SUCCESS
    assert solution.event is None
    assert torch.equal(solution.y, odeint(func, y0, t, method=method, steps=steps))


@pytest.mark.parametrize("method", ["bdf2", "bdf3", "cn", "dirk-s212"])
def test_a_step_that_was_looked_into_stays_as_it_was(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cubic may promise a root that the method does not have."""
    monkeypatch.setattr(EventFinder, "_bracket", lambda finder, *others: (0.0, 0.4))
    t, found = torch.tensor([0.0, 1.0, 2.0], dtype=D), []
    for event in (lambda t, y: 1 + 0 * y[0], None):
        y0 = torch.tensor([1.0], dtype=D, requires_grad=True)
        y = solve(lambda t, y: -y * torch.cos(y), y0, t, method=method, steps=Grid(2), event=event).y
        found.append((y.detach(), torch.autograd.grad(y[-1].sum(), y0)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].item() == pytest.approx(found[1][1].item(), rel=1e-12), "look at EventFinder.reached"


def test_algebraic_equations() -> None:
    """Where slopes are not known, the event is looked at along a straight line."""
    mass = torch.tensor([1.0, 0.0], dtype=D)
    y0, t = torch.tensor([1.0, 1.0], dtype=D), torch.tensor([0.0, 1.0], dtype=D)
    solution = solve(
        lambda t, y: torch.stack([-0.1 * y[..., 0], y[..., 0] - y[..., 1]], -1),
        y0,
        t,
        method="cn",
        mass=mass,
        steps=Grid(1),
        event=lambda t, y: (t - 0.5) ** 2 - 0.04 + 0 * y[1],
    )
    assert solution.event is not None
    assert solution.event.t.item() == pytest.approx(0.3, rel=1e-9)
