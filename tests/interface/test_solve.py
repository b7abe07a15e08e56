"""What a caller may expect of solve, odeint, ODEBlock and Solution besides right gradients."""

from __future__ import annotations

import copy
import gc
import resource

import pytest
import torch
from small_problems import SmallNetwork, decay, times
from torch import Tensor

from stiffml import (
    BDF,
    Discrete,
    Grid,
    Newton,
    Theta,
    check_gradients,
    odeint,
    solve,
)
from stiffml.system.function.batching import Batching, batching_of
from stiffml.system.state import Layout

T = times(0, 0.3, 1)


def exact(y0: Tensor, t: Tensor) -> Tensor:
    return y0 * torch.exp(-t)[:, None]


def test_odeint_is_the_solution(start: Tensor) -> None:
    y = odeint(decay, start, T, rtol=1e-9, atol=1e-12)
    assert y.shape == (3, 3)
    assert torch.equal(y[0], start)
    torch.testing.assert_close(y, exact(start, T), rtol=1e-7, atol=0)


@pytest.mark.parametrize("method", ["bdf", "cn", "dopri5"])
def test_decreasing_times(method: str, network: SmallNetwork, start: Tensor) -> None:
    forward = odeint(network, start, times(0, 0.7), method=method, rtol=1e-6, atol=1e-8)
    back = odeint(network, forward[-1], times(0.7, 0.3, 0), method=method, rtol=1e-6, atol=1e-8)
    # Each way has a global error of at most a hundred rtol.
    torch.testing.assert_close(back[-1], start, rtol=2e-4, atol=2e-4)


def test_one_time_returns_the_start(start: Tensor) -> None:
    y = odeint(decay, start.requires_grad_(), times(2.0))
    assert torch.equal(y, start[None])
    (gradient,) = torch.autograd.grad(y.sum(), start)
    assert torch.equal(gradient, torch.ones(3, dtype=torch.float64))


def test_method_objects_and_names_agree(start: Tensor) -> None:
    for name, method in (("bdf3", BDF(3)), ("theta", Theta(0.55)), ("cn", Theta(0.5))):
        a, b = (odeint(decay, start, T, method=m, steps=Grid(4)) for m in (name, method))
        assert torch.equal(a, b)


def test_a_list_is_as_good_as_a_tuple(start: Tensor) -> None:
    a, b = odeint(lambda t, y: [-y[0], -y[1]], (start, start[:1]), T, method="cn", steps=Grid(3))
    torch.testing.assert_close(a[:, :1], b)


def test_tuple_state(network: SmallNetwork, start: Tensor) -> None:
    def split(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        slope = network(t, torch.cat([y[0], y[1].reshape(-1)]))
        return slope[:1], slope[1:].reshape(2, 1)

    whole = odeint(network, start, T, method="cn", steps=Grid(3))
    a, b = odeint(split, (start[:1], start[1:].reshape(2, 1)), T, method="cn", steps=Grid(3))
    assert a.shape == (3, 1)
    assert b.shape == (3, 2, 1)
    torch.testing.assert_close(torch.cat([a, b.reshape(3, 2)], dim=1), whole)
    y0 = (start[:1], start[1:].reshape(2, 1))
    report = check_gradients(split, y0, T, method="bdf2", steps=Grid(3), params=list(network.parameters()))
    assert report.ok, report
    assert {check.name for check in report.checks} >= {"y0[0]", "y0[1]", "t", "params[0]"}


@pytest.mark.parametrize("method", ["bdf", "cn", "dopri5"])
def test_batched_equals_looped(method: str, network: SmallNetwork) -> None:
    """Independent samples in a leading dimension: the block solver gives what single solves give."""
    y0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    newton = {} if method == "dopri5" else {"newton": Newton(rtol=1e-13, atol=1e-15)}
    arguments = {"method": method, "steps": Grid(5), **newton}
    batched = odeint(network, y0.requires_grad_(), T, batch_dims=1, **arguments)
    looped = torch.stack([odeint(network, row, T, **arguments) for row in y0], dim=1)
    torch.testing.assert_close(batched, looped, rtol=1e-11, atol=1e-13)
    weights = torch.rand(batched.shape, dtype=torch.float64)
    inputs = [y0, *network.parameters()]
    for a, b in zip(
        *(torch.autograd.grad((weights * y).sum(), inputs) for y in (batched, looped)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_batched_gradients_adaptive(network: SmallNetwork) -> None:
    y0 = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    report = check_gradients(network, y0, T, batch_dims=2, method="bdf2", rtol=1e-3, atol=1e-5)
    assert report.ok, report


def test_function_of_a_single_state(start: Tensor) -> None:
    """y[0] means a component only if y is one state: such a function is mapped, not broadcast."""

    def indexed(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0] * y[1], y[0] - t * y[1], torch.sin(y[2])])

    report = check_gradients(indexed, start, T, method="cn", steps=Grid(3))
    assert report.ok, report


def test_function_that_branches_on_values(start: Tensor) -> None:
    """What vmap cannot follow is evaluated one state at a time, with the same gradients."""

    def branching(t: Tensor, y: Tensor) -> Tensor:
        return -y * (3.0 if float(y[0]) > 0.42 else 2.0)

    report = check_gradients(branching, start, T, method="cn", steps=Grid(4))
    assert report.ok, report


def test_function_whose_coupling_shows_late(start: Tensor) -> None:
    """What mixes components must never mix the rows of a batch, even where the start does not tell."""

    def relu(t: Tensor, y: Tensor) -> Tensor:
        return -y + torch.relu(y.sum() - 3) * torch.tensor([0, -5.0], dtype=y.dtype) + y.new_tensor([3, 1.0])

    def step(t: Tensor, y: Tensor) -> Tensor:
        return (
            -y + torch.where(y.sum() > 3, 3 - y.sum(), 0.0) * y.new_tensor([0, 5.0]) + y.new_tensor([3, 1.0])
        )

    y0 = torch.full((2,), 0.1, dtype=torch.float64)
    for func in (relu, step):
        implicit, explicit = (odeint(func, y0, times(0, 5), method=m)[-1] for m in ("bdf", "dopri5"))
        torch.testing.assert_close(implicit, explicit, rtol=1e-3, atol=1e-4)
    gate = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    report = check_gradients(
        lambda t, y: -y + gate * torch.softmax(y, 0), start, T, method="cn", steps=Grid(4), params=[gate]
    )
    assert report.ok, report
    assert report["params[0]"].rate < 3, "a zero parameter must be moved, or its check means nothing"


def test_inference_mode(network: SmallNetwork, start: Tensor) -> None:
    reference = solve(network, start, T, method="cn", steps=Grid(3))
    with torch.inference_mode():
        solution = solve(network, start, T, method="cn", steps=Grid(3))
    assert torch.equal(solution.y, reference.y.detach())
    assert solution.stats.newton_iterations == reference.stats.newton_iterations


def test_function_that_ignores_the_state_or_the_parameters(start: Tensor) -> None:
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y: torch.ones_like(y) * t, start.requires_grad_(), T, method="bdf2", params=[unused])
    gradient, none = torch.autograd.grad(y.sum(), [start, unused], allow_unused=True)
    torch.testing.assert_close(gradient, torch.full((3,), 3.0, dtype=torch.float64))
    assert none is None


