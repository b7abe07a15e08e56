"""Newton's iteration by component: states of any unit, and equations that determine some of them badly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods import NEWTON_WHOLE
from torch import Tensor

import problems
from stiffml import GMRES, Discrete, Grid, Newton, odeint, solve

D = torch.float64
T = torch.linspace(0, 1, 4, dtype=D)
MASS = torch.tensor([1.0, 1.0, 0.0], dtype=D)


def decay(scale: float) -> tuple[Tensor, Tensor]:
    """The start and the rate of y' = −rate y², whose solutions differ by the scale alone."""
    return torch.tensor([scale], dtype=D), torch.tensor([2 / scale], dtype=D)


@pytest.mark.parametrize(
    ("method", "linear"),
    [*((name, "auto") for name in NEWTON_WHOLE), ("cn", GMRES()), ("bdf3", GMRES())],
    ids=str,
)
def test_states_of_any_unit(method: str, linear: str | GMRES) -> None:
    ends = []
    for scale in (1.0, 1e-9, 1e-15, 1e-100):
        y0, rate = decay(scale)
        y = odeint(lambda t, y, k=rate: -k * y**2, y0, T, method=method, steps=Grid(3), linear=linear)
        ends.append(float(y[-1]) / scale)
    assert ends[1:] == pytest.approx([ends[0]] * 3, rel=1e-9), (
        "a step is not solved for as well as with states of order one; look at SNESTest.step_begins"
    )


def test_crank_nicolson_by_its_formula() -> None:
    y0, rate = decay(1e-12)
    end = odeint(lambda t, y: -rate * y**2, y0, T, method="cn", steps=Grid(3))[-1]
    assert float(end) / 1e-12 == pytest.approx(0.331487351, rel=1e-8)


@pytest.mark.parametrize("jacobian", ["dense", "coloured"])
@pytest.mark.parametrize("scale", [1e-15, 1e-60])
@pytest.mark.parametrize("method", ["cn", "bdf3", "dirk-s212", "arkimex-3"])
def test_small_beside_large(method: str, scale: float, jacobian: str) -> None:
    """The large component is linear and needs one iteration; the small one needs several."""
    y0, rate = torch.tensor([1.0, scale], dtype=D), 2 / scale

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[..., 0], -rate * y[..., 1] ** 2], -1)

    alone, alone_rate = decay(1.0)
    alone.requires_grad_()
    expected = odeint(lambda t, y: -alone_rate * y**2, alone, T, method=method, steps=Grid(3))[-1].sum()
    (slope,) = torch.autograd.grad(expected, alone)
    for checkpoints in ("stages", "solutions", 2):
        start = y0.clone().requires_grad_()
        adjoint = Discrete(checkpoints=checkpoints)
        solution = solve(func, start, T, method=method, steps=Grid(3), jacobian=jacobian, adjoint=adjoint)
        assert float(solution.y[-1, 1]) / scale == pytest.approx(float(expected), rel=1e-8), (
            "look at SNESTest in petsc/convergence.py"
        )
        (gradient,) = torch.autograd.grad(solution.y[-1, 1], start)
        assert float(gradient[1]) == pytest.approx(float(slope), rel=1e-6), (
            f"{checkpoints}: a small component of a repeated step is not solved for; see native/rounding.py"
        )


def test_event_of_a_small_component() -> None:
    """Steps are taken again to find it."""
    roots = []
    for scale in (1.0, 1e-25):
        solution = solve(
            lambda t, y, k=2 / scale: torch.stack([-y[..., 0], -k * y[..., 1] ** 2], -1),
            torch.tensor([1.0, scale], dtype=D),
            T,
            method="cn",
            steps=Grid(3),
            event=lambda t, y, s=scale: y[1] / s - 0.5,
        )
        assert solution.event is not None
        roots.append(float(solution.event.t))
    assert roots[1] == pytest.approx(roots[0], rel=1e-9), "look at Rounding in native/rounding.py"


