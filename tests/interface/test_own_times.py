"""t of shape (batch, n): every sample has output times and steps of its own."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from methods import ADAPTIVE, BEYOND_THE_STEP, EVERY_KIND, WITH_INTERPOLATION, WITH_RAGGED_TIMES
from own_times import ROWS, Kinetics, gradients, one_by_one, starts, taken, times
from torch import Tensor

import stiffml
from stiffml import METHODS, Adaptive, Discrete, Fixed, Grid, Newton, Split, odeint, sensitivities, solve

D = torch.float64
ABLE = [name for name in ADAPTIVE if METHODS[name].within_step]


def alone(func, y0: Tensor, t: Tensor, **arguments) -> Tensor:
    """(n, batch, width): each sample by the ordinary path, without a batch."""
    return torch.stack([odeint(func, u, own, **arguments) for u, own in zip(y0, t, strict=True)], 1)


@cache
def exact() -> Tensor:
    with torch.no_grad():
        return alone(Kinetics(), starts(), times(), rtol=1e-10, atol=1e-12)


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("method", ABLE)
def test_adaptive_steps_keep_the_tolerance(method: str) -> None:
    """And take about as many as PETSc takes for a sample alone: the estimates are the same."""
    func, y0, t = Kinetics(), starts(), times()
    with torch.no_grad():
        arguments = {"method": method, "rtol": 1e-4, "atol": 1e-6}
        solution = solve(taken(method, func), y0, t, batch_dims=1, **arguments)
        expected = solve(taken(method, func), y0[0], t[0], **arguments)
    by_petsc = max(off(expected.y, exact()[:, 0]), 1e-4)
    assert off(solution.y[:, 0], exact()[:, 0]) <= 3 * by_petsc, f"{method}: look at native/side_by_side/"
    counts = [sum(map(len, steps.ends)) for steps in solution.steps]
    assert len(set(counts)) > 1, "samples have steps of their own"
    assert sum(counts) == solution.stats.accepted
    assert counts[0] <= 1.5 * expected.stats.accepted + 15, f"{method}: {counts}, {expected.stats.accepted}"


@pytest.mark.parametrize(
    "method",
    [
        "bdf",
        pytest.param("bdf2", marks=pytest.mark.sweep),
        "sdirk3",
        "rosw-ra34pw2",
        "dirk-es325sal",
        "dopri5",
    ],
)
def test_batch_of_twenty(method: str) -> None:
    """Each is its own solve to 1e-8, and so are the gradients."""
    torch.manual_seed(0)
    func = Kinetics(20.0)
    y0 = starts(2).repeat(10, 1) + 0.1 * torch.rand(20, 2, dtype=D)
    t = torch.cumsum(0.05 + 0.2 * torch.rand(20, 4, dtype=D), dim=1)
    y0.requires_grad_()
    t.requires_grad_()
    arguments = {"method": method, "rtol": 1e-6, "atol": 1e-8}
    y = odeint(func, y0, t, batch_dims=1, **arguments)
    expected = one_by_one(func, y0, t, **arguments)
    assert off(y, expected) <= 1e-8, f"{method}: look at native/side_by_side/"
    weights = torch.randn_like(y)
    found, wanted = (gradients((weights * v).sum(), y0, t, func.k) for v in (y, expected))
    for name, a, b in zip(("y0", "t", "k"), found, wanted, strict=True):
        assert off(a, b) <= 1e-8, f"{method}, {name}: look at gradients/ with several trajectories"


def test_default_method_at_a_tight_tolerance() -> None:
    """Against PETSc's own steps, with a tolerance at which both are exact to 1e-8."""
    func, y0, t = Kinetics(20.0), starts().requires_grad_(), times()
    arguments = {"rtol": 1e-11, "atol": 1e-13}
    y, expected = odeint(func, y0, t, batch_dims=1, **arguments), alone(func, y0, t, **arguments)
    assert off(y, expected) <= 1e-8
    weights = torch.randn_like(y)
    found, wanted = (gradients((weights * v).sum(), y0, func.k) for v in (y, expected))
    for a, b in zip(found, wanted, strict=True):
        assert off(a, b) <= 1e-7


