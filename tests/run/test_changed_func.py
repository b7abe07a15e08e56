"""What changed between the forward and the backward pass: noticed where the run began and where it ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from methods import CLASSES_WHOLE
from small_problems import times
from torch import Tensor, nn

from stiffml import METHODS, Discrete, Disk, Grid, ReplayError, odeint, solve

T = times(0, 0.5, 1)


class Drifting(nn.Module):
    """What ``late`` holds has no effect at the start."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.linspace(0.7, 1.5, size, dtype=torch.float64))
        self.register_buffer("late", torch.ones(size, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * y - self.late * t * y


def start(size: int = 2) -> Tensor:
    return torch.linspace(0.5, 1.0, size, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("checkpoints", ["stages", "solutions", 3, "disk"])
@pytest.mark.parametrize("method", CLASSES_WHOLE.values(), ids=CLASSES_WHOLE.keys())
def test_what_has_no_effect_at_the_start(method: str, checkpoints, tmp_path: Path) -> None:
    func = Drifting()
    kept = Disk(tmp_path) if checkpoints == "disk" else checkpoints
    y = odeint(func, start(), T, method=method, steps=Grid(3), adjoint=Discrete(kept))
    func.late[1] *= 1.01
    with pytest.raises(ReplayError, match=r"at t = 1, where the solve ended, component \[1\].*off by"):
        y.sum().backward()
    func.late[1] /= 1.01
    y = odeint(func, start(), T, method=method, steps=Grid(3), adjoint=Discrete(kept))
    y.sum().backward()


@pytest.mark.parametrize("how", ["event", "breakpoints", "reversed", "interpolate"])
def test_in_every_way_of_running(how: str) -> None:
    func = Drifting()
    arguments: dict = {
        "event": {"event": lambda t, y: y.sum() - 0.6},
        "breakpoints": {"breakpoints": [0.3]},
        "reversed": {},
        "interpolate": {"outputs": "interpolate"},
    }[how]
    t = T.flip(0) - 1 if how == "reversed" else T
    solution = solve(func, start(), t, method="cn", steps=Grid(4), **arguments)
    y = solution.y if solution.event is None else solution.event.y
    func.late.mul_(1.01)
    with pytest.raises(ReplayError, match="func changed between"):
        y.sum().backward()


def test_dropout_that_does_nothing_at_the_start() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3)).double()
    y0 = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"returned two values.*module.eval\(\)"):
        odeint(lambda t, y: net(y), y0, T, method="dopri5", steps=Grid(3))


@pytest.mark.parametrize("component", [0, 77_777, 249_999])
def test_one_component_of_a_large_state(component: int) -> None:
    """Of which no component is kept. What only the end shows, and no stage, does not matter."""
    size = 250_000
    func = Drifting(size)
    y = odeint(func, start(size), T[:2], method="midpoint", steps=Grid(1), adjoint=Discrete("solutions"))
    func.late[component] += 1e-3
    with pytest.raises(ReplayError, match=r"at t = 0.5, where the solve ended, its value is now off"):
        y.sum().backward()
    func.late[component] -= 1e-3
    odeint(
        func, start(size), T[:2], method="midpoint", steps=Grid(1), adjoint=Discrete("solutions")
    ).sum().backward()


def test_rounding_of_a_large_float32_state_is_no_change() -> None:
    """Sums in another order, as on other threads: here by hand, a few roundings in every component."""
    size, flips = 250_000, iter(range(10**6))

    def func(t: Tensor, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(next(flips))
        noise = torch.rand(y.shape, generator=generator) - 0.5
        return -y * (1 + 2e-7 * noise)

    y0 = torch.ones(size, requires_grad=True)
    odeint(func, y0, T[:2].float(), method="euler", steps=Grid(1)).sum().backward()


@pytest.mark.parametrize("mass", ["diagonal", "dense"])
def test_a_mass_matrix_changed_later_does_not_matter(mass: str) -> None:
    func, y0 = Drifting(), start()
    matrix = torch.tensor([1.0, 2.0], dtype=torch.float64)
    if mass == "dense":
        matrix = torch.diag(matrix) + 0.1
    for method in ("cn", "bdf3", "rosw-rodas3", "dirk-es213sal"):
        right = torch.autograd.grad(
            odeint(func, y0, T, method=method, steps=Grid(3), mass=matrix).sum(), [y0, func.k]
        )
        y = odeint(func, y0, T, method=method, steps=Grid(3), mass=matrix)
        before = matrix.clone()
        matrix.mul_(2)
        found = torch.autograd.grad(y.sum(), [y0, func.k])
        matrix.copy_(before)
        for a, b in zip(found, right, strict=True):
            assert torch.equal(a, b), f"{method}: look at the values that Mass keeps"


def test_a_mass_matrix_with_a_gradient_must_not_change() -> None:
    matrix = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = odeint(Drifting(), start(), T, method="cn", steps=Grid(3), mass=matrix)
    with torch.no_grad():
        matrix.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("method", "checkpoints"), [("arkimex-3", "stages"), ("cn", 2), ("rosw-ra34pw2", "solutions")]
)
def test_interpolating_with_another_function(method: str, checkpoints) -> None:
    """Where the states between steps come from func, or the states themselves do."""
    func = Drifting()
    solution = solve(func, start(), T, method=method, steps=Grid(4), adjoint=Discrete(checkpoints))
    between = times(0.11, 0.77)
    solution.interpolate(between)
    func.late.mul_(1.1)
    if METHODS[method].own_interpolant or checkpoints == 2:
        with pytest.raises(ReplayError, match="func changed"):
            solution.interpolate(between)
    else:
        solution.interpolate(between)


def test_what_takes_the_place_of_a_buffer_does_not_matter() -> None:
    func, y0 = Drifting(), start()
    right = torch.autograd.grad(odeint(func, y0, T, method="cn", steps=Grid(3)).sum(), y0)[0]
    y = odeint(func, y0, T, method="cn", steps=Grid(3))
    other = func.late * 3
    func.late = other
    assert torch.equal(torch.autograd.grad(y.sum(), y0)[0], right)
    assert func.late is other


def test_a_function_without_a_value_at_the_end() -> None:
    """Explicit steps need none there."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        if t >= 1:
            raise ArithmeticError
        return -y

    y0 = start()
    nan: Callable = lambda t, y: -y * torch.where(t >= 1, torch.nan, 1.0)  # noqa: E731
    gradients = [
        torch.autograd.grad(odeint(f, y0, T, method="euler", steps=Grid(3)).sum(), y0)[0]
        for f in (lambda t, y: -y, func, nan)
    ]
    torch.testing.assert_close(gradients[1:], [gradients[0]] * 2, rtol=1e-14, atol=0)
