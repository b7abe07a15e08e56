"""Samples with times of their own in C, each by itself: compared with the same steps taken side by side."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from methods import ADAPTIVE, WITH_RAGGED_TIMES
from own_times import Kinetics, starts, times
from torch import Tensor

import stiffml
from stiffml import METHODS, Adaptive, Discrete, Fixed, Grid, Newton, Solution, solve
from stiffml.compiled.function import CompiledFunction

D = torch.float64
WHOLE = [name for name in WITH_RAGGED_TIMES if METHODS[name].whole]
CONTROLLED = [name for name in ADAPTIVE if name in WHOLE]
IN_PYTHON = ("beuler", "cn", "theta")
"""Their estimates of errors use earlier states, which C does not keep for one-step methods."""


def in_python(call: Callable[[], Any]) -> Any:
    with (
        patch("stiffml.interface.own_times.integrate.obstacle", lambda work: "told so"),
        patch("stiffml.gradients.adjoint.reversed_by_sample", lambda *given: None),
    ):
        return call()


def differentiated(func: Kinetics, **arguments: Any) -> tuple[Solution, list[Tensor]]:
    """A compiled solve, and gradients of it by y0 and the parameters."""
    y0 = arguments.pop("y0", starts()).clone().requires_grad_()
    t = arguments.pop("t", times())
    solution = solve(func, y0, t, batch_dims=1, compile=True, **arguments)
    weights = torch.linspace(0.3, 1.0, solution.y.numel(), dtype=D).view(solution.y.shape)
    return solution, list(torch.autograd.grad((weights * solution.y).sum(), [y0, *func.parameters()]))


def require_close(found: Tensor, wanted: Tensor, within: float, what: str) -> None:
    off = (found - wanted).detach().abs().max()
    assert off <= within * wanted.detach().abs().max(), f"{what}: {off:.3g} off"


@pytest.mark.parametrize("method", CONTROLLED)
def test_adaptive_steps(method: str) -> None:
    """As many steps, which rounding moves a little. On equal steps the same values and gradients."""
    func = Kinetics()
    newton = {"newton": Newton(rtol=1e-13, atol=1e-15)} if METHODS[method].newton else {}
    arguments = {"method": method, "rtol": 1e-5, "atol": 1e-7}
    found, gradients = differentiated(func, **arguments, **newton)
    wanted, _ = in_python(lambda: differentiated(func, **arguments, **newton))
    assert found.stats.in_c == (0 if method in IN_PYTHON else found.stats.accepted)
    assert wanted.stats.in_c == 0
    assert found.stats.accepted == wanted.stats.accepted
    require_close(found.y, wanted.y, 30e-5, f"{method}: look at native/compiled_run/drive.c")
    again = {"method": method, "steps": found.steps, **newton}
    wanted, expected = in_python(lambda: differentiated(func, **again))
    require_close(found.y, wanted.y, 1e-10, f"{method}: look at native/compiled_run/rows.c")
    for a, b in zip(gradients, expected, strict=True):
        require_close(a, b, 1e-8, f"{method}: look at native/compiled_run/reverse.c")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("method", [m for m in CONTROLLED if METHODS[m].newton])
def test_gradients_are_those_of_equations_that_hold(method: str, compiled: bool) -> None:
    """Also at loose tolerances, a hundredth of which Newton's iteration could leave."""
    func, y0 = Kinetics(), starts().requires_grad_()

    def gradients(**arguments: Any) -> tuple[Solution, list[Tensor]]:
        solution = solve(func, y0, times(), batch_dims=1, compile=compiled, method=method, **arguments)
        weights = torch.linspace(0.3, 1.0, solution.y.numel(), dtype=D).view(solution.y.shape)
        return solution, list(torch.autograd.grad((weights * solution.y).sum(), [y0, *func.parameters()]))

    found, ours = gradients(rtol=1e-3, atol=1e-5)
    _, exact = gradients(steps=found.steps, newton=Newton(rtol=1e-13, atol=1e-15))
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).norm() <= 1e-8 * b.norm(), f"{method}: look at what native/side_by_side/work.py leaves"