def test_float32(network: SmallNetwork, start: Tensor) -> None:
    single = copy.deepcopy(network).float()
    seen = set()

    def func(t: Tensor, y: Tensor) -> Tensor:
        seen.update({t.dtype, y.dtype})
        return single(t, y)

    y0 = start.float().requires_grad_()
    y = odeint(func, y0, T, method="bdf", params=list(single.parameters()))
    assert y.dtype == torch.float32
    assert seen == {torch.float32}
    y.sum().backward()
    reference = odeint(network, start.requires_grad_(), T, rtol=1e-9, atol=1e-12)
    reference.sum().backward()
    torch.testing.assert_close(y, reference.float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(y0.grad, start.grad.float(), rtol=1e-2, atol=1e-3)
    assert y0.grad.dtype == single.out.weight.grad.dtype == torch.float32
    fixed = odeint(func, y0, T, method="cn", steps=Grid(20))
    torch.testing.assert_close(fixed, reference.float(), rtol=1e-2, atol=1e-2)


def test_two_forwards_before_one_backward(network: SmallNetwork, start: Tensor) -> None:
    other = start * 2

    def gradient(*starts: Tensor) -> list[Tensor]:
        losses = [odeint(network, y, T, method="cn", steps=Grid(4))[-1].square().sum() for y in starts]
        return torch.autograd.grad(sum(losses), list(network.parameters()))

    for both, first, second in zip(gradient(start, other), gradient(start), gradient(other), strict=True):
        torch.testing.assert_close(both, first + second, rtol=1e-13, atol=1e-15)


def test_a_second_solve_of_the_same_shape_takes_its_own_settings(
    network: SmallNetwork, start: Tensor
) -> None:
    def gradient(*settings: dict) -> list[Tensor]:
        ys = [
            odeint(network, start, T, **chosen) for chosen in settings
        ]  # all alive before the first backward
        return [torch.autograd.grad(y.square().sum(), network.out.weight)[0] for y in ys]

    settings = [
        {"method": "cn", "steps": Grid(4)},
        {"method": "dopri5", "rtol": 1e-9},
        {"method": "cn", "steps": Grid(2)},
        {"method": "bdf3", "rtol": 1e-4, "options": {"ts_adapt_safety": 0.5}},
        {"method": "bdf3", "rtol": 1e-4},
    ]
    alone = [gradient(chosen)[0] for chosen in settings]
    for a, b in zip(gradient(*settings), alone, strict=True):
        assert torch.equal(a, b), "something is shared between solves"
    for i, a in enumerate(alone):
        assert not any(torch.equal(a, b) for b in alone[:i]), "settings without effect"


def test_solve_inside_func(start: Tensor) -> None:
    """Solves share nothing, so one may run inside another's right-hand side."""

    def nested(t: Tensor, y: Tensor) -> Tensor:
        return -odeint(decay, y, times(0, 1), method="cn", steps=Grid(20))[-1] * torch.e

    y = odeint(nested, start, T, method="cn", steps=Grid(10))
    torch.testing.assert_close(y, exact(start, T), rtol=1e-3, atol=0)


def test_backward_twice_and_double_backward(network: SmallNetwork, start: Tensor) -> None:
    y = odeint(network, start.requires_grad_(), T, method="cn", steps=Grid(3)).sum()
    (first,) = torch.autograd.grad(y, start, retain_graph=True)
    (second,) = torch.autograd.grad(y, start, retain_graph=True, create_graph=True)
    assert torch.equal(first, second)
    (hessian,) = torch.autograd.grad(second.sum(), start, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(hessian.sum(), start)


def test_second_derivatives_stop_at_the_times(network: SmallNetwork, start: Tensor) -> None:
    t = T.clone().requires_grad_()
    y = odeint(network, start.requires_grad_(), t, method="cn", steps=Grid(3)).sum()
    (first,) = torch.autograd.grad(y, start, create_graph=True)
    with pytest.raises(RuntimeError, match="output times are not available"):
        torch.autograd.grad(first.sum(), start)


def test_parameters_changed_before_backward_are_noticed(network: SmallNetwork, start: Tensor) -> None:
    y = odeint(network, start, T, method="cn", steps=Grid(3))
    with torch.no_grad():
        network.out.bias.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def resident_megabytes() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.alone
def test_a_thousand_solves_leave_memory_flat(network: SmallNetwork, start: Tensor) -> None:
    y0 = start.requires_grad_()

    def hundred() -> float:
        for i in range(100):
            method = ("cn", "bdf3", "rk4")[i % 3]
            odeint(network, y0, T, method=method, steps=Grid(2)).sum().backward()
        gc.collect()
        return resident_megabytes()

    used = [hundred() for _ in range(10)]
    # A leaked TS is some 20 kB: 900 of them would be 18 MB.
    assert used[-1] - used[0] < 4, f"resident memory grew from {used[0]:.1f} to {used[-1]:.1f} MB: a leak"


def test_explicit_methods_need_no_jacobian_of_a_large_state() -> None:
    """A hundred thousand components: their Jacobian would take 80 GB."""
    y0 = torch.linspace(0, 1, 100_000, dtype=torch.float64).requires_grad_()
    y = odeint(decay, y0, times(0, 0.1, 0.3), method="rk4", steps=Grid(2))
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    torch.testing.assert_close(y[-1], y0 * y0.new_tensor(-0.3).exp(), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, y0.new_tensor(-0.3).exp().expand_as(y0), rtol=1e-5, atol=0)


def test_a_function_in_equilibrium_is_still_batched() -> None:
    """There f is the rounding of terms that cancel, and sums in another order give other rounding."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(40, 40, generator=generator, dtype=torch.float64)
    rates -= rates.sum(dim=0).diag()  # columns sum to zero: equal states of all are an equilibrium
    y, t = torch.full((40,), 1e3, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return y @ rates if y.ndim == 1 else y.flip(-1) @ rates.flip(0)  # as a blocked product may do

    different = (func(t, y[None])[0] - func(t, y)).abs().max() / func(t, y).abs().max()
    assert different > 1e-3
    batched = batching_of(func, Layout.of(y, 0), t, y)
    assert batched is Batching.NATIVE, "look at what _Rounding explains in system/function/batching.py"
    mixing = batching_of(lambda t, y: func(t, y) + 1e-9 * y.sum(), Layout.of(y, 0), t, y)
    assert mixing is Batching.VMAP


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("method", ["cn", "bdf3", "dirk-es324sal", "rosw-rodas3", "arkimex-3"])
def test_a_jacobian_that_torch_passes_on(method: str, width: int) -> None:
    """Of y + g(t) torch returns the very cotangents it was given, which those of later Jacobians are too."""
    y0, t = torch.ones(3, width, dtype=torch.float64, requires_grad=True), times(1.0, 2.0, 3.0)
    forces = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, -0.1]], dtype=torch.float64)[:, :width]

    def run(factor: float | None) -> tuple[Tensor, Tensor]:
        def func(t: Tensor, y: Tensor) -> Tensor:
            return (y if factor is None else factor * y) + torch.sin(t) * forces

        found = solve(func, y0, t, method=method, batch_dims=1, adjoint=Discrete("solutions")).y
        assert isinstance(found, Tensor)
        return found.detach(), *torch.autograd.grad(found.square().sum(), y0)

    for found, expected in zip(run(None), run(1.0), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=0), "look at _own in dynamics.py"
