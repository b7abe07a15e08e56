"""Algebraic variables at breakpoints: they satisfy the equations behind the jump, with exact gradients."""

from __future__ import annotations

import functools

import pytest
import torch
from conftest import times
from daes import DAE, FAMILIES, newton
from gradients import compare
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor, nn

from stiffml import METHODS, Adaptive, Grid, SolveError, Status, solve

MASS = torch.tensor([1.0, 0.0], dtype=torch.float64)


class Switched(nn.Module):
    """a' = −a + z, 0 = z + 0.1 z³ − c a − d·(t ≥ b) − sin 3t / 4: z jumps at b, a has a corner."""

    def __init__(self, jump: float = 1.0) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.d = nn.Parameter(torch.tensor(jump, dtype=torch.float64))
        self.at = times(0.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, z = y.unbind(-1)
        known = self.c * a + self.d * (t >= self.at.detach()[0]) + torch.sin(3 * t) / 4
        return torch.stack([z - a, z + 0.1 * z**3 - known], dim=-1)


def algebraic(t: float, a: float, behind: bool, jump: float) -> float:
    """z from a."""
    known = 0.4 * a + jump * behind + torch.sin(torch.tensor(3.0 * t, dtype=torch.float64)).item() / 4
    return brentq(lambda z: z + 0.1 * z**3 - known, -9, 9, xtol=1e-15)


Y0 = times(1.0, algebraic(0.0, 1.0, False, 1.0))
T = times(0, 0.5, 1.1)


@functools.cache
def reference(jump: float) -> float:
    """a at the end, by another code."""
    a = 1.0
    for span, behind in (((0, 0.5), False), ((0.5, 1.1), True)):
        run = solve_ivp(
            lambda t, y, behind=behind: [algebraic(t, y[0], behind, jump) - y[0]],
            span,
            [a],
            "DOP853",
            rtol=1e-12,
            atol=1e-12,
        )
        a = float(run.y[0, -1])
    return a


CASES = [*((name, 1.0) for name in DAE), *((name, 0.0) for name in FAMILIES)]


@pytest.mark.parametrize(("name", "jump"), CASES)
def test_pieces_begin_with_consistent_values(name: str, jump: float) -> None:
    """Coarse steps drift away from the algebraic equations, further than the tolerances."""
    func = Switched(jump)
    func.d.requires_grad_(False)
    solution = solve(func, Y0, T, method=name, mass=MASS, steps=Grid(3), breakpoints=[0.5])
    a = solution.y[-1, 0].item()
    assert abs(a - reference(jump)) <= 0.1, f"{name}: a = {a}"
    begin = solution.pieces[1].inputs[1].detach()
    assert begin[0] == solution.y[1, 0], "differential variables go on as they are"
    right = algebraic(0.5, begin[0].item(), True, jump)
    assert begin[1].item() == pytest.approx(right, rel=1e-12), "look at continues in integrate.py"
    before = algebraic(0.5, begin[0].item(), False, jump)
    assert solution.y[1, 1].item() == pytest.approx(before, abs=0.2), "an output holds what was before"
    assert torch.allclose(solution.interpolate(T[1:2]), solution.y[1:2], atol=1e-12)


ALWAYS = (*FAMILIES, "rosw-r3prl2", "arkimex-4", "dirk-es648sa")
"""The other methods take part in the sweep."""


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.sweep) for name in DAE]
)
def test_gradients_through_a_jump_of_algebraic_variables(name: str) -> None:
    func, y0 = Switched(), Y0.clone()
    t, b, mass = T.clone(), func.at, times(1.3, 0)

    def loss() -> Tensor:
        state = torch.stack([y0[0], y0[1]])
        arguments = {"mass": mass, "make_consistent": True, "steps": Grid(2), **newton(name)}
        return (solve(func, state, t, method=name, breakpoints=b, **arguments).y ** 2).sum()

    # Not the output at the breakpoint, which would have to move with it.
    t = times(0, 0.3, 1.1)
    inputs = [y0, t, b, func.c, func.d, mass]
    for tensor in inputs:
        tensor.requires_grad_()
    found = list(torch.autograd.grad(loss(), inputs))
    found[-1] = found[-1] * times(1, 0)  # the rank of M is held
    for tensor in inputs:
        tensor.requires_grad_(isinstance(tensor, nn.Parameter))
    for what, some in (("t or the breakpoint", (1, 2)), ("y0, c or d", (0, 3, 4))):
        error, _ = compare(lambda: loss().detach(), [inputs[i] for i in some], [found[i] for i in some], 3e-4)
        assert error <= 1e-7, f"{name}: gradient of {what} off by {error:.1e}; look at run/initialization.py"
    original = mass.detach().clone()
    with torch.no_grad():
        e = 1e-5
        up, down = (loss_at(mass, original, k * e, loss) for k in (1, -1))
    assert found[-1][0].item() == pytest.approx((up - down) / (2 * e), rel=1e-6)


def loss_at(mass: Tensor, original: Tensor, change: float, loss) -> float:
    mass.copy_(original + torch.tensor([change, 0.0], dtype=torch.float64))
    try:
        return float(loss())
    finally:
        mass.copy_(original)


@pytest.mark.parametrize("name", ["bdf", "rosw-ra34pw2", "dirk-es325sal", "cn"])
def test_adaptive_steps_backwards_and_in_batches(name: str) -> None:
    func = Switched()
    arguments = {"mass": MASS, "method": name, "rtol": 1e-5, "atol": 1e-8, "breakpoints": [0.5]}
    assert METHODS[name].adaptive
    ahead = solve(func, Y0, T, steps=Adaptive(), **arguments).y[-1]
    assert ahead[0].item() == pytest.approx(reference(1.0), abs=2e-4)
    end = torch.stack([ahead[0], times(algebraic(1.1, ahead[0].item(), True, 1.0))[0]]).detach()
    back = solve(func, end, T.flip(0), **arguments).y[-1]
    assert torch.allclose(back, Y0, atol=1e-3)
    batch = solve(func, torch.stack([Y0, Y0]), T, batch_dims=1, **arguments).y[-1]
    assert torch.allclose(batch, ahead.expand(2, 2), atol=1e-4)


def test_no_consistent_values_behind_a_breakpoint() -> None:
    """z² = −1 has no solution: the outputs reached are there, and the error says where it stopped."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, z = y.unbind(-1)
        return torch.stack([-a, torch.where(t < 0.5, z - 1, z**2 + 1)], dim=-1)

    arguments = {"mass": MASS, "breakpoints": [0.5], "method": "bdf2"}
    t = times(0, 0.2, 0.7)
    with pytest.raises(SolveError, match=r"behind a breakpoint .* \(t = 0.5,") as raised:
        solve(func, times(1, 1), t, **arguments)
    assert raised.value.status is Status.NEWTON_FAILED
    partial = solve(func, times(1, 1), t, throw=False, **arguments)
    assert not partial.success
    assert partial.t.tolist() == [0, 0.2]
    assert partial.y.shape == (2, 2)
    with pytest.raises(ValueError, match="y0 is not consistent"):
        solve(func, times(1, 2), t, **arguments)
