"""Many points between steps are read together: the states of the readings that derivatives use."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from methods import ADAPTIVE_WHOLE, WITH_INTERPOLATION
from small_problems import times
from torch import Tensor, nn

from stiffml import BDF, METHODS, Discrete, Fixed, Grid, Solution, solve
from stiffml.discretization.equations import Form
from stiffml.interface import interpolation

END = 3.0
METHODS_READ = [*dict.fromkeys([*WITH_INTERPOLATION, *ADAPTIVE_WHOLE, "bdf1", "bdf3", "bdf6"])]


def swing(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([b, -torch.sin(a) - 0.3 * b + 0.1 * torch.cos(t)], dim=-1)


Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)


def one_by_one(solution: Solution, t: Tensor) -> Tensor:
    """By readings."""
    (piece,) = solution.pieces
    system = piece.tape.replay.system
    s = system.direction * t.numpy()
    return torch.stack([torch.from_numpy(one.value) for one in interpolation._readings(piece.tape, s)])


def rounding_of(method: str) -> float:
    """What the order of summation can make of an interpolant: the sum of its weights, of slopes near 1."""
    dense = METHODS[method].dense(Form())
    return 0.0 if dense is None else sys.float_info.epsilon * float(np.abs(dense.beta).sum(axis=0).max())


def points(count: int) -> Tensor:
    """In no order; some of them twice, and both ends among them."""
    inside = END * torch.rand(count - 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.cat([inside[:3], times(END, 0.0), inside, times(0.0)])[:count]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", METHODS_READ)
def test_the_values_of_readings(method: str, sign: int) -> None:
    steps = Fixed(0.1) if method in ("bdf6",) or not METHODS[method].adaptive else None
    solution = solve(swing, Y0, sign * times(0.0, END), method=method, steps=steps)
    t = sign * points(300)
    found, wanted = solution.interpolate(t), one_by_one(solution, t)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=max(1e-14, rounding_of(method)))
    ends = solution.step_times
    torch.testing.assert_close(solution.interpolate(ends), solution.step_states(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["bdf", "cn", "rosw-ra34pw2", "dopri5"])
def test_few_steps(method: str, count: int) -> None:
    solution = solve(swing, Y0, times(0.0, END), method=method, steps=Grid(count))
    torch.testing.assert_close(
        solution.interpolate(points(50)), one_by_one(solution, points(50)), rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("kept", ["solutions", 4, 15])
@pytest.mark.parametrize("method", ["bdf3", "cn", "rosw-ra34pw2", "dopri5", "arkimex-3"])
def test_states_that_were_not_kept(method: str, kept: str | int) -> None:
    given = {"method": method, "steps": Grid(20)}
    found, wanted = (
        solve(swing, Y0, times(0.0, END), adjoint=Discrete(checkpoints=one), **given).interpolate(points(200))
        for one in (kept, "stages")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", ["bdf3", "rosw-ra34pw2", "dopri5"])
def test_pieces(method: str) -> None:
    """On both sides of a breakpoint, and on it."""
    given = {"method": method, "steps": Fixed(0.1)}
    solution = solve(swing, Y0, times(0.0, END), breakpoints=[1.25], **given)
    first = solve(swing, Y0, times(0.0, 1.25), **given)
    second = solve(swing, first.y[-1], times(1.25, END), **given)
    t = torch.cat([points(100), times(1.25)])
    found = solution.interpolate(t)
    for part, mine in ((first, t <= 1.25), (second, t > 1.25)):
        torch.testing.assert_close(found[mine], part.interpolate(t[mine]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["bdf", "cn", "rosw-ra34pw2", "dopri5"])
def test_gradients_are_those_of_outputs(method: str) -> None:
    network = nn.Linear(2, 2, dtype=torch.float64)
    t = times(0.0, 0.4, 1.1, 1.7, END)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(network(y)) - y

    given = {"method": method, "steps": Fixed(0.25)}
    inner = solve(func, Y0, t, outputs="interpolate", **given).y
    outer = solve(func, Y0, t[[0, -1]], **given).interpolate(t)
    found, wanted = (torch.autograd.grad((y**3).sum(), network.parameters()) for y in (outer, inner))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def _calls(work: Callable[[], object]) -> int:
    count = 0

    def note(frame, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("method", ["bdf", BDF(2), "cn", "rosw-rodaspr2", "dirk-es325sal", "dopri5", "tsit5"])
def test_more_points_cost_no_more_calls(method) -> None:
    """Of Python's functions; each point took about a hundred."""
    solution = solve(swing, Y0.clone().requires_grad_(), times(0.0, END), method=method, rtol=1e-5)
    t, counts = torch.linspace(0, END, 20_000, dtype=torch.float64), []
    for every in (10, 1):  # the more points, the more steps have some
        counts.append(_calls(lambda every=every: solution.interpolate(t[::every])))
    assert counts[1] <= len(t) / 5, f"{counts}: look at run/between.py"
