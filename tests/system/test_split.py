"""Right-hand sides in two parts, and what users do with any method."""

from __future__ import annotations

import copy

import pytest
import torch
from methods import RUNGE_KUTTA_KINDS
from small_problems import SmallNetwork, times
from torch import Tensor, nn

from stiffml import ARKIMEX, METHODS, Fixed, Grid, Newton, ODEBlock, Split, check_gradients, odeint, solve

T = times(0, 0.2, 0.45)


class Diffusion(nn.Module):
    """A linear part, with a trainable factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.factor * (y.roll(1, -1) - 2 * y + y.roll(-1, -1)) + torch.sin(t)


@pytest.mark.parametrize("method", ["arkimex-3", "arkimex-ars443", "arkimex-l2"])
@pytest.mark.parametrize("batched", [False, True])
def test_a_linear_part_is_factorised_once(method: str, batched: bool, network: SmallNetwork, start) -> None:
    y0 = torch.stack([start, 2 * start]) if batched else start
    dims = 1 if batched else 0
    # Powers of two: every step has the same size to the last bit.
    t, steps = times(0, 0.25, 0.5), Fixed(2.0**-5)
    solutions = {}
    for linear in (False, True):
        func = Split(Diffusion(), network, linear=linear)
        y = y0.clone().requires_grad_()
        solution = solve(
            func, y, t, method=method, steps=steps, batch_dims=dims, newton=Newton(rtol=1e-12, atol=1e-14)
        )
        gradient = torch.autograd.grad(solution.y.sum(), [y, *func.parameters()], allow_unused=True)
        network_gradients = [g for g in gradient if g is not None]
        solutions[linear] = (solution, network_gradients)
        assert check_gradients(func, y0, t, method=method, steps=Grid(2), batch_dims=dims).ok
    assert solutions[True][0].stats.jacobians <= 2
    assert solutions[False][0].stats.jacobians >= 16
    assert torch.allclose(solutions[True][0].y, solutions[False][0].y, rtol=1e-11, atol=1e-13)
    for a, b in zip(solutions[True][1], solutions[False][1], strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [[0.3, 1.0], [0.001, 1.0]])
def test_a_changed_step_size_gets_a_new_factorisation(steps: list[float]) -> None:
    """A factor kept for another step size would be wrong without an error."""
    from stiffml import Recorded

    func, y0 = Split(Diffusion(), lambda t, y: torch.cos(y), linear=True), torch.tensor([1.0, 0.5, -0.3])
    y0 = y0.double()
    chosen = Recorded((torch.tensor(steps).double().numpy(),))
    plain = Split(func.implicit, func.explicit)
    a, b = (solve(f, y0, times(0, 0.5), method="arkimex-3", steps=chosen).y for f in (func, plain))
    assert torch.allclose(a, b, rtol=1e-9)
    report = check_gradients(func, y0, times(0, 0.5), method="arkimex-3", steps=chosen)
    assert report.ok, report


def test_a_part_that_is_not_linear_is_noticed(network: SmallNetwork, start: Tensor) -> None:
    with pytest.raises(ValueError, match="not linear in y"):
        solve(Split(network, Diffusion(), linear=True), start, T, method="arkimex-3")


def test_other_methods_take_the_sum(network: SmallNetwork, start: Tensor) -> None:
    split = Split(Diffusion(), network)
    whole = solve(lambda t, y: split.implicit(t, y) + split.explicit(t, y), start, T, method="bdf3")
    assert torch.equal(solve(split, start, T, method="bdf3").y, whole.y)
    with pytest.raises(ValueError, match="needs Split"):
        solve(network, start, T, method="arkimex-ars122")
    with pytest.raises(TypeError, match="Split: explicit must be callable"):
        Split(network, 3.0)
    with pytest.raises(ValueError, match="different γ"):
        solve(network, start, T, method="rosw-ark3")
    with pytest.raises(ValueError, match="ARKIMEX: name must be one of"):
        ARKIMEX("nonsense")


@pytest.mark.parametrize("method", RUNGE_KUTTA_KINDS)
def test_tuple_states_and_reversed_time(method: str) -> None:
    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -5 * y[0] * y[1].sum(-1, keepdim=True), torch.sin(t) - y[1] * y[0].mean(-1, keepdim=True)

    y0 = (torch.tensor([0.5, 0.7]).double(), torch.tensor([0.2, 0.1, 0.4]).double())
    report = check_gradients(func, y0, T.flip(0), method=method, steps=Grid(2))
    assert report.ok, f"{method}:\n{report}"


@pytest.mark.parametrize("method", RUNGE_KUTTA_KINDS)
def test_float32_states(method: str, network: SmallNetwork, start: Tensor) -> None:
    single = copy.deepcopy(network).float()
    y0 = start.float().requires_grad_()
    y = odeint(single, y0, T.float(), method=method, steps=Grid(3))
    assert y.dtype == torch.float32
    (gradient,) = torch.autograd.grad(y.sum(), y0)
    reference = start.clone().requires_grad_()
    (expected,) = torch.autograd.grad(
        odeint(network, reference, T, method=method, steps=Grid(3)).sum(), reference
    )
    assert torch.allclose(gradient.double(), expected, rtol=1e-4)


@pytest.mark.parametrize("method", RUNGE_KUTTA_KINDS)
@pytest.mark.parametrize("ignores", ["t", "y", "both"])
def test_functions_that_ignore_an_argument(method: str, ignores: str, start: Tensor) -> None:
    scale = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    func = {
        "t": lambda t, y: -scale * y**2,
        "y": lambda t, y: scale * torch.cos(t),
        "both": lambda t, y: scale * 1.0,
    }[ignores]
    report = check_gradients(func, start, T, method=method, steps=Grid(2), params=[scale])
    assert report.ok, f"{method}:\n{report}"


@pytest.mark.parametrize("method", RUNGE_KUTTA_KINDS)
def test_one_block_used_twice_with_frozen_and_shared_parameters(method: str, start: Tensor) -> None:
    network = SmallNetwork()
    network.hidden.bias.requires_grad_(False)
    other = SmallNetwork()
    other.out = network.out
    func: nn.Module = Split(other, network) if METHODS[method].split else network
    block = ODEBlock(func, T, method=method, steps=Grid(2))
    y0 = start.clone().requires_grad_()

    def loss() -> Tensor:
        return block(block(y0)[-1]).sum()

    value = loss()
    block(y0 + 1)  # a forward run in between changes nothing
    value.backward()
    assert network.hidden.bias.grad is None
    weight, index, e = network.out.weight, (1, 2), 1e-5
    expected = float(weight.grad[index])
    with torch.no_grad():
        weight[index] += e
        above = float(loss())
        weight[index] -= 2 * e
        below = float(loss())
    assert abs((above - below) / (2 * e) - expected) < 1e-6 * max(1, abs(expected))
