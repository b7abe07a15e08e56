"""Steps that stiffml takes by itself: the same as PETSc's, and those of a method that PETSc lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gradients import compare
from small_problems import SmallNetwork, times
from torch import Tensor, nn

import problems
from stiffml import METHODS, SDIRK3, Adaptive, Fixed, Grid, Newton, Solution, Status, solve
from stiffml.discretization.equations import Form
from stiffml.interface import steppers
from stiffml.native.stepper import NativeStepper
from stiffml.run.controller import Controller

TIGHT = Newton(rtol=1e-12, atol=1e-14)


class Robertson(nn.Module):
    """Robertson's reaction with logarithms of its rates as parameters, and the third state scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.log(torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64)))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        k = self.logs.exp()
        first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
        return torch.stack([third - first, first - second - third, second], -1)


START = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
LATER = torch.cat([torch.zeros(1), torch.logspace(-2, 2, 5)]).double()


@pytest.fixture
def natively(monkeypatch: pytest.MonkeyPatch) -> None:
    """All methods are stepped by stiffml itself."""
    monkeypatch.setitem(steppers.STEPPERS, "petsc", NativeStepper)


NAMES = ["beuler", "cn", "bdf2", "bdf4", "bdf", "rosw-ra34pw2", "rosw-rodas3"]
NAMES += ["dirk-s212", "dirk-es324sal", "arkimex-3", "dopri5"]


@pytest.mark.parametrize("name", NAMES)
def test_given_steps_are_those_that_petsc_takes(
    name: str, network: SmallNetwork, start: Tensor, request: pytest.FixtureRequest
) -> None:
    """To Newton's tolerance, of a function that depends on time; and so are gradients."""
    t, newton = times(0, 0.3, 1.0), {"newton": TIGHT} if METHODS[name].newton else {}

    def run() -> tuple[Tensor, list[Tensor]]:
        y0 = start.clone().requires_grad_()
        y = solve(network, y0, t, method=name, steps=Grid(6), **newton).y
        assert isinstance(y, Tensor)
        return y.detach(), list(torch.autograd.grad((y * y).sum(), [y0, *network.parameters()]))

    expected, gradients = run()
    request.getfixturevalue("natively")
    found, same = run()
    off = float((found - expected).abs().max())
    assert off <= 1e-11, (
        f"{name}: states differ by {off:.1e}; look at native/rows.py and at the method's numbers"
    )
    for a, b in zip(same, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["beuler", "cn", "bdf3", "rosw-ra34pw2", "dirk-es324sal"])
def test_recorded_adaptive_steps_of_a_stiff_problem_are_those_that_petsc_takes(
    name: str, request: pytest.FixtureRequest
) -> None:
    taken = solve(Robertson(), START, LATER, method=name, rtol=1e-4, atol=1e-8).steps
    newton = {"newton": Newton(rtol=1e-10, atol=1e-16)} if METHODS[name].newton else {}
    expected = solve(Robertson(), START, LATER, method=name, steps=taken, **newton).y
    request.getfixturevalue("natively")
    found = solve(Robertson(), START, LATER, method=name, steps=taken, **newton).y
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-14)


def test_newtons_default_tolerance_bounds_what_adaptive_steps_differ_by(natively: None) -> None:
    """1 % of the tolerance of steps, where that is what stops the iteration of both steppers."""
    func, t = Robertson(), LATER
    loose = solve(func, START, t, method="sdirk3", rtol=1e-5, atol=1e-9)
    tight = solve(func, START, t, method="sdirk3", steps=loose.steps, newton=TIGHT)
    off = (loose.y - tight.y).abs() / (1e-9 + 1e-5 * tight.y.abs())
    assert float(off.max()) <= 0.5, "look at NewtonTest.reached"


def test_the_capability_table_says_who_takes_the_steps() -> None:
    assert METHODS["sdirk3"] == SDIRK3()
    native = {name for name, method in METHODS.items() if method.stepper == "native"}
    assert native == {"etd2", "etd3", "sdirk3"}
    assert {method.stepper for method in METHODS.values()} == set(steppers.STEPPERS)


