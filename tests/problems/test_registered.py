"""Problems of one's own by name, and those of the library that conserve what their equations say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import problems
from problems import Problem
from problems.checking import drifts
from stiffml.cli import app


def lake() -> Problem:
    return Problem("lake", lambda t, y, p: -y, np.ones(2), (0.0, 1.0), title="a lake")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    before = set(problems.names())
    yield
    for name in set(problems.names()) - before:
        problems.unregister(name)


def test_a_function_is_called_when_its_problem_is_loaded() -> None:
    calls = []

    @problems.register
    def pond() -> Problem:
        calls.append(1)
        return lake()

    assert pond().name == "lake", "the decorator leaves the function as it is"
    assert "pond" in problems.names()
    del calls[:]
    assert problems.load("pond").size == 2
    assert calls == [1]


def test_a_problem_is_known_to_all_commands() -> None:
    problems.register(lake())
    assert problems.load("lake").title == "a lake"
    assert problems.load("lake", **{}).make(t_span=(0.0, 2.0)).t_span == (0.0, 2.0)
    assert "a lake" in CliRunner().invoke(app, ["problems"]).output
    with pytest.raises(ValueError, match="Did you mean 'lake'"):
        problems.load("lak")


def test_a_name_can_be_given_anew_and_forgotten() -> None:
    problems.register(lake())
    problems.register(Problem("lake", lambda t, y, p: -y, np.ones(3), (0.0, 1.0)))
    assert problems.load("lake").size == 3
    problems.unregister("lake")
    with pytest.raises(ValueError, match="no problem 'lake'"):
        problems.load("lake")
    with pytest.raises(ValueError, match="no problem 'lake' was registered"):
        problems.unregister("lake")


def test_what_cannot_be_registered() -> None:
    with pytest.raises(ValueError, match="the library has a 'hires'"):
        problems.register(problems.load("hires"))
    with pytest.raises(ValueError, match="taken for a file"):
        problems.register(Problem("a.py", lambda t, y, p: -y, np.ones(1), (0.0, 1.0)))
    with pytest.raises(TypeError, match="must be a Problem"):
        problems.register(3)  # type: ignore[type-var]
    problems.register(dict)
    with pytest.raises(TypeError, match="dict: the function registered must return a Problem"):
        problems.load("dict")


@pytest.mark.parametrize("method", ["bdf", "rosw-rodaspr2"])
def test_the_dae_of_robertson_meets_its_reference_and_equation(method: str) -> None:
    problem = problems.load("robertson_dae")
    solution = problem.solve(method=method, rtol=1e-6)
    assert problem.check(solution).digits > 3
    with torch.no_grad():
        slopes = torch.stack([problem.func()(t, y) for t, y in zip(solution.t, solution.y, strict=True)])
    algebraic = torch.from_numpy(problem.mass == 0)  # type: ignore[arg-type]
    size = solution.y.abs().amax(dim=0).max()
    assert slopes[:, algebraic].abs().max() < 1e-5 * size


def test_the_dae_of_robertson_is_its_ode() -> None:
    ode, dae = problems.load("robertson"), problems.load("robertson_dae")
    t = ode.times(20)
    first, second = (one.solve(t, rtol=1e-8).y for one in (ode, dae))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-12)


def test_the_orbits_of_lotka_and_volterra_are_closed() -> None:
    problem = problems.load("lotka_volterra")
    assert drifts(problem, problem.solve(rtol=1e-8).y.numpy())["orbit"] < 1e-5


def test_the_radius_of_the_spiral_falls_as_its_damping_says() -> None:
    problem = problems.load("spiral")
    y = problem.solve(rtol=1e-8).y
    # d/dt (y1⁴ + y2⁴)/4 = −a (y1⁶ + y2⁶) < 0
    size = (y**4).sum(dim=1)
    assert (size[1:] < size[:-1]).all()


def test_interfaces_last_and_vanish() -> None:
    problem = problems.load("allen_cahn")
    t = torch.tensor([0.0, 20.0, 70.0], dtype=torch.float64)
    y = problem.solve(t, rtol=1e-5).y[:, 0]
    crossings = [int((one[1:] * one[:-1] < 0).sum()) for one in y[1:]]
    assert crossings == [3, 1]


def test_a_pulse_runs_around_the_ring_in_one_direction() -> None:
    problem = problems.load("fitzhugh_nagumo")
    t = torch.arange(0, 120.0, 5.0, dtype=torch.float64)
    y = problem.solve(t, rtol=1e-5).y[:, 0]
    assert (y[2:].max(dim=1).values > 1).all(), "the pulse lives on"
    where = torch.from_numpy(problem.grid["x"])[y.argmax(dim=1)]
    moved = (where[1:] - where[:-1] + 50) % 100 - 50
    assert moved[3:].sum() > 50 or moved[3:].sum() < -50
