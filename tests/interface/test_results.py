"""What comes out of a solve: a block's outputs, statistics, steps to take again, data sets, tolerances."""

from __future__ import annotations

import copy

import pytest
import torch
from methods import ADAPTIVE_WHOLE
from small_problems import SmallNetwork, decay, times
from torch import Tensor

from stiffml import (
    Adaptive,
    Fixed,
    Grid,
    Newton,
    ODEBlock,
    Status,
    odeint,
    solve,
)

T = times(0, 0.3, 1)


def exact(y0: Tensor, t: Tensor) -> Tensor:
    return y0 * torch.exp(-t)[:, None]


def test_ode_block(network: SmallNetwork, start: Tensor) -> None:
    block = ODEBlock(network, T, method="cn", steps=Grid(3))
    y = block(start)
    assert y.shape == (3, 3)
    assert {name for name, _ in block.named_parameters()} == {
        f"func.{n}" for n, _ in network.named_parameters()
    }
    assert "t" not in block.state_dict()
    twin = copy.deepcopy(block)
    twin.load_state_dict(block.state_dict())
    assert torch.equal(twin(start), y)
    closure = ODEBlock(lambda t, y: network(t, y), T, method="cn", steps=Grid(3), params=network.parameters())
    for _ in range(2):  # an iterator of parameters serves every forward
        (gradient,) = torch.autograd.grad(closure(start).sum(), network.out.bias)
        assert gradient.abs().max() > 0
    # Twice in one network: gradients add up as for any layer.
    block(block(start)[-1])[-1].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    with torch.no_grad():
        assert not block(start).requires_grad
    assert "method='cn'" in repr(block)


def test_statistics_and_message(network: SmallNetwork, start: Tensor) -> None:
    solution = solve(network, start.requires_grad_(), T, method="cn", steps=Grid(4), stepping="sequential")
    stats = solution.stats
    assert solution.status is Status.SUCCESS
    assert stats.accepted == 8
    assert stats.newton_iterations >= 8
    assert stats.rhs_evals >= stats.newton_iterations
    assert stats.adjoint is None
    solution.y.sum().backward()
    assert stats.adjoint is not None
    assert stats.adjoint.jacobians == 9


def test_petsc_options(network: SmallNetwork, start: Tensor) -> None:
    tight = solve(network, start, T, rtol=1e-5, options={"ts_adapt_safety": 0.3})
    assert tight.stats.accepted > solve(network, start, T, rtol=1e-5).stats.accepted


def test_steps_of_a_solution_repeat_it(network: SmallNetwork, start: Tensor) -> None:
    newton = Newton(rtol=1e-12, atol=1e-14)
    for method in ("bdf3", "cn"):
        adaptive = solve(network, start, T, method=method, rtol=1e-4, newton=newton)
        again = solve(network, start, T, method=method, steps=adaptive.steps, newton=newton)
        assert again.stats.accepted == adaptive.stats.accepted
        torch.testing.assert_close(again.y, adaptive.y, rtol=1e-11, atol=1e-13)


def test_to_xarray_and_plot(network: SmallNetwork, start: Tensor, tmp_path) -> None:
    solution = solve(network, start, T)
    dataset = solution.to_xarray(names=["a", "b", "c"], units="mol/m3")
    assert dataset["state"].dims == ("time", "component")
    assert dataset["state"].attrs["units"] == "mol/m3"
    assert dataset.attrs["accepted"] == solution.stats.accepted
    dataset.to_netcdf(tmp_path / "solution.nc", engine="h5netcdf")
    figure = solution.plot(names=["a", "b", "c"])
    assert [panel.get_title() for panel in figure.axes] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="names: 2 given, but state has 3"):
        solution.to_xarray(names=["a", "b"])


@pytest.mark.parametrize("name", ADAPTIVE_WHOLE)
def test_tolerance_controls_the_error(name: str, start: Tensor) -> None:
    y = odeint(decay, start, T, method=name, rtol=1e-5, atol=1e-8, steps=Adaptive(maximum=0.2))
    assert (y - exact(start, T)).abs().max() < 3e-3


def test_vector_atol(start: Tensor) -> None:
    loose = solve(decay, start, T, rtol=1e-8, atol=torch.full((3,), 1e-2, dtype=torch.float64))
    tight = solve(decay, start, T, rtol=1e-8, atol=torch.full((3,), 1e-9, dtype=torch.float64))
    assert loose.stats.accepted < tight.stats.accepted


def test_fixed_covers_uneven_intervals(start: Tensor) -> None:
    solution = solve(decay, start, times(0, 0.25, 0.3, 1), method="cn", steps=Fixed(0.1))
    assert [len(ends) for ends in solution.steps.ends] == [3, 1, 7]