def test_a_component_that_is_zero_but_for_rounding() -> None:
    """It would be divided by itself; the iteration ends where rounding is left, in as many iterations."""
    turn = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=D) / 2**0.5

    def func(t: Tensor, z: Tensor) -> Tensor:
        y = z @ turn
        return (-50 * (y - torch.cos(t)) - y**3) @ turn

    y0 = torch.tensor([1.3, 1.3 + 1e-15], dtype=D) @ turn
    solution = solve(func, y0, torch.tensor([0.0, 3.0], dtype=D), method="cn", steps=Grid(60))
    assert solution.stats.accepted == 60, "a step was halved"
    assert solution.stats.newton_iterations < 4 * 60


def robertson_dae(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    fast = 3e7 * b**2
    return torch.stack([-0.04 * a + 1e4 * b * c, 0.04 * a - 1e4 * b * c - fast, a + b + c - 1], -1)


@pytest.fixture(scope="module")
def reference() -> tuple[Tensor, Tensor]:
    problem = problems.load("robertson")
    t = torch.cat([torch.zeros(1, dtype=D), torch.logspace(-5, 5, 6, dtype=D)])
    y = odeint(
        problem.func(), problem.initial_state(), t, method="rosw-rodaspr2", rtol=1e-8, atol=problem.atol(1e-8)
    )
    return t, y


@pytest.mark.parametrize(
    ("method", "rtol"),
    [
        *(("bdf", 1e-4), ("bdf", 1e-6), ("bdf", 1e-8), ("bdf3", 1e-4), ("bdf3", 1e-6), ("bdf1", 1e-3)),
        *(("rosw-rodaspr2", 1e-4), ("rosw-ra34pw2", 1e-4), ("arkimex-3", 1e-4), ("dirk-es325sal", 1e-4)),
        *(("arkimex-4", 1e-5), ("dirk-es325sal", 1e-5)),
    ],
)
def test_robertson_as_dae_by_thresholds(method: str, rtol: float, reference: tuple[Tensor, Tensor]) -> None:
    """A + B + C = 1 determines C to 1e-16, and B is asked for to 1e-21."""
    problem = problems.load("robertson")
    t, right = reference
    atol = problem.atol(rtol)
    y = odeint(robertson_dae, problem.initial_state(), t, method=method, rtol=rtol, atol=atol, mass=MASS)
    off = float(((y - right).abs() / (rtol * right.abs() + atol)).max())
    assert off < 100, f"the error is {off:.3g} times its tolerance"


def test_single_precision_determines_less() -> None:
    y0 = problems.load("robertson").initial_state().float()
    t = torch.tensor([0.0, 1.0, 10.0])
    atol = torch.tensor([1e-6, 1e-9, 1e-6])
    y = odeint(robertson_dae, y0, t, method="bdf", rtol=1e-4, atol=atol, mass=MASS.float())
    # Hairer & Wanner, Solving ODEs II, section IV.10: y at t = 10 begins 0.8413699, 1.6234e-5, 0.158614.
    np.testing.assert_allclose(y[-1].double(), [0.8413699, 1.62339e-5, 0.1586139], rtol=2e-3)


def test_tolerances_given_by_component() -> None:
    y0, rate = torch.tensor([1.0, 1e-9], dtype=D), torch.tensor([2.0, 2e9], dtype=D)
    counts = []
    for atol in (torch.tensor([1e-4, 1e-13], dtype=D), torch.tensor([1e-4, 1e-30], dtype=D)):
        newton = Newton(rtol=1e-12, atol=atol)
        solution = solve(lambda t, y: -rate * y**2, y0, T, method="cn", steps=Grid(3), newton=newton)
        counts.append(solution.stats.newton_iterations)
    assert counts[1] > counts[0], "the tolerance of the second component has no effect"


@pytest.mark.parametrize(
    ("atol", "message"),
    [
        (
            torch.ones(3, dtype=D),
            r"Newton: atol must be a number or of y0's shape \(2,\), not of shape \(3,\)",
        ),
        (torch.tensor([1.0, -1.0], dtype=D), "Newton: atol must be positive"),
        (-1.0, "Newton: atol must be positive"),
    ],
)
def test_tolerances_that_do_not_fit(atol: float | Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(
            lambda t, y: -y, torch.ones(2, dtype=D), T, method="cn", steps=Grid(1), newton=Newton(atol=atol)
        )
