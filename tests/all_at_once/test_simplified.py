"""A guess with the factors of its solve: values of f where Newton's iteration would have Jacobians."""

from __future__ import annotations

import pytest
import torch
from forms import Case
from rows import RUNS, off, require_same
from small_problems import times
from torch import Tensor

from stiffml import Grid, Solution, solve
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


def costs(method: str, **more) -> tuple[Solution, int]:
    """A solve after parameters have moved by 1 %, and the Jacobians at each node in both passes."""
    case = Case("ode", OUTPUTS)
    before = case.solve(method, Grid(8), stepping="all-at-once")
    moved(case, 0.01)
    solution = case.solve(method, Grid(8), stepping="all-at-once", guess=before, **more)
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


def test_factors_of_other_steps_are_not_used() -> None:
    case = Case("ode", OUTPUTS)
    before = case.solve("cn", Grid(4))
    plain = case.solve("cn", Grid(8), guess=case.solve("cn", Grid(4), adjoint=None))
    found = case.solve("cn", Grid(8), guess=before)
    assert found.stats.newton_iterations == plain.stats.newton_iterations, LOOK_AT
    assert off(found.y, plain.y) <= 1e-12


def test_a_guess_of_another_batch_is_one_for_its_states_only() -> None:
    """The number of samples is another, and so are the equations."""
    case, y0 = Case("ode", OUTPUTS), torch.tensor([[0.9, 0.6], [0.8, 0.7]], dtype=D)
    two = solve(case.func, y0, OUTPUTS, method="cn", steps=Grid(4), batch_dims=1)
    with pytest.raises(ValueError, match="guess has states of 4 components, y0 has 2"):
        solve(case.func, y0[0], OUTPUTS, method="cn", steps=Grid(4), guess=two)
