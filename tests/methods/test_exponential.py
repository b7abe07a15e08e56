"""Exponential methods: what they solve exactly, their gradients, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from forms import Linear, Part, numbers
from gradients import compare
from methods import EXPONENTIAL
from scipy.linalg import expm
from small_problems import times
from torch import Tensor, nn

import problems
from stiffml import (
    ETD,
    GMRES,
    METHODS,
    Discrete,
    Fixed,
    Grid,
    Newton,
    SolveError,
    Split,
    check_gradients,
    odeint,
    sensitivities,
    solve,
)
from stiffml.diagnostics.methods import stability, suits
from stiffml.linear.dense import exponential

D = torch.float64
Y0 = torch.tensor([[0.9, 0.6], [-0.2, 0.4], [0.3, 1.1]], dtype=D)


def parts() -> Split:
    """A parameter is in both parts."""
    shared = numbers(0.4)
    return Split(Linear(shared), Part(shared, 0.6, False), linear=True)


def nothing(t: Tensor, y: Tensor) -> Tensor:
    return 0 * y


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -2 * y


@pytest.mark.parametrize("steps", [Grid(1), Fixed(0.7)])
@pytest.mark.parametrize("method", EXPONENTIAL)
def test_a_linear_problem_is_solved_exactly(method: str, steps) -> None:
    """With fast, slow, oscillating and constant components, by steps of any size, forwards and backwards."""
    generator = np.random.default_rng(0)
    turn = np.eye(6) + 0.3 * generator.standard_normal((6, 6))
    blocks = np.diag([-5e3, -30.0, -0.5, -0.5, 0.0, 0.2])
    blocks[2, 3], blocks[3, 2] = 40.0, -40.0
    matrix = turn @ blocks @ np.linalg.inv(turn)
    func = Split(lambda t, y: y @ torch.from_numpy(matrix).T, nothing, linear=True)
    y0 = generator.standard_normal(6)
    y = odeint(func, torch.from_numpy(y0), times(0, 2, 5), method=method, steps=steps)
    for t, found in ((2.0, y[1]), (5.0, y[2])):
        expected = expm(t * matrix) @ y0
        # Eigenvalues have the rounding errors of 5e3, over times of a few.
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-11 * np.abs(y0).max())


@pytest.mark.parametrize("method", EXPONENTIAL)
def test_decreasing_times(method: str) -> None:
    func = Split(lambda t, y: 0.8 * y.flip(-1), lambda t, y: torch.cos(t) * y, linear=True)
    y0 = torch.tensor([1.0, -0.5], dtype=D)
    y = odeint(func, y0, times(1, 0), method=method, steps=Grid(200))
    exact = odeint(lambda t, y: 0.8 * y.flip(-1) + torch.cos(t) * y, y0, times(1, 0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(y[-1], exact[-1], rtol=1e-5, atol=1e-6)


MODES: dict[str, dict[str, Any]] = {
    "grid": {"steps": Grid(2)},
    "fixed": {"steps": Fixed(0.07)},
    "adaptive": {"rtol": 1e-3, "atol": 1e-4},
    "two checkpoints": {"steps": Grid(3), "adjoint": Discrete(2)},
    "states": {"steps": Grid(3), "adjoint": Discrete("solutions")},
    "between steps": {"steps": Grid(3), "outputs": "interpolate"},
    "breakpoint": {"steps": Grid(2), "breakpoints": [0.2]},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", EXPONENTIAL)
def test_gradients_of_batches(method: str, mode: str) -> None:
    """By y0, t, and parameters of both parts."""
    report = check_gradients(parts(), Y0, times(0.1, 0.3, 0.55), method=method, batch_dims=1, **MODES[mode])
    assert report.ok, f"{report}\nlook at gradients/exponential.py, for t alone at moved_by_size"


class Rates(nn.Module):
    """−rates·y with rates of every sample's own, (samples, 1)."""

    def __init__(self, rates: Tensor) -> None:
        super().__init__()
        self.rates = nn.Parameter(rates)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rates * y + 0.5 * y.flip(-1)


