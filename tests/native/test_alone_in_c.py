"""A single compiled state with a method of our own: all steps in one call of C, as from Python."""

from __future__ import annotations

import pytest
import torch
from runs_in_c import Robertson, both, compare, require_same
from torch import Tensor

from stiffml import Adaptive, Discrete, Fixed, Grid, Newton, Status, solve

D = torch.float64
ATOL = torch.tensor([1e-6, 1e-10, 1e-6], dtype=D)
T = torch.tensor([0.0, 0.1, 1.0, 30.0], dtype=D)
Y0 = torch.tensor([1.0, 0.0, 0.0], dtype=D)


@pytest.mark.parametrize("checkpoints", ["stages", "solutions"])
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_the_same_steps_values_and_gradients(rtol: float, checkpoints: str) -> None:
    func = Robertson()
    arguments = {"method": "sdirk3", "rtol": rtol, "atol": ATOL, "adjoint": Discrete(checkpoints)}
    compare(func, Y0, T, list(func.parameters()), **arguments)


def test_known_steps() -> None:
    func = Robertson()
    steps = {"steps": Fixed(0.05), "stepping": "sequential", "newton": Newton(rtol=1e-12)}
    compare(func, Y0, T[:3], list(func.parameters()), method="sdirk3", **steps)


def test_time_runs_backwards_and_outputs_lie_between() -> None:
    def forced(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(t) * torch.ones_like(y) - 50 * (y - torch.sin(t))

    t = torch.linspace(1.0, 0.9, 6, dtype=D)
    arguments = {"method": "sdirk3", "rtol": 1e-5, "atol": 1e-7, "outputs": "interpolate"}
    compare(forced, torch.ones(2, dtype=D), t, [], within=1e-10, **arguments)


def test_a_mass_matrix() -> None:
    func = Robertson()
    mass = torch.tensor([[1.0, 0.2, 0.0], [0.0, 2.0, 0.1], [0.3, 0.0, 0.5]], dtype=D)
    compare(func, Y0, T, list(func.parameters()), method="sdirk3", rtol=1e-4, atol=ATOL, mass=mass)


@pytest.mark.parametrize("steps", [Adaptive(max_steps=60), Adaptive(initial=1e-3, maximum=0.5)])
def test_limits(steps: Adaptive) -> None:
    func, arguments = Robertson(), {"method": "sdirk3", "rtol": 1e-4, "atol": ATOL, "throw": False}
    found, wanted = both(lambda: solve(func, Y0, T, steps=steps, compile=True, **arguments))
    require_same(found, wanted)
    assert found.status is wanted.status
    assert found.message == wanted.message
    assert (found.status is Status.MAX_STEPS) == (steps.max_steps == 60)


def test_a_failure_is_told_as_by_python() -> None:
    def ends(t: Tensor, y: Tensor) -> Tensor:
        return torch.log(1 - t) - y

    def call():
        y0, t = torch.ones(1, dtype=D), torch.tensor([0.0, 2.0], dtype=D)
        return solve(ends, y0, t, method="sdirk3", compile=True, throw=False)

    found, wanted = both(call)
    assert not found.success
    assert found.message == wanted.message
    assert found.stats.given_up


def test_known_steps_that_are_cut() -> None:
    newton = Newton(rtol=1e-9, max_iterations=4)
    arguments = {"method": "sdirk3", "steps": Grid(3), "stepping": "sequential", "newton": newton}
    found, wanted = both(lambda: solve(Robertson(), Y0, T, compile=True, **arguments))
    assert wanted.stats.rejected > 0, "nothing was cut: the test shows nothing"
    assert found.stats.accepted == wanted.stats.accepted
    assert torch.equal(found.y, wanted.y)


def test_a_callback_sees_every_step() -> None:
    seen = []
    arguments = {"method": "sdirk3", "rtol": 1e-4, "atol": ATOL, "compile": True}
    solution = solve(Robertson(), Y0, T, callback=lambda t, y, h: seen.append(t), **arguments)
    assert solution.stats.in_c == 0
    assert len(seen) == solution.stats.accepted
