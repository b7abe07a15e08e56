"""Outputs between steps: their accuracy, and their gradients."""

from __future__ import annotations

import pytest
import torch
from conftest import SmallNetwork, times
from torch import Tensor

from stiffml import METHODS, Discrete, Grid, check_gradients, solve

T = torch.linspace(0, 2, 12, dtype=torch.float64)
TRIED = ("beuler", "cn", "bdf2", "bdf", "rosw-ra34pw2", "dirk-es325sal", "dopri5")


@pytest.mark.parametrize("method", TRIED)
def test_gradients(method: str, network: SmallNetwork, start: Tensor) -> None:
    # Nine steps end on none of the outputs: there the derivative with respect to t jumps.
    report = check_gradients(network, start, T, method=method, outputs="interpolate", steps=Grid(9))
    assert report.ok, f"{method}:\n{report}\nlook at interpolation.py, for t at Reading.time_gradient"


@pytest.mark.parametrize("method", TRIED)
def test_interpolated_outputs_are_as_accurate_as_the_steps(
    method: str, network: SmallNetwork, start: Tensor
) -> None:
    exact = solve(network, start, T, rtol=1e-10, atol=1e-12).y
    tolerances = {"rtol": 1e-5, "atol": 1e-6, "method": method}
    on_steps, between = (solve(network, start, T, outputs=o, **tolerances) for o in ("steps", "interpolate"))
    assert between.stats.accepted < on_steps.stats.accepted + 5
    error = (between.y - exact).abs().max()
    # An explicit method takes steps so long that a polynomial through their ends is the larger error.
    factor = 100 if method == "dopri5" else 30
    assert error <= factor * ((between.y[-1] - exact[-1]).abs().max() + 1e-5), f"{method}: {error:.1e}"
    afterwards = between.interpolate(T)
    assert torch.allclose(afterwards, between.y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("checkpoints", ["stages", "solutions", 4])
@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-rodas3"])
def test_afterwards(method: str, checkpoints, network: SmallNetwork, start: Tensor) -> None:
    y0 = start.requires_grad_()
    solution = solve(network, y0, T[[0, -1]], method=method, steps=Grid(12), adjoint=Discrete(checkpoints))
    at = times(1.93, 0.01, 0.7).requires_grad_()
    y = solution.interpolate(at)
    assert isinstance(y, Tensor)
    wrt_t, wrt_y0 = torch.autograd.grad(y.sum(), [at, y0], retain_graph=True)
    with torch.no_grad():
        slopes = torch.stack([network(s, u) for s, u in zip(at, y, strict=True)]).sum(dim=1)
    assert torch.allclose(wrt_t, slopes, rtol=0.1, atol=0.1), "dy/dt is about f"
    expected = torch.autograd.grad(solution.interpolate(at.detach()).sum(), y0)[0]
    assert torch.equal(wrt_y0, expected)


def test_outside_the_span(network: SmallNetwork, start: Tensor) -> None:
    solution = solve(network, start, T)
    with pytest.raises(ValueError, match=r"t\[1\] = 2.5 lies outside the span \[0, 2\]"):
        solution.interpolate(times(1.0, 2.5))
    with pytest.raises(ValueError, match="outputs must be one of"):
        solve(network, start, T, outputs="dense")


def test_every_method_interpolates(start: Tensor) -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y + 0 * t

    for name, method in METHODS.items():
        if method.whole:
            solution = solve(func, start, T[[0, -1]], method=name, steps=Grid(40))
            off = (solution.interpolate(times(0.31)) - start * torch.exp(-times(0.31))).abs().max()
            assert off < 0.02, f"{name}: {off:.1e}"