@pytest.mark.parametrize("rates", [[3.0, 3.0, 3.0], [1.0, 4.0, 30.0]], ids=["alike", "different"])
@pytest.mark.parametrize("method", EXPONENTIAL)
def test_samples_may_have_parameters_of_their_own(method: str, rates: list[float]) -> None:
    """Also where the Jacobian is that of all samples, which says nothing about its parameters."""
    all_rates, rest = torch.tensor(rates, dtype=D)[:, None], Part(numbers(0.4), 0.6, False)

    def gradients(rates: Tensor, y0: Tensor) -> tuple[Tensor, Tensor, str]:
        part, y0 = Rates(rates.clone()), y0.clone().requires_grad_()
        split, dims = Split(part, rest, linear=True), y0.dim() - 1
        solution = solve(split, y0, times(0, 0.2, 0.5), method=method, steps=Grid(2), batch_dims=dims)
        assert isinstance(solution.y, Tensor)
        return *torch.autograd.grad((solution.y**3).sum(), [part.rates, y0]), solution.stats.linear

    found = gradients(all_rates, Y0)
    assert ("all samples" in found[2]) == (len(set(rates)) == 1)
    for k in range(len(Y0)):
        alone = gradients(all_rates[k], Y0[k])
        torch.testing.assert_close(found[0][k], alone[0], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(found[1][k], alone[1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", EXPONENTIAL)
def test_the_time_of_an_event_has_a_gradient(method: str) -> None:
    split, y0 = parts(), Y0[0].clone().requires_grad_()

    def passed(t: Tensor, y: Tensor) -> Tensor:
        return y[1] - 0.45

    def loss() -> Tensor:
        found = solve(split, y0, times(0, 3), method=method, steps=Grid(30), event=passed).event
        assert found is not None
        return found.t + found.y[0] ** 2

    inputs = [y0, *split.parameters()]
    error, rate = compare(loss, inputs, torch.autograd.grad(loss(), inputs), 1e-4)
    assert error <= 1e-6
    assert rate >= 1.8, "look at _moved_numbers in gradients/end_time.py"


def test_single_precision() -> None:
    y0 = Y0.float()
    func = Split(decay, lambda t, y: torch.sin(y), linear=True)
    found = odeint(func, y0, times(0, 1).float(), method="etd3", steps=Grid(5), batch_dims=1)
    expected = odeint(func, Y0, times(0, 1), method="etd3", steps=Grid(5), batch_dims=1)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_stability() -> None:
    found = stability("etd3")
    assert (found.kind, found.at_infinity) == ("L", 0)
    assert "linear" in suits("etd3")[2]


def test_what_a_solve_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The φ-functions of one step size, both ways, and as many values of g a step as the order says."""
    sizes, calls, original = [], [0], exponential.phi_functions

    def counted(z: Tensor, highest: int) -> Tensor:
        sizes.append(float(z.detach().abs().max()))
        return original(z, highest)

    def rest(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return torch.sin(y)

    monkeypatch.setattr(exponential, "phi_functions", counted)
    y0 = Y0[0].clone().requires_grad_()
    func = Split(lambda t, y: -40 * y, rest, linear=True)
    needed = []
    for count in (10, 20):
        sizes.clear()
        calls[0] = 0
        t = torch.linspace(0, 1, count + 1, dtype=D)
        y = odeint(func, y0, t, method="etd3", steps=Grid(1))
        needed.append(calls[0])
        y.sum().backward()
        # Of half a step; those of a step are made of these, by one doubling.
        assert len({f"{size:.9e}" for size in sizes}) == len(sizes) == 1, sizes
    # Whether the step can go on is one value more, of what the next one starts with.
    assert needed[1] - needed[0] <= 4 * 10


def test_kuramoto_sivashinsky_in_long_steps() -> None:
    """Of 0.2, where an explicit method needs 0.0024, the end of its stability interval over |λ| = 1 150."""
    problem = problems.load("ks")
    split, y0 = problem.split(), problem.initial_state()
    t = times(0, 2)
    exact = odeint(split, y0, t, method="arkimex-5", rtol=1e-10, atol=1e-12)[-1]

    def error(method: str, h: float) -> float:
        with torch.no_grad():
            return float((odeint(split, y0, t, method=method, steps=Fixed(h))[-1] - exact).abs().max())

    coarse, fine = error("etd3", 0.2), error("etd3", 0.1)
    assert coarse <= 5e-3
    assert 2.5 <= math.log2(coarse / fine) <= 3.6
    try:
        unstable = error("rk4", 0.004)
    except SolveError:
        unstable = math.inf
    assert not unstable <= 1


WHOLE = "needs Split\\(implicit, explicit, linear=True\\)"
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "whole": (decay, {}, WHOLE),
    "not linear": (Split(lambda t, y: -(y**2), nothing, linear=True), {}, "not linear in y"),
    "forced": (
        Split(lambda t, y: -2 * (y - torch.cos(t)), nothing, linear=True),
        {},
        "depends on t.*explicit part",
    ),
    "mass": (Split(decay, nothing, linear=True), {"mass": torch.ones(2, dtype=D)}, "takes no mass matrix"),
    "krylov": (Split(decay, nothing, linear=True), {"linear": GMRES()}, "dense matrix exponentials"),
    "sparse": (Split(decay, nothing, linear=True), {"jacobian": "coloured"}, "dense matrix exponentials"),
    "newton": (Split(decay, nothing, linear=True), {"newton": Newton()}, "newton has no effect"),
    "at once": (Split(decay, nothing, linear=True), {"stepping": "all-at-once"}, "nothing to iterate"),
}


@pytest.mark.parametrize("method", EXPONENTIAL)
def test_a_part_that_is_linear_need_not_be_said_to_be(method: str) -> None:
    found = [
        solve(Split(decay, nothing, linear=said), Y0[0], times(0, 1), method=method, steps=Grid(2)).y
        for said in (True, False)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("method", EXPONENTIAL)
def test_what_is_refused(method: str, kind: str) -> None:
    func, arguments, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        solve(func, Y0[0], times(0, 1), method=method, steps=Grid(2), **arguments)


def test_orders_that_are_refused() -> None:
    for order in (1, 4, True, "3"):
        with pytest.raises(ValueError, match="order must be 2 or 3"):
            ETD(order)  # type: ignore[arg-type]
    assert METHODS["etd3"] == ETD()


def test_derivatives_that_are_refused() -> None:
    split, y0 = parts(), Y0[0].clone().requires_grad_()
    arguments: dict[str, Any] = {"method": "etd3", "steps": Grid(2)}
    y = odeint(split, y0, times(0, 0.5), **arguments)
    (first,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(NotImplementedError, match="linear part has parameters"):
        first.sum().backward()
    with pytest.raises(NotImplementedError, match="by parameters of the linear part"):
        sensitivities(split, Y0[0], times(0, 0.5), ["implicit.rates"], **arguments)
    found = sensitivities(split, Y0[0], times(0, 0.5), ["explicit.own"], **arguments)
    expected = torch.autograd.grad(odeint(split, y0, times(0, 0.5), **arguments)[1, 0], split.explicit.own)
    torch.testing.assert_close(found.wrt["explicit.own"][1, 0], expected[0], rtol=1e-10, atol=1e-13)
