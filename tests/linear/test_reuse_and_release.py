"""What linear solvers keep from one system to the next, and release in the end."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fields import Brusselator, waves
from rings import line, ring
from small_problems import times
from torch import Tensor

from stiffml import GMRES, LU, Assembled, Discrete, Grid, Solution, Status, sensitivities, solve
from stiffml.linear.operator import ShiftedOperator
from stiffml.linear.sparse.matrices import ConstantMatrix, Entries, Matrix
from stiffml.system.mass import Mass
from stiffml.system.space import Space
from stiffml.system.state import Layout

T = times(0.0, 0.1, 0.2)


def run(**arguments: Any) -> Solution:
    model = Brusselator()
    linear = GMRES(Assembled(model.diffusion))
    return solve(model, waves().requires_grad_(), T, method="cn", steps=Grid(2), linear=linear, **arguments)


def stopped_by_an_event() -> None:
    assert run(event=lambda t, y: t - 0.15).event is not None


def interpolated() -> None:
    run(adjoint=Discrete(1)).interpolate(times(0.03, 0.12))


def differentiated_forwards() -> None:
    model = Brusselator()
    arguments: dict[str, Any] = {"method": "cn", "steps": Grid(2), "linear": GMRES()}
    sensitivities(model, waves(), T, wrt=["diffusion.coefficients"], **arguments)


def differentiated_twice() -> None:
    model, y0 = Brusselator(), waves().requires_grad_()
    y = solve(model, y0, T, method="cn", steps=Grid(2), linear=GMRES()).y
    (first,) = torch.autograd.grad(y.square().sum(), y0, create_graph=True)
    torch.autograd.grad(first.square().sum(), y0)


class Mishap(Exception):
    pass


def failed_backwards() -> None:
    model, is_armed = Brusselator(), []

    def func(t: Tensor, y: Tensor) -> Tensor:
        if is_armed and 0.02 < t < 0.1:
            raise Mishap
        return model(t, y)

    y0 = waves().requires_grad_()
    y = solve(func, y0, T, method="cn", steps=Grid(2), linear=GMRES(), adjoint=Discrete("solutions")).y
    is_armed.append(True)
    # Not at the start, where func is compared with what it was before anything is solved for.
    with pytest.raises(Mishap):
        y[1:].sum().backward()


@pytest.mark.parametrize(
    "use",
    [stopped_by_an_event, interpolated, differentiated_forwards, differentiated_twice, failed_backwards],
)
def test_nothing_is_kept_for_good(use: Callable[[], None]) -> None:
    def operators() -> int:
        gc.collect()
        return sum(type(each) is ShiftedOperator for each in gc.get_objects())

    before = operators()
    use()
    assert operators() == before, (
        "matrices outlive their solve; look at who holds a ShiftedOperator, and PETSc its products"
    )


def test_a_constant_matrix_forgets_an_enormous_shift() -> None:
    """With one, methods solve for the slope they start from; its rounding is a hundred times A."""
    where = np.arange(3)
    entries = Entries(where, where, lambda s, u: np.array([-0.02, -0.5, -1.0]))
    matrix = ConstantMatrix(entries, None, 3, Space())
    for shift in (4.5e15, 4.5e15, 0.7):
        matrix.update(0.0, np.zeros(3), shift)
    assert np.allclose(matrix.mat.getDiagonal().array, [0.72, 1.2, 1.7], rtol=1e-7, atol=0)
    matrix.close()


@pytest.mark.parametrize("weight", [1e-12, 1.0, 1e9])
def test_a_constant_matrix_keeps_a_shift_that_matters(weight: float) -> None:
    """Shifts are as large as the mass is small."""
    layout = Layout.of(torch.zeros(2, dtype=torch.float64), 0)
    mass = Mass(torch.tensor([weight, 2 * weight], dtype=torch.float64), layout)
    where = np.arange(2)
    matrix = ConstantMatrix(Entries(where, where, lambda s, u: -np.ones(2)), mass, 2, Space())
    for shift in (1e4 / weight, 10 / weight):
        matrix.update(0.0, np.zeros(2), shift)
        expected = 1 + shift * weight * np.array([1.0, 2.0])
        np.testing.assert_allclose(matrix.mat.getDiagonal().array, expected, err_msg="look at LARGEST")
    matrix.close()


def test_a_constant_matrix_of_zeros() -> None:
    entries = Entries(np.arange(2), np.arange(2), lambda s, u: np.zeros(2))
    matrix = ConstantMatrix(entries, None, 2, Space())
    for shift in (1e9, 3.0):
        matrix.update(0.0, np.zeros(2), shift)
        assert np.allclose(matrix.mat.getDiagonal().array, shift)
    matrix.close()


def test_entries_that_are_zero_have_no_place_until_they_are_not() -> None:
    """Fields count all species as coupled; most of those entries would cost a preconditioner for nothing."""
    rows, columns = np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3)
    full = np.arange(1.0, 10.0)
    sparse = np.where(rows == columns, full, 0.0)
    more = np.where(rows <= columns, full, 0.0)
    matrix = Matrix(Entries(rows, columns, lambda s, u: u), None, 3, Space())
    for values, places in ((sparse, 3), (2 * sparse, 3), (more, 6), (sparse, 6), (full, 9), (sparse, 9)):
        matrix.update(0.0, values, 0.5)
        assert matrix.mat.getInfo()["nz_used"] == places
        found = matrix.mat.getValues(range(3), range(3))
        np.testing.assert_array_equal(found, 0.5 * np.eye(3) - values.reshape(3, 3))
    matrix.close()


def test_entries_that_appear_one_by_one_soon_all_have_a_place() -> None:
    """Making a matrix takes longer than filling it."""
    matrix = Matrix(Entries(np.zeros(9, dtype=int), np.arange(9), lambda s, u: u), None, 9, Space())
    places = []
    for count in range(1, 9):
        matrix.update(0.0, (np.arange(9) < count).astype(float), 0.5)
        places.append(matrix.mat.getInfo()["nz_used"])
        np.testing.assert_array_equal(matrix.mat.getValues([0], range(9))[0, count:], 0)
    assert places == [9, 10, 11, 12, 17, 17, 17, 17], "beside the diagonal's; look at MOST"
    matrix.close()


@pytest.mark.parametrize("solver", ["ilu", "gamg", "lu"])
def test_a_preconditioner_follows_entries_that_appear(solver: str) -> None:
    """Neighbours are coupled from t = 0.1 on; LU shows that the preconditioner knows: it is nearly exact."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return 1e4 * (t - 0.1).relu() * (y.roll(1) - 2 * y + y.roll(-1)) - y

    y0 = line(40).requires_grad_()
    arguments: dict[str, Any] = {"method": "cn", "steps": Grid(8)}
    found = solve(func, y0, T, linear=GMRES(Assembled(func, solver), rtol=1e-11), **arguments)
    expected = solve(func, y0, T, linear=LU(), **arguments)
    torch.testing.assert_close(found.y, expected.y, rtol=1e-9, atol=1e-10)
    if solver == "lu":
        per_solve = found.stats.krylov_iterations / found.stats.newton_iterations
        assert per_solve <= 5, f"{per_solve} iterations a solve; look at Matrix.set"
    gradients = [torch.autograd.grad(s.y.square().sum(), y0)[0] for s in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_an_attempt_to_find_a_pattern_that_was_not_fair_is_forgotten() -> None:
    """Where func is not finite there is no pattern; another y0 may show it."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return ring(t, y) + 0 * y.sqrt()

    arguments: dict[str, Any] = {"method": "cn", "steps": Grid(2), "jacobian": "coloured", "throw": False}
    failed = solve(func, -line(10), T, **arguments)
    assert failed.status is not Status.SUCCESS
    good = solve(func, line(10), T, **arguments)
    assert good.status is Status.SUCCESS
    assert "sparse" in good.stats.linear, good.stats.linear


def test_iterations_of_failed_solves_are_counted() -> None:
    """A Rosenbrock method gets a new TS after each."""
    linear = GMRES(max_iterations=3, rtol=1e-8)
    arguments: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4, "method": "rosw-ra34pw2", "linear": linear}
    stats = solve(Brusselator(), waves(), times(0.0, 0.02), throw=False, **arguments).stats
    assert stats.rejected > 0
    assert stats.krylov_iterations >= 3 * stats.rejected, "look at Stepper._linear_step"
