"""A guess with the factors of its solve: values of f where Newton's iteration would have Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forms import Case
from rows import RUNS, off, require_same
from small_problems import times
from torch import Tensor

from stiffml import Grid, Solution, solve
from stiffml.all_at_once import simplified
from stiffml.all_at_once import solve as at_once

D = torch.float64
OUTPUTS = times(0.1, 0.25, 0.3, 0.8)
LOOK_AT = "look at all_at_once/simplified.py, and at near_of in interface/planning.py"


def moved(case: Case, part: float) -> None:
    """Change all parameters by a part of their values, as a training does."""
    with torch.no_grad():
        for number, parameter in enumerate(case.func.parameters()):
            parameter.mul_(1 + part * (-1) ** number)


@pytest.mark.parametrize(("method", "form"), RUNS)
def test_the_same_solution_and_gradients(method: str, form: str) -> None:
    case, steps = Case(form, OUTPUTS), Grid(3)
    before = case.solve(method, steps, stepping="all-at-once")
    moved(case, 0.01)
    expected = case.solve(method, steps, stepping="sequential")
    found = case.solve(method, steps, stepping="all-at-once", guess=before)
    require_same(case, found, expected, f"{method}, {form}; {LOOK_AT}")


def costs(method: str) -> tuple[Solution, int]:
    """A solve after parameters have moved by 1 %, and the Jacobians of both passes."""
    case = Case("ode", OUTPUTS)
    before = case.solve(method, Grid(8), stepping="all-at-once")
    moved(case, 0.01)
    solution = case.solve(method, Grid(8), stepping="all-at-once", guess=before)
    case.gradients(solution)
    stats = solution.stats
    assert stats.adjoint is not None
    return solution, stats.jacobians + stats.adjoint.jacobians


@pytest.mark.parametrize("method", ["cn", "bdf3", "dirk-es325sal"])
def test_fewer_jacobians(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_factors, few = costs(method)
    monkeypatch.setattr(at_once, "approached", lambda _, x, *others: (x, 0))
    without, many = costs(method)
    assert few < many, f"{method}: {few} Jacobians, {many} without the factors; {LOOK_AT}"
    assert off(with_factors.y, without.y) <= 1e-10
    assert with_factors.stats.newton_iterations > without.stats.newton_iterations, "they count as iterations"


def test_a_guess_from_which_it_does_not_converge() -> None:
    """Rates that have grown a hundredfold, and a function that raises on the way there."""
    t, y0 = times(*[0.1 * n for n in range(21)]), torch.tensor([0.9], dtype=D)
    k = torch.tensor(1.0, dtype=D, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -k * (y**3 - torch.cos(t))

    def raising(t: Tensor, y: Tensor) -> Tensor:
        if bool((y.detach().abs() > 1.2).any()):
            raise ValueError("far outside")
        return func(t, y)

    for function in (func, raising):
        with torch.no_grad():
            k.fill_(1.0)
        before = solve(function, y0, t, method="cn", steps=Grid(2), params=[k])
        with torch.no_grad():
            k.fill_(100.0)
        expected = solve(function, y0, t, method="cn", steps=Grid(2), params=[k], stepping="sequential")
        found = solve(function, y0, t, method="cn", steps=Grid(2), params=[k], guess=before)
        assert off(found.y, expected.y) <= 1e-7, LOOK_AT


class Equations:
    """Of one unknown x, with the updates that a list says; an exception is raised."""

    def __init__(self, updates: list) -> None:
        self.updates = updates

    def correction(self, x: np.ndarray, factored: object) -> np.ndarray:
        update = self.updates.pop(0)
        if isinstance(update, Exception):
            raise update
        return np.full((1, 1), update)


@pytest.mark.parametrize(
    ("updates", "found", "iterations"),
    [
        ([0.1, 0.01, 1e-3, 1e-4, 1e-5], 2 - 0.1111, 4),  # as many as there may be
        ([0.1, 1e-5, 1e-9], 2 - 0.10001, 2),  # fine
        ([0.1, 0.1], 7.0, 2),  # the guess, where it does not converge from the beginning
        ([0.1, 0.01, 0.02], 2 - 0.11, 3),  # as far as it came
        ([float("nan")], 7.0, 1),
        ([0.1, ValueError("far outside")], 7.0, 2),
    ],
)
def test_where_it_ends(updates: list, found: float, iterations: int) -> None:
    """From a given vector 5 and a guess 7; the solution before was 2."""
    guess, before = np.array([[5.0], [7.0]]), np.array([[4.0], [2.0]])
    x, count = simplified.approached(Equations(updates), guess, before, None, np.ones((1, 1)))  # type: ignore[arg-type]
    assert (x[0, 0], count) == (5.0, iterations)
    assert abs(x[1, 0] - found) < 1e-14


def test_where_factors_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the same steps, of a function in torch; Rosenbrock rows have derivatives of Jacobians too."""
    used: list[int] = []

    def counted(equations, x, *others):
        used.append(len(x))
        return simplified.approached(equations, x, *others)

    monkeypatch.setattr(at_once, "approached", counted)
    case = Case("ode", OUTPUTS)
    for method, steps, more, expected in (
        ("cn", Grid(4), {}, 1),
        ("cn", Grid(8), {}, 0),
        ("cn", Grid(4), {"compile": True}, 0),
        ("rosw-ra34pw2", Grid(4), {"stepping": "all-at-once"}, 0),
    ):
        before = case.solve(method, Grid(4), **more)
        used.clear()
        found = case.solve(method, steps, guess=before, **more)
        assert len(used) == expected, f"{method}, {steps}, {more}; {LOOK_AT}"
        assert off(found.y, case.solve(method, steps, stepping="sequential").y) <= 1e-10
