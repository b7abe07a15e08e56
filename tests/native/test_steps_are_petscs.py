"""Steps that stiffml takes by itself, in C and side by side, are those that PETSc takes of a method."""

from __future__ import annotations

import pytest
import torch
from runs_in_c import Robertson, in_python, require_library
from torch import Tensor

from stiffml import Adaptive, Solution, Status, solve

D = torch.float64
METHODS = ("bdf2", "bdf5", "rosw-ra34pw2", "rosw-rodaspr2", "dirk-es213sal", "dirk-657a", "dirk-s212")


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    u, v = y[..., 0], y[..., 1]
    return torch.stack([v, 1e6 * ((1 - u * u) * v - u)], dim=-1)


def by_petsc(func, y0: Tensor, t: Tensor, **arguments) -> Solution:
    with in_python(), torch.no_grad():
        return solve(func, y0, t, compile=True, **arguments)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_robertson_for_long(method: str, compiled: bool) -> None:
    """Stages that evaluate f have rounding errors times J: es213sal once took 250 times as many steps so."""
    t = torch.tensor([0.0, 4.0, 4e3, 4e6, 4e8], dtype=D)
    y0, func = torch.tensor([1.0, 0.0, 0.0], dtype=D), Robertson()
    arguments = {"method": method, "rtol": 1e-3, "atol": torch.tensor([1e-9, 1e-13, 1e-9], dtype=D)}
    wanted = by_petsc(func, y0, t, **arguments)
    with torch.no_grad():
        found = solve(func, y0[None], t[None], batch_dims=1, compile=compiled, **arguments)
    _require_same_steps(found, wanted, within=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_rejected_and_short_steps(method: str) -> None:
    """At the jump of the oscillator errors grow suddenly, and steps have few digits beside their times."""
    require_library()
    t = torch.tensor([0.0, 0.5, 1.0], dtype=D)
    y0 = torch.tensor([2.0, 0.0], dtype=D)
    arguments = {"method": method, "rtol": 1e-4, "atol": 1e-4}
    wanted = by_petsc(van_der_pol, y0, t, **arguments)
    assert wanted.stats.rejected or method in ("bdf2", "dirk-s212"), "choose another problem"
    with torch.no_grad():
        found = solve(van_der_pol, y0, t, compile=True, **arguments)
    assert found.stats.in_c == found.stats.accepted, found.stats.given_up
    _require_same_steps(found, wanted, within=1e-3)
    with torch.no_grad():
        found = solve(van_der_pol, y0[None], t[None], batch_dims=1, **arguments)
    _require_same_steps(found, wanted, within=1e-3)


def _require_same_steps(found: Solution, wanted: Solution, within: float) -> None:
    """``within``: of the largest value of a component; rounding is amplified where the solution is steep."""
    off = abs(found.stats.accepted - wanted.stats.accepted)
    assert off <= 0.01 * wanted.stats.accepted, "look at run/controller.py, drive.c and goals.py"
    off = abs(found.stats.rejected - wanted.stats.rejected)
    assert off <= 2 + 0.05 * wanted.stats.rejected, "look at what follows a step that was rejected"
    y, expected = found.y.reshape(wanted.y.shape), wanted.y
    assert ((y - expected).abs().amax(0) <= within * expected.abs().amax(0)).all()


@pytest.mark.parametrize("method", ["bdf5", "rosw-ra34pw2", "dirk-es213sal"])
def test_steps_that_would_become_too_short(method: str) -> None:
    """Also where none is rejected: the error control asks for less than the smallest step."""
    require_library()
    t, y0 = torch.tensor([0.0, 2.0], dtype=D), torch.tensor([2.0, -2 / 3], dtype=D)
    arguments = {"method": method, "rtol": 1e-5, "atol": 1e-5, "throw": False}
    arguments["steps"] = Adaptive(initial=1e-4, minimum=2e-7)
    wanted = by_petsc(van_der_pol, y0, t, **arguments)
    assert wanted.status is Status.STEP_TOO_SMALL
    assert wanted.stats.accepted > 10
    with torch.no_grad():
        one = solve(van_der_pol, y0, t, compile=True, **arguments)
        own = [
            solve(van_der_pol, y0[None], t[None], batch_dims=1, compile=compiled, **arguments)
            for compiled in (True, False)
        ]
    for found in (one, *own):
        assert found.status is wanted.status
        assert found.stats.accepted == wanted.stats.accepted, "look at what ends runs in drive.c and goals.py"
    assert one.message == wanted.message