def test_the_tableau_is_alexanders() -> None:
    """γ is the root that makes it L-stable, and the conditions of order 3 hold."""
    table = SDIRK3().implicit_part
    gamma = table.a[0, 0]
    assert gamma**3 - 3 * gamma**2 + 1.5 * gamma - 1 / 6 == pytest.approx(0, abs=1e-15)
    np.testing.assert_allclose(table.a.sum(axis=1), table.c, atol=1e-15)
    conditions = table.b.sum(), table.b @ table.c, table.b @ table.c**2, table.b @ table.a @ table.c
    np.testing.assert_allclose(conditions, [1, 1 / 2, 1 / 3, 1 / 6], atol=1e-15)
    assert table.stiffly_accurate
    assert abs(table.r_infinity) < 1e-14
    assert SDIRK3().embedded(Form(mass=True)) is not None, (
        "with a mass matrix slopes must be implied by stages"
    )


def test_adaptive_steps_meet_the_tolerance_of_a_stiff_problem() -> None:
    """Robertson's problem, against steps of a thousandth of the tolerance."""
    exact = solve(Robertson(), START, LATER, method="rosw-rodaspr2", rtol=1e-9, atol=1e-13).y
    steps = []
    for rtol in (1e-5, 1e-7):
        atol = 1e-4 * rtol * torch.ones(3, dtype=torch.float64)
        solution = solve(Robertson(), START, LATER, method="sdirk3", rtol=rtol, atol=atol)
        steps.append(solution.stats.accepted)
        off = float(((solution.y - exact).abs() / (exact.abs() + 1e-4))[1:].max())
        assert off <= 20 * rtol, f"{off:.1e} off at rtol = {rtol:g}; look at NativeStepper._error"
    # The error of a step falls with h³, or h² where a stiff component has it from stages of order 1.
    assert 100 ** (1 / 3) < steps[1] / steps[0] < 100 ** (1 / 2), f"{steps} steps"


