"""Times that steps end on though nothing is returned there: like outputs, but for what comes back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods import ADAPTIVE_WHOLE, WITH_STEPS_BETWEEN
from small_problems import SmallNetwork, times
from torch import Tensor

from stiffml import (
    METHODS,
    Adaptive,
    Discrete,
    Fixed,
    Grid,
    ODEBlock,
    Recorded,
    Split,
    check_gradients,
    odeint,
    sensitivities,
    solve,
)

T, THROUGH = times(0, 0.5, 1.2), times(0.9, 0.2)
BOTH = times(0, 0.2, 0.5, 0.9, 1.2)
KEPT = [0, 2, 4]
"""Of both, those of t."""


def parts(network: SmallNetwork, name: str):
    linear = METHODS[name].exponential
    return network if METHODS[name].whole else Split(lambda t, y: -y, network, linear=linear)


@pytest.mark.parametrize(
    ("name", "backwards"),
    [*((name, False) for name in METHODS), *((name, True) for name in WITH_STEPS_BETWEEN)],
)
def test_steps_are_those_of_outputs_there(name: str, backwards: bool, network, start) -> None:
    """The same states, the same gradients, those of the times themselves included."""
    sign = -1.0 if backwards else 1.0
    steps = Adaptive() if METHODS[name].adaptive and name in ("bdf3", "rosw-ra34pw2", "dopri5") else Grid(2)
    func, arguments = parts(network, name), {"method": name, "steps": steps, "outputs": "steps"}
    t, through, both = (sign * v for v in (T, THROUGH, BOTH))
    y0 = start.clone()
    inputs = [t, through, both, y0]
    for tensor in inputs:
        tensor.requires_grad_()
    parameters = list(network.parameters())
    arguments["params"] = parameters
    there = solve(func, y0, both, **arguments)
    found = solve(func, y0, t, through=through, **arguments)
    assert found.y.shape == (3, 3)
    assert torch.equal(found.y, there.y[KEPT]), f"{name}: look at arguments.py and run/forward.py"
    assert found.stats.accepted == there.stats.accepted
    wrt_t, wrt_through, *others = torch.autograd.grad((found.y**2).sum(), [t, through, y0, *parameters])
    wrt_both, *expected = torch.autograd.grad((there.y[KEPT] ** 2).sum(), [both, y0, *parameters])
    assert torch.allclose(
        torch.stack([wrt_t[0], wrt_through[1], wrt_t[1], wrt_through[0], wrt_t[2]]), wrt_both
    )
    for gradient, right in zip(others, expected, strict=True):
        assert torch.allclose(gradient, right, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["bdf", "rosw-ra34pw2", "arkimex-4", "dirk-es325sal", "dopri5"])
@pytest.mark.parametrize("checkpoints", ["stages", 4])
def test_interpolated_outputs(name: str, checkpoints, network, start) -> None:
    """Steps end on the times passed through alone, also where one is an output."""
    t = torch.linspace(0, 1.2, 13, dtype=torch.float64)
    adjoint = Discrete(checkpoints=checkpoints)
    solution = solve(
        network,
        start,
        t,
        method=name,
        rtol=1e-3,
        outputs="interpolate",
        through=[0.53, t[9].item()],
        adjoint=adjoint,
    )
    ends = torch.stack([t[0], times(0.53)[0], t[9], t[12]])
    there = solve(network, start, ends, method=name, rtol=1e-3, outputs="steps")
    assert solution.stats.accepted == there.stats.accepted
    assert torch.allclose(solution.y, there.interpolate(t), rtol=1e-12)
    found = torch.autograd.grad(solution.y.sum(), list(network.parameters()))
    expected = torch.autograd.grad(there.interpolate(t).sum(), list(network.parameters()))
    for gradient, right in zip(found, expected, strict=True):
        assert torch.allclose(gradient, right, rtol=1e-6), "look at what is returned in run/forward.py"


def test_schedules_refer_to_all_intervals(network, start) -> None:
    for steps, count in ((Grid(3), 12), (Fixed(0.1), 2 + 3 + 4 + 3)):
        solution = solve(network, start, T, method="cn", steps=steps, through=THROUGH)
        assert solution.stats.accepted == count
        again = solve(network, start, T, method="cn", steps=solution.steps, through=THROUGH)
        assert torch.equal(again.y, solution.y)
    fractions = (np.array([1.0]), np.array([0.3, 1.0]), np.array([1.0]), np.array([0.5, 1.0]))
    assert (
        solve(network, start, T, method="cn", steps=Recorded(fractions), through=THROUGH).stats.accepted == 6
    )


def test_what_does_not_count(network, start) -> None:
    """Times outside, at the ends, twice, in the place of outputs or too close to one for a step between."""
    plain = solve(network, start, T, method="cn", steps=Grid(2))
    for through in ([], [-1, 0, 1.2, 7], [0.5, 0.5], times(0.5 + 1e-12), [0.5 - 1e-11], 0.5):
        found = solve(network, start, T, method="cn", steps=Grid(2), through=through)
        assert torch.equal(found.y, plain.y), f"through={through}: look at landings in steps/landings.py"
    twice = solve(network, start, T, method="cn", steps=Grid(2), through=[0.7, 0.7, 0.7 + 1e-12])
    assert twice.stats.accepted == 6


@pytest.mark.parametrize("name", ["beuler", "bdf3", "rosw-ra34pw2", "dopri5"])
def test_with_breakpoints(name: str, network, start) -> None:
    """Pieces begin afresh at breakpoints, and go through the times between; recorded steps repeat that."""
    arguments = {"method": name, "breakpoints": [0.7], "through": [0.2, 0.7, 0.9, 3.0]}
    loose = {"rtol": 1e-3, "atol": 1e-5, "outputs": "steps"}
    solution = solve(network, start, T, **arguments, **loose)
    there = solve(network, start, BOTH, method=name, breakpoints=[0.7], **loose)
    assert torch.equal(solution.y, there.y[KEPT])
    again = solve(network, start, T, steps=solution.steps, outputs="steps", **arguments)
    assert again.stats.accepted == solution.stats.accepted, "look at the intervals in breakpoints.py"
    assert torch.allclose(again.y, solution.y, atol=1e-4)


@pytest.mark.parametrize("name", ["bdf", "rosw-ra34pw2", "dirk-es325sal", "dopri5"])
def test_with_an_event(name: str, network, start) -> None:
    y0 = start.clone().requires_grad_()

    def ended(t: Tensor, **arguments):
        arguments |= {"method": name, "rtol": 1e-3, "outputs": "steps"}
        solution = solve(network, y0, t, event=lambda t, y: t + 0.1 * y[0] - 1.0, **arguments)
        assert solution.event is not None
        return solution, torch.autograd.grad(solution.event.t + solution.event.y.sum(), y0)[0]

    (found, gradient), (there, expected) = ended(T, through=THROUGH), ended(BOTH)
    assert torch.equal(found.event.y, there.event.y)
    assert torch.equal(found.y, there.y[[0, 2]])
    assert torch.allclose(gradient, expected, rtol=1e-10)


def pulse(t: Tensor, y: Tensor) -> Tensor:
    """Of height 1 from 50 to 51, with corners there and 0.1 before and after."""
    height = ((t - 49.9) / 0.1).clamp(0, 1) * ((51.1 - t) / 0.1).clamp(0, 1)
    return height - 0.01 * y


CORNERS = [49.9, 50.0, 51.0, 51.1]


@pytest.mark.parametrize("name", ADAPTIVE_WHOLE)
def test_a_pulse_is_not_stepped_over(name: str) -> None:
    """Its integral is 1.1; what is left at the end is known. It costs few steps, and no new starts."""
    t, y0 = times(0, 100), times(0)
    rate = 0.01
    exact = sum(
        slope * (math.exp(-rate * (100 - at)) - 1 + rate * (100 - at)) / rate**2 * 10
        for slope, at in zip((1, -1, -1, 1), CORNERS, strict=True)
    )
    arguments = {"method": name, "rtol": 1e-3, "atol": 1e-5}
    seen = solve(pulse, y0, t, through=CORNERS, **arguments)
    assert seen.y[-1].item() == pytest.approx(exact, rel=2e-2), f"{name}: the pulse was stepped over"
    afresh = solve(pulse, y0, t, breakpoints=CORNERS, **arguments)
    if METHODS[name].within_step:  # others see corners from before and after
        # A method that goes on with the step it had must cut it at a corner, some more than once.
        most = 1.25 * afresh.stats.accepted + 5
        assert seen.stats.accepted <= most, f"{name} starts afresh, or crawls after landing"


@pytest.mark.parametrize("name", [name for name in ADAPTIVE_WHOLE if METHODS[name].growth == math.inf])
def test_landing_says_nothing_about_the_steps_after(name: str) -> None:
    """Times a thousandth apart in the middle of long steps: two more steps for each, and no crawl."""

    def decay(t: Tensor, y: Tensor) -> Tensor:
        return -y

    t, y0 = times(0, 10), times(1, 2, 3)
    plain = solve(decay, y0, t, method=name, rtol=1e-3, atol=1e-5).stats.accepted
    landing = solve(decay, y0, t, method=name, rtol=1e-3, atol=1e-5, through=[3, 3.001, 7, 7.001])
    assert landing.stats.accepted <= plain + 8, f"{name}: look at what follows a landing in run/forward.py"


def test_through_at_every_door(network, start) -> None:
    expected = solve(network, start, T, method="cn", steps=Grid(2), through=THROUGH).y
    arguments = {"method": "cn", "steps": Grid(2), "through": THROUGH}
    assert torch.equal(odeint(network, start, T, **arguments), expected)
    assert torch.equal(ODEBlock(network, T, **arguments)(start), expected)
    report = check_gradients(network, start, T, **arguments)
    assert report.ok, f"{report}"
    forward = sensitivities(network, start, T, ["y0"], **arguments)
    y0 = start.clone().requires_grad_()
    row = torch.autograd.grad(solve(network, y0, T, **arguments).y[2, 1], y0)[0]
    assert torch.allclose(forward.wrt["y0"][2, 1], row, rtol=1e-9)
    assert forward.wrt["y0"].shape == (3, 3, 3)


def test_single_precision(network, start) -> None:
    single, y0 = SmallNetwork().float(), start.float()
    t, through = T.float().requires_grad_(), THROUGH.clone().requires_grad_()
    y = solve(single, y0, t, method="cn", steps=Grid(2), through=through).y
    assert y.dtype == torch.float32
    wrt_t, wrt_through = torch.autograd.grad(y[-1].sum(), [t, through])
    assert wrt_t.dtype == torch.float32
    assert wrt_through.dtype == torch.float64


def test_a_list_of_tensors_gets_gradients(network, start) -> None:
    at = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.2, 0.9)]
    for name in ("through", "breakpoints"):
        y = solve(network, start, T, method="cn", steps=Grid(2), **{name: at}).y
        assert all(g.abs() > 0 for g in torch.autograd.grad(y[-1].sum(), at)), name


@pytest.mark.parametrize("name", ["through", "breakpoints"])
def test_wrong_times(name: str, network, start) -> None:
    for wrong in ("a", [None], [1j], torch.tensor([True]), [[0.1], [0.2, 0.3]], object()):
        with pytest.raises(TypeError, match=f"{name} must be a tensor of times"):
            solve(network, start, T, **{name: wrong})
    for wrong in ([math.nan], times(0.2, math.inf)):
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            solve(network, start, T, **{name: wrong})