@pytest.mark.parametrize("checkpoints", ["stages", "solutions"])
@pytest.mark.parametrize("steps", [Grid(6), Fixed(0.04)], ids=["grid", "fixed"])
@pytest.mark.parametrize("method", WITH_RAGGED_TIMES)
def test_known_steps(method: str, steps, checkpoints: str) -> None:
    """Side by side the same as those of the ordinary path, with gradients for y0, t and parameters."""
    steps = Fixed(0.01) if method in ("rk4", "dopri5") else steps
    func = Kinetics()
    y0, t = starts().requires_grad_(), times().requires_grad_()
    arguments = {
        "method": method,
        "steps": steps,
        "adjoint": Discrete(checkpoints),
        **({"newton": Newton(rtol=1e-13)} if METHODS[method].newton else {}),
    }
    whole = taken(method, func)
    y = odeint(whole, y0, t, batch_dims=1, stepping="sequential", **arguments)
    expected = alone(whole, y0, t, **arguments)
    assert off(y, expected) <= 1e-10, f"{method}: look at goals.Known, then at newton.SideBySide"
    weights = torch.randn_like(y)
    found, wanted = (gradients((weights * v).sum(), y0, t, func.k) for v in (y, expected))
    for name, a, b in zip(("y0", "t", "k"), found, wanted, strict=True):
        assert off(a, b) <= 1e-8, f"{method}, {name}"


@pytest.mark.parametrize("method", ["bdf", "sdirk3", "dopri5"])
def test_recorded_steps(method: str) -> None:
    """The steps of a solve again, and the gradient by differences with these held."""
    func, y0, t = Kinetics(20.0), starts().requires_grad_(), times()
    arguments = {"method": method, "batch_dims": 1}
    first = solve(func, y0, t, rtol=1e-7, atol=1e-9, **arguments)
    (gradient,) = gradients(first.y.square().sum(), func.k)
    newton = {"newton": Newton(rtol=1e-13)} if METHODS[method].newton else {}

    def value(change: Tensor) -> float:
        with torch.no_grad():
            func.k += change
            y = odeint(func, y0, t, steps=first.steps, **newton, **arguments)
            func.k -= change
        return float(y.square().sum())

    again = odeint(func, y0, t, steps=first.steps, **newton, **arguments)
    assert off(again, first.y) <= 1e-7
    for i in range(2):
        step = torch.zeros(2, dtype=D)
        step[i] = 1e-5
        difference = (value(step) - value(-step)) / 2e-5
        # The first solve stops Newton's iteration at 1 % of the step tolerance.
        assert abs(difference - float(gradient[i])) <= 1e-6 * max(1.0, abs(difference)), f"parameter {i}"


@pytest.mark.parametrize("method", ["bdf3", "rosw-ra34pw2", "arkimex-3", "dopri5"])
def test_a_sample_does_not_depend_on_the_others(method: str) -> None:
    """Permuted, duplicated, or in part, the samples come out the same."""
    func, y0, t = Kinetics(), starts(), times()
    arguments = {"method": method, "batch_dims": 1, "rtol": 1e-6, "atol": 1e-8}
    whole = taken(method, func)
    with torch.no_grad():
        y = odeint(whole, y0, t, **arguments)
        for order in ([3, 1, 0, 2], [0, 0, 1, 1, 2, 3, 3], [2], [1, 3]):
            again = odeint(whole, y0[order], t[order], **arguments)
            assert off(again, y[:, order]) <= 1e-12, f"{method}, samples {order}"


@pytest.mark.parametrize("method", WITH_INTERPOLATION)
def test_interpolation(method: str) -> None:
    func = Kinetics(5.0)
    y0, t = starts().requires_grad_(), times()
    torch.manual_seed(1)
    asked = (t[:, :1] + (t[:, -1:] - t[:, :1]) * torch.rand(4, 5, dtype=D)).requires_grad_()
    newton = {"newton": Newton(rtol=1e-13)} if METHODS[method].newton else {}
    arguments = {"method": method, "steps": Grid(6), **newton}
    y = solve(func, y0, t, batch_dims=1, **arguments).interpolate(asked)
    each = zip(y0, t, asked, strict=True)
    expected = torch.stack([solve(func, u, own, **arguments).interpolate(s) for u, own, s in each], 1)
    assert off(y, expected) <= 1e-9, f"{method}: look at interface/own_times/readings.py"
    found, wanted = (gradients(v.square().sum(), y0, asked, func.k) for v in (y, expected))
    for name, a, b in zip(("y0", "t", "k"), found, wanted, strict=True):
        assert off(a, b) <= 1e-7, f"{method}, {name}"