class VanDerPol(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(200.0, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([b, self.stiffness * ((1 - a**2) * b - a) + torch.sin(3 * t)], -1)


@pytest.mark.parametrize("inner", ["y0", "parameters", "t"])
def test_gradients_of_adaptive_steps(inner: str) -> None:
    func, y0, t = VanDerPol(), times(2, -0.6), times(0, 0.2, 0.6)
    inputs = {"y0": [y0], "parameters": list(func.parameters()), "t": [t]}[inner]
    for tensor in inputs:
        tensor.requires_grad_()
    taken = solve(func, y0, t, method="sdirk3", rtol=1e-4, atol=1e-6).steps

    def loss() -> Tensor:
        y = solve(func, y0, t, method="sdirk3", steps=taken, newton=Newton(rtol=1e-13, atol=1e-15)).y
        assert isinstance(y, Tensor)
        return y.square().sum()

    error, rate = compare(loss, inputs, torch.autograd.grad(loss(), inputs), 3e-4)
    assert error <= 1e-8, f"dL/d{inner} is off by {error:.1e}"
    assert rate >= 1.9, f"{inner} has Taylor rate {rate:.2f}"


def test_a_dae_with_adaptive_steps() -> None:
    """Robertson's problem with the sum of the states in place of the third equation."""
    func = Robertson()

    def algebraic(t: Tensor, y: Tensor) -> Tensor:
        slopes = func(t, y)
        return torch.cat([slopes[..., :2], y.sum(-1, keepdim=True) - 1], -1)

    mass = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    found = solve(algebraic, START, LATER, method="sdirk3", mass=mass, rtol=1e-6, atol=1e-10)
    exact = solve(func, START, LATER, method="rosw-rodaspr2", rtol=1e-9, atol=1e-13).y
    torch.testing.assert_close(found.y, exact, rtol=1e-4, atol=1e-8)
    assert float((found.y.sum(-1) - 1).abs().max()) < 1e-9


@pytest.mark.parametrize("linear", ["blocks", "gmres"])
def test_batches_and_krylov_methods(linear: str) -> None:
    from stiffml import GMRES

    rates = torch.tensor([[1.0], [30.0], [1000.0]], dtype=torch.float64)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -rates * (y - torch.cos(t)) * (1 + y**2)

    y0, t = torch.full((3, 2), 0.2, dtype=torch.float64), times(0, 0.5, 1)
    how = {"batch_dims": 1} if linear == "blocks" else {"linear": GMRES()}
    found = solve(func, y0, t, method="sdirk3", rtol=1e-7, atol=1e-9, **how)
    exact = solve(func, y0, t, method="bdf", rtol=1e-9, atol=1e-11).y
    torch.testing.assert_close(found.y, exact, rtol=1e-5, atol=1e-7)
    if linear == "gmres":
        assert found.stats.krylov_iterations > 0


def run_of(func, steps=None, y0: float = 1.0, **arguments) -> Solution:
    start = torch.tensor([y0], dtype=torch.float64)
    return solve(func, start, times(0, 1), method="sdirk3", steps=steps, throw=False, **arguments)


def test_how_it_fails() -> None:
    """A state that runs away, a value that is not finite, too many steps, a bound: as with PETSc's steps."""
    runaway = run_of(lambda t, y: y**2 * 2)
    assert runaway.status in (Status.STEP_TOO_SMALL, Status.NEWTON_FAILED)
    bad = run_of(lambda t, y: -y if t < 0.5 else torch.nan * y)
    assert bad.status is Status.NON_FINITE
    assert run_of(lambda t, y: -y, Adaptive(max_steps=3, initial=1e-4)).status is Status.MAX_STEPS
    assert run_of(lambda t, y: -1 + 0 * y, bounds=(0.5, None)).status is Status.OUT_OF_BOUNDS
    newton = run_of(lambda t, y: -torch.exp(3 * y), Fixed(1.0), 3.0, newton=Newton(max_iterations=1))
    assert newton.status is Status.NEWTON_FAILED
    assert "last updates, as multiples of its tolerance" in newton.message


def test_what_func_raises_comes_through() -> None:
    class OwnError(Exception):
        pass

    def func(t: Tensor, y: Tensor) -> Tensor:
        if t > 0.3:
            raise OwnError
        return -y

    with pytest.raises(OwnError):
        run_of(func)
    assert run_of(lambda t, y: -y).status is Status.SUCCESS


def test_events_bounds_and_interpolation() -> None:
    func = problems.load("robertson").func()
    solution = solve(
        func,
        START,
        times(0, 1e3),
        method="sdirk3",
        rtol=1e-7,
        atol=1e-11,
        event=lambda t, y: y[2] - 0.3,
        bounds=(-1e-9, None),
    )
    assert solution.status is Status.EVENT
    exact = solve(func, START, solution.event.t.reshape(1).new_tensor([0, solution.event.t]), method="bdf")
    assert abs(float(exact.y[-1, 2]) - 0.3) < 1e-4
    middle = solution.interpolate(times(5.0))
    expected = solve(func, START, times(0, 5), method="bdf", rtol=1e-9, atol=1e-13).y[1:]
    torch.testing.assert_close(middle, expected, rtol=1e-4, atol=1e-7)


def test_options_of_petsc_are_refused() -> None:
    with pytest.raises(
        ValueError, match="options: ts_adapt_safety has no effect, because the steps of SDIRK3"
    ):
        run_of(lambda t, y: -y, options={"ts_adapt_safety": 0.8})


def test_controller() -> None:
    """Errors of order q + 1: a step made so much longer that its error would be safety^(q+1)."""
    controller = Controller(2)
    for error in (0.02, 0.5, 3.0):
        assert error * controller.factor(error) ** 3 == pytest.approx(0.9**3)
    assert controller.factor(0.0) == controller.factor(1e-9) == 10.0
    assert controller.factor(np.inf) == controller.factor(np.nan) == controller.factor(1e9) == 0.1