@pytest.mark.parametrize("method", [m for m in CONTROLLED if METHODS[m].stepper == "native"])
def test_the_steps_of_a_sample_are_those_of_its_own_solve(method: str) -> None:
    """As many, and ends that differ by what Newton's iteration leaves. PETSc, which takes the others alone,
    limits how steps grow in ways of its own."""
    newton = {"newton": Newton(rtol=1e-13, atol=1e-15)} if METHODS[method].newton else {}
    arguments = {"method": method, "rtol": 1e-4, "atol": 1e-6, **newton}
    func, y0, t = Kinetics(), starts(), times()
    with torch.no_grad():
        together = solve(func, y0, t, batch_dims=1, compile=True, **arguments)
        for i, steps in enumerate(together.steps):
            distinct = torch.unique_consecutive(t[i])
            alone = solve(func, y0[i], distinct, **arguments)
            found, wanted = (torch.from_numpy(np.concatenate(s.ends)) for s in (steps, alone.steps))
            assert len(found) == len(wanted), f"{method}, sample {i}: look at native/side_by_side/goals.py"
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("checkpoints", ["stages", "solutions"])
@pytest.mark.parametrize("method", WHOLE)
def test_known_steps(method: str, checkpoints: str) -> None:
    func = Kinetics()
    arguments = {
        "method": method,
        "steps": Fixed(0.01) if method in ("rk4", "dopri5") else Grid(6),
        "adjoint": Discrete(checkpoints),
        **({"newton": Newton(rtol=1e-13)} if METHODS[method].newton else {}),
    }
    found, gradients = differentiated(func, **arguments)
    wanted, expected = in_python(lambda: differentiated(func, **arguments))
    assert found.stats.in_c == found.stats.accepted == wanted.stats.accepted
    require_close(found.y, wanted.y, 1e-12, f"{method}: look at native/compiled_run/rows.c")
    for a, b in zip(gradients, expected, strict=True):
        require_close(a, b, 1e-10, f"{method}: look at native/compiled_run/reverse.c")


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("method", ["rosw-rodaspr2", "bdf3", "sdirk3"])
def test_the_same_bits_whatever_else_there_is(method: str, threads: int) -> None:
    """In another order, in part, and on other numbers of threads."""
    func, y0, t = Kinetics(), starts(), times()
    arguments = {"method": method, "rtol": 1e-6, "atol": 1e-8}

    def one(order: list[int]) -> tuple[Tensor, Tensor]:
        start = y0[order].requires_grad_()
        y = solve(func, start, t[order], batch_dims=1, compile=True, **arguments).y
        return y.detach(), torch.autograd.grad(y.square().sum(), start)[0]

    y, gradient = one([0, 1, 2, 3])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [0, 0, 1, 1, 2, 3, 3], [2]):
            again, also = one(order)
            assert torch.equal(again, y[:, order])
            assert torch.equal(also, gradient[order])
    finally:
        torch.set_num_threads(before)


def blows_up(t: Tensor, y: Tensor) -> Tensor:
    return y**2


def oscillates(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1] * 1e3, -y[..., 0] * 1e3], -1)


@pytest.mark.parametrize(
    ("func", "arguments"),
    [
        (blows_up, {"method": "bdf"}),
        (blows_up, {"method": "rosw-ra34pw2"}),
        (blows_up, {"method": "sdirk3"}),
        (blows_up, {"method": "dopri5"}),
        (oscillates, {"steps": Adaptive(max_steps=60)}),
        (oscillates, {"steps": Adaptive(minimum=1e-2), "method": "bdf3"}),
        (oscillates, {"steps": Adaptive(minimum=1e-2), "method": "rosw-ra34pw2"}),
        (blows_up, {"steps": Grid(2), "method": "beuler", "newton": Newton(max_iterations=2)}),
        (blows_up, {"steps": Grid(2), "method": "bdf2", "newton": Newton(max_iterations=2)}),
    ],
)
def test_a_failure_is_that_of_the_sample(func: Callable, arguments: dict) -> None:
    """The same message as without C; the other sample reaches its end."""
    y0 = torch.tensor([[0.0, 0.0], [3.0, 2.0]], dtype=D)
    t = torch.tensor([[0.0, 1e-3, 1e-3], [0.0, 0.4, 0.9]], dtype=D)

    def call() -> Solution:
        with torch.no_grad():
            return solve(func, y0, t, batch_dims=1, compile=True, throw=False, **arguments)

    found, wanted = call(), in_python(call)
    assert found.stats.in_c == found.stats.accepted > 0
    assert found.status is wanted.status is not stiffml.Status.SUCCESS
    numbers = re.compile(r"= [-+.e0-9]+")  # where it blows up is ill-conditioned
    assert numbers.sub("", found.message) == numbers.sub("", wanted.message)
    assert "sample [1]" in found.message
    torch.testing.assert_close(found.y, wanted.y, rtol=1e-9, atol=1e-12, equal_nan=True)