@pytest.mark.parametrize("method", EVERY_KIND)
def test_interpolated_outputs(method: str) -> None:
    """Steps pass over the outputs; gradients reach their times too."""
    func = Kinetics(5.0)
    y0, t = starts().requires_grad_(), times().requires_grad_()
    newton = {"newton": Newton(rtol=1e-13)} if METHODS[method].newton else {}
    arguments = {"method": method, "steps": Grid(20), "outputs": "interpolate", **newton}
    solution = solve(func, y0, t, batch_dims=1, **arguments)
    expected = alone(func, y0, t, **arguments)
    assert [len(steps.ends) for steps in solution.steps] == [1, 1, 1, 1]
    assert off(solution.y, expected) <= 1e-10
    found, wanted = (gradients(v.square().sum(), y0, t, func.k) for v in (solution.y, expected))
    for name, a, b in zip(("y0", "t", "k"), found, wanted, strict=True):
        assert off(a, b) <= 1e-8, f"{method}, {name}"


@pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])
def test_half_step_of_adaptive_steps(compiled: bool) -> None:
    """It is taken to the middle of the first step, also where the steps have estimates of their errors."""
    y0, t = torch.tensor([[1.0]], dtype=D), torch.tensor([[0.0, 1.0]], dtype=D)
    arguments = {"method": "bdf2", "batch_dims": 1, "newton": Newton(rtol=1e-13, atol=1e-15)}

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y + torch.sin(40 * t) * torch.ones_like(y)

    with torch.no_grad():
        steps = Adaptive(initial=0.05)
        first = solve(func, y0, t, rtol=0.1, atol=0.1, steps=steps, compile=compiled, **arguments)
        again = solve(func, y0, t, steps=first.steps, compile=compiled, **arguments)
    assert off(first.y, again.y) <= 1e-12


def test_sensitivities_and_second_derivatives() -> None:
    func, y0, t = Kinetics(5.0), starts().requires_grad_(), times()
    arguments = {"method": "bdf3", "rtol": 1e-6, "atol": 1e-8}
    found = sensitivities(func, y0, t, ["k", "y0"], batch_dims=1, **arguments)
    torch.manual_seed(0)
    w = torch.randn_like(found.solution.y)
    wrt_k, wrt_y0 = gradients((w * found.solution.y).sum(), func.k, y0)
    assert off(torch.einsum("nbi,nbik->k", w, found.wrt["k"]), wrt_k) <= 1e-12
    assert off(torch.einsum("nbi,nbicj->cj", w, found.wrt["y0"]), wrt_y0) <= 1e-12
    along = [torch.randn_like(func.k), torch.randn_like(y0)]

    def product(y: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad((weights * y**2).sum(), [func.k, y0], create_graph=True)
        scalar = sum((a * b).sum() for a, b in zip(first, along, strict=True))
        return torch.autograd.grad(scalar, [func.k, y0])

    together = product(odeint(func, y0, t, batch_dims=1, **arguments), w)
    for i in range(4):
        one = slice(i, i + 1)
        own = product(odeint(func, y0[one], t[one], batch_dims=1, **arguments), w[:, one])
        together = tuple(a - b for a, b in zip(together, own, strict=True))
    assert all(float(rest.abs().max()) <= 1e-10 for rest in together)


def test_repeated_times_of_one_solve() -> None:
    """Outputs are repeated too, and their gradients add up."""
    func, y0 = Kinetics(5.0), starts()[0].requires_grad_()
    t = torch.tensor([0.0, 0.3, 0.3, 0.7, 0.7], dtype=D, requires_grad=True)
    y = solve(func, y0, t, steps=Grid(5)).y
    assert torch.equal(y[1], y[2])
    assert torch.equal(y[3], y[4])
    once = t.detach()[[0, 1, 3]].requires_grad_()
    expected = odeint(func, y0, once, steps=Grid(5))[[0, 1, 1, 2, 2]]
    (found,), (wanted,) = (gradients(v.square().sum(), s) for v, s in ((y, t), (expected, once)))
    assert off(found[[0, 1, 3]], wanted) <= 1e-12
    assert not found[[2, 4]].any()


def test_check_gradients_takes_no_repeated_times() -> None:
    with pytest.raises(ValueError, match="t: a repeated time"):
        stiffml.check_gradients(Kinetics(5.0), starts()[0], times()[1])
    with pytest.raises(ValueError, match="t must be one-dimensional"):
        stiffml.check_gradients(Kinetics(5.0), starts(), times(), batch_dims=1)


def test_times_that_do_not_move() -> None:
    """A sample whose times are all the same stays at its initial state."""
    func, y0 = Kinetics(5.0), starts(2).requires_grad_()
    t = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=D)
    y = odeint(func, y0, t, batch_dims=1)
    assert torch.equal(y[1, 0], y0[0])
    assert off(y[1, 1], odeint(func, y0[1:], t[1:], batch_dims=1)[1, 0]) == 0
    (wrt_y0,) = gradients(y[1, 0].sum(), y0)
    assert torch.equal(wrt_y0, torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=D))


