"""Differential-algebraic problems whose end values are known."""

from __future__ import annotations

import pytest
import torch
from small_problems import times
from torch import Tensor

import problems
from problems import Problem
from stiffml import Solution, solve

RELATIVE = {"ts_adapt_wnormtype": "infinity"}
"""Digits are those of the worst component, so the error is controlled in the maximum norm too."""


def end_values(problem: Problem, method: str, rtol: float, atol: float, **arguments) -> Solution:
    """Outputs at the times of the problem's references; ``atol`` in units of its scale."""
    ends = [reference.t for reference in problem.references]
    return solve(
        problem.func(),
        problem.initial_state(),
        times(problem.t_span[0], *ends),
        method=method,
        rtol=rtol,
        atol=atol * torch.tensor(problem.scale),
        mass=problem.mass_matrix(),
        **arguments,
    )


def digits(problem: Problem, solution: Solution) -> float:
    """At the worst of the references."""
    report = problem.check(solution)
    assert report.digits is not None
    assert len(report.comparisons) == len(problem.references)
    return report.digits


@pytest.mark.parametrize(
    ("method", "rtol", "atol", "wanted"),
    [
        ("bdf", 1e-9, 1e-14, 8),
        ("rosw-rodaspr", 1e-9, 1e-10, 8),
        ("dirk-es648sa", 1e-9, 3e-9, 8),
        # Of second order: 500 steps, and three times as many for each further digit.
        ("cn", 1e-4, 1e-6, 4.5),
    ],
)
def test_chemical_akzo_nobel(method: str, rtol: float, atol: float, wanted: float) -> None:
    problem = problems.load("akzo")
    options = {"options": RELATIVE} if method == "bdf" else {}
    solution = end_values(problem, method, rtol, atol, **options)
    found = digits(problem, solution)
    assert found >= wanted, (
        f"{method} at rtol = {rtol:g} has {found:.2f} digits of the published end values after "
        f"{solution.stats.accepted} steps; if another digit comes with rtol / 10 look at the error estimate, "
        "else at the equations in problems/library/akzo.py or at the steps"
    )


@pytest.mark.parametrize(
    ("method", "rtol", "atol", "wanted"),
    [
        # Tolerances bound what a step adds; the errors of BDF's 800 steps along an oscillation add up.
        ("bdf", 1e-11, 1e-12, 8),
        ("rosw-rodaspr", 1e-9, 1e-9, 8),
        ("dirk-es7510sa", 1e-9, 1e-8, 8),
        ("cn", 1e-4, 1e-4, 3),
    ],
)
def test_pendulum(method: str, rtol: float, atol: float, wanted: float) -> None:
    problem = problems.load("pendulum")
    solution = end_values(problem, method, rtol, atol)
    found = digits(problem, solution)
    assert found >= wanted, f"{method} at rtol = {rtol:g} has {found:.2f} digits of the exact solution"
    assert isinstance(solution.y, Tensor)
    x, height, vx, vy, tension = solution.y.unbind(dim=-1)
    g = problem.parameters["g"].value
    # What holds without being asked for drifts by about the error of the components: a few of 10^-wanted of
    # the kinetic energy g, and of the length 1.
    bound = 3 * 10.0**-wanted
    drifts = {
        "length": x**2 + height**2 - 1,
        "energy": ((vx**2 + vy**2) / 2 + g * height) / g,
        # The algebraic equation itself is solved in every step, to Newton's tolerance.
        "algebraic equation": (tension * (x**2 + height**2) + g * height - vx**2 - vy**2) / g,
    }
    for name, drift in drifts.items():
        assert drift.abs().max() <= bound, f"{method}: the {name} is off by {float(drift.abs().max()):.1e}"


def test_pendulum_reference_conserves() -> None:
    problem = problems.load("pendulum")
    g = problem.parameters["g"].value
    for reference in problem.references:
        x, height, vx, vy, tension = reference.y
        assert abs(x**2 + height**2 - 1) <= 1e-15
        assert abs((vx**2 + vy**2) / 2 + g * height) <= 1e-14
        assert abs(tension + 3 * g * height) <= 1e-14  # released at rest from the horizontal


@pytest.mark.parametrize("name", ["akzo", "pendulum"])
def test_mass_of_a_problem(name: str) -> None:
    problem = problems.load(name)
    mass = problem.mass_matrix()
    assert problem.kind == "dae"
    assert mass is not None
    assert mass.dtype == torch.float64
    # The initial state satisfies the algebraic equation exactly.
    slope = problem.func()(torch.zeros((), dtype=torch.float64), problem.initial_state())
    assert slope[mass == 0].abs().max() <= 1e-16
    assert problems.load("robertson").mass_matrix() is None