GRID, ADAPTIVE = {"steps": Grid(8)}, {"rtol": 1e-6, "atol": 1e-9}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("beuler", GRID), ("bdf2", GRID), ("sdirk3", GRID), ("bdf2", ADAPTIVE), ("sdirk3", ADAPTIVE)],
)
@pytest.mark.parametrize("samples", [1, 2])
def test_jacobians_that_are_not_finite_are_mended(samples: int, method: str, arguments: dict) -> None:
    """One that is infinite, in one of two samples or of a single state; backwards in time too."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[..., 0].sqrt(), y[..., 0] - y[..., 1]], -1)

    y0, t = torch.tensor([[0.0, 0.5], [1.0, 0.5]], dtype=D), torch.tensor([0.0, 0.5, 1.0], dtype=D)
    if samples == 1:
        y0 = y0[0]
    else:
        t, arguments = t.expand(2, 3), {**arguments, "batch_dims": 1}
    for sign in (1, -1):

        def call(sign: int = sign) -> Solution:
            with torch.no_grad():
                return solve(
                    lambda t, y: sign * func(t, y), y0, sign * t, method=method, compile=True, **arguments
                )

        found, wanted = call(), in_python(call)
        assert found.stats.mended_jacobians == wanted.stats.mended_jacobians > 0, "look at mend in rows.c"
        assert found.stats.in_c == found.stats.accepted == wanted.stats.accepted
        # With differences for derivatives Newton's iteration ends some way from the solution.
        torch.testing.assert_close(found.y, wanted.y, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", ["bdf", "sdirk3", "rosw-rodaspr2"])
@pytest.mark.parametrize("singular", [False, True], ids=["invertible", "singular"])
def test_mass_matrices(method: str, singular: bool) -> None:
    """Also the gradient by the mass matrix, which is left to Python."""
    mass = torch.tensor([[1.0, 0.0], [0.0, 0.0]] if singular else [[2.0, 0.3], [0.1, 1.0]], dtype=D)
    k = torch.tensor(0.7, dtype=D, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([-k * a + torch.sin(t.expand(a.shape)), a**2 - b], -1)

    y0 = torch.tensor([[0.5, 0.25], [1.0, 1.0], [2.0, 4.0]], dtype=D, requires_grad=True)
    t = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.4, 2.0], [0.0, 0.1, 0.1]], dtype=D)
    for by_mass in (False, True):
        given = mass.clone().requires_grad_(by_mass)
        inputs = [y0, k, *([given] if by_mass else [])]
        arguments = {"mass": given, "params": [k], "method": method, "steps": Grid(8)}
        arguments |= {"newton": Newton(rtol=1e-13)} if METHODS[method].newton else {}

        def call(arguments=arguments, inputs=inputs) -> tuple[Solution, tuple[Tensor, ...]]:
            solution = solve(func, y0, t, batch_dims=1, compile=True, **arguments)
            return solution, torch.autograd.grad(solution.y.square().sum(), inputs)

        (found, gradients), (wanted, expected) = call(), in_python(call)
        assert found.stats.in_c == found.stats.accepted == wanted.stats.accepted
        require_close(found.y, wanted.y, 1e-12, method)
        for a, b in zip(gradients, expected, strict=True):
            require_close(a, b, 1e-9, method)


def test_decreasing_times_and_more_batch_dimensions() -> None:
    func = Kinetics(-2.0)
    for arguments in ({"t": -times()}, {"t": -times(), "method": "rosw-rodaspr2"}):
        found, gradients = differentiated(func, steps=Grid(9), **arguments)
        wanted, expected = in_python(lambda given=arguments: differentiated(func, steps=Grid(9), **given))
        assert found.stats.in_c == found.stats.accepted > 0
        require_close(found.y, wanted.y, 1e-9, "backwards in time")
        for a, b in zip(gradients, expected, strict=True):
            require_close(a, b, 1e-8, "backwards in time")
    y0, t = starts().reshape(2, 2, 2), times().reshape(2, 2, -1)
    with torch.no_grad():
        y = solve(Kinetics(), y0, t, batch_dims=2, compile=True).y
        flat = solve(Kinetics(), starts(), times(), batch_dims=1, compile=True).y
    assert torch.equal(y.reshape(flat.shape), flat)


def test_gradients_by_times_and_between_steps() -> None:
    """Which are had in Python, for steps that were taken in C."""
    func = Kinetics(5.0)
    for outputs in ("steps", "interpolate"):

        def call(outputs=outputs) -> tuple[Solution, tuple[Tensor, ...]]:
            y0, t = starts().requires_grad_(), times().requires_grad_()
            arguments = {"method": "bdf3", "steps": Grid(8), "outputs": outputs, "newton": Newton(rtol=1e-13)}
            solution = solve(func, y0, t, batch_dims=1, compile=True, **arguments)
            return solution, torch.autograd.grad(solution.y.square().sum(), [y0, t, func.k])

        (found, gradients), (_, expected) = call(), in_python(call)
        assert found.stats.in_c == found.stats.accepted
        for a, b in zip(gradients, expected, strict=True):
            require_close(a, b, 1e-9, outputs)


def test_second_derivatives() -> None:
    func = Kinetics(5.0)

    def call() -> Tensor:
        y0 = starts().requires_grad_()
        arguments = {"method": "bdf3", "steps": Grid(8), "newton": Newton(rtol=1e-13)}
        y = solve(func, y0, times(), batch_dims=1, compile=True, **arguments).y
        (first,) = torch.autograd.grad(y.square().sum(), y0, create_graph=True)
        return torch.autograd.grad(first.sum(), func.k)[0]

    require_close(call(), in_python(call), 1e-8, "Hessian")


def test_shared_times_expanded() -> None:
    """t of shape (n,), for every sample: each has steps of its own."""
    func, t = Kinetics(), torch.tensor([0.0, 0.2, 1.0], dtype=D)
    with torch.no_grad():
        found = solve(func, starts(), t.expand(4, 3), batch_dims=1, compile=True)
        counts = {sum(map(len, steps.ends)) for steps in found.steps}
        expected = solve(func, starts(), t, batch_dims=1, rtol=1e-9, atol=1e-11)
    assert len(counts) > 1
    assert found.stats.in_c == found.stats.accepted
    require_close(found.y, expected.y, 1e-4, "look at native/compiled_run/")


def test_a_second_solve_does_not_compile_again() -> None:
    func = Kinetics()
    with torch.no_grad():
        solve(func, starts(), times(), batch_dims=1, compile=True)
        with patch.object(CompiledFunction, "__init__", side_effect=AssertionError("compiled again")):
            for _ in range(2):
                func.k.mul_(1.1)
                solve(func, starts() + 0.1, times(), batch_dims=1, compile=True)
        again = solve(stiffml.compile(func, starts(), batch_dims=1), starts(), times(), batch_dims=1)
    assert again.stats.in_c == again.stats.accepted


def test_what_cannot_be_compiled_is_taken_in_torch() -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y if float(y.sum()) > 0 else -2 * y

    with torch.no_grad(), pytest.warns(UserWarning, match="evaluated by torch"):
        found = solve(func, starts(), times(), batch_dims=1, compile=True)
    assert found.stats.in_c == 0