def test_decreasing_times() -> None:
    y0, t = starts(), -times()
    with torch.no_grad():
        y = odeint(lambda t, y: -y + torch.sin(t), y0, t, batch_dims=1, rtol=1e-9, atol=1e-11)
        expected = alone(lambda t, y: -y + torch.sin(t), y0, t, rtol=1e-10, atol=1e-12)
    assert off(y, expected) <= 1e-7


@pytest.mark.parametrize("method", BEYOND_THE_STEP)
def test_methods_beyond_their_step_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="stages beyond its step"):
        solve(taken(method, Kinetics()), starts(), times(), batch_dims=1, method=method, steps=Grid(2))


def test_more_batch_dimensions_and_tuples() -> None:
    """(2, 2) samples, of a state in two parts."""
    func = Kinetics(5.0)
    y0, t = starts().reshape(2, 2, 2), times().reshape(2, 2, -1)

    def parts(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        slope = func(t, torch.stack([y[0], y[1][..., 0]], -1))
        return slope[..., 0], slope[..., 1:]

    expected = odeint(func, starts(), times(), batch_dims=1, steps=Adaptive(), rtol=1e-9, atol=1e-11)
    a, b = odeint(parts, (y0[..., 0], y0[..., 1:]), t, batch_dims=2, rtol=1e-9, atol=1e-11)
    assert a.shape == (len(ROWS[0]), 2, 2)
    assert off(a.reshape(-1, 4), expected[..., 0]) <= 1e-9
    assert off(b.reshape(-1, 4), expected[..., 1]) <= 1e-9


def test_two_parts() -> None:
    """Split: both parts are evaluated at the times of their samples."""
    k = torch.tensor(0.6, dtype=D, requires_grad=True)
    func = Split(lambda t, y: -30 * (y - torch.cos(t)), lambda t, y: k * y.flip(-1) * torch.sin(t))
    arguments = {"method": "arkimex-3", "rtol": 1e-8, "atol": 1e-10}
    y = odeint(func, starts(), times(), batch_dims=1, **arguments)
    expected = alone(func, starts(), times(), **arguments)
    assert off(y, expected) <= 1e-7
    (found,), (wanted,) = (gradients(v.square().sum(), k) for v in (y, expected))
    assert off(found, wanted) <= 1e-6


def test_single_precision() -> None:
    func, y0 = Kinetics(5.0), starts()
    expected = odeint(func, y0, times(), batch_dims=1)
    y0 = y0.float().requires_grad_()
    y = odeint(Kinetics(5.0).float(), y0, times().float(), batch_dims=1)
    assert y.dtype is torch.float32
    assert off(y, expected) <= 2e-3  # its default rtol is 1e-4
    y.sum().backward()
    assert y0.grad is not None
    assert y0.grad.dtype is torch.float32


def test_block_with_own_times() -> None:
    block = stiffml.ODEBlock(Kinetics(5.0), times(), batch_dims=1)
    assert off(block(starts()), odeint(block.func, starts(), times(), batch_dims=1)) == 0
