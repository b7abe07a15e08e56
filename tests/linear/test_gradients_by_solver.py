"""Gradients by every way of solving linear systems, against differences."""

from __future__ import annotations

import pytest
import torch
from fields import (
    Brusselator,
    Case,
    arguments_for,
    waves,
)
from same_steps import LOOK_AT, METHODS, differences, preconditioner, problem, require
from small_problems import times
from solvers import JACOBIANS_AND_SOLVERS, PRECONDITIONERS, SOLVERS, pattern
from torch import Tensor, nn

from stiffml import (
    GMRES,
    LU,
    Adaptive,
    Assembled,
    Fixed,
    Grid,
    Krylov,
    PointBlock,
    Sparsity,
)

BACKWARDS = times(0.12, 0.115, 0.1)
"""Diffusion grows backwards in time: not for long."""


@pytest.mark.parametrize("name", PRECONDITIONERS)
@pytest.mark.parametrize("form", METHODS)
def test_every_preconditioner_with_every_method(form: str, name: str) -> None:
    case = problem(form)
    solution = require(f"{form}, {name}", form, case, linear=GMRES(preconditioner(name, case)))
    assert solution.stats.krylov_iterations > 0
    assert solution.stats.adjoint is not None
    assert solution.stats.adjoint.krylov_iterations > 0


@pytest.mark.parametrize("name", PRECONDITIONERS)
@pytest.mark.parametrize("form", ["cn", "rosw"])
def test_every_preconditioner_backwards_in_time(form: str, name: str) -> None:
    case = problem(form, BACKWARDS)
    linear = GMRES(preconditioner(name, case))
    solution = require(f"{form}, {name}, backwards", form, case, BACKWARDS, linear=linear)
    if name not in ("none", "jacobi", "blocks"):
        steps, arguments = solution.steps, arguments_for(METHODS[form], linear=GMRES())
        without = problem(form, BACKWARDS).solve(steps=steps, **arguments).stats.krylov_iterations
        found = solution.stats.krylov_iterations
        assert found < without, (
            f"{found} iterations, and {without} without a preconditioner: look for a wrong sign of time in it"
        )


OWN_SOLVES = [("cn", "none"), ("rosw", "jacobi"), ("arkimex split", "a matrix"), ("dirk", "blocks")]


@pytest.mark.parametrize(("form", "name"), OWN_SOLVES)
def test_differences_of_its_own_solves(form: str, name: str) -> None:
    case = problem(form)
    arguments = arguments_for(METHODS[form], linear=GMRES(preconditioner(name, case)))
    case.require_gradients(LOOK_AT, differences(form).steps, **arguments)


@pytest.mark.parametrize(("jacobian", "linear"), JACOBIANS_AND_SOLVERS, ids=str)
@pytest.mark.parametrize("form", ["rosw", "arkimex split"])
def test_other_jacobians(form: str, jacobian: str | Sparsity, linear: LU | Krylov | str) -> None:
    require(f"{form}, {jacobian}, {linear}", form, problem(form), linear=linear, jacobian=jacobian)


@pytest.mark.parametrize("source", ["the jacobian", "the diffusion", "a sparsity"])
@pytest.mark.parametrize("form", ["cn", "rosw"])
def test_fields_on_one_process(form: str, source: str) -> None:
    model = Brusselator()
    func, diffusion = model.on_field()
    assembled = {
        "the jacobian": Assembled(),
        "the diffusion": Assembled(diffusion, "gamg"),
        "a sparsity": Assembled(diffusion, sparsity=pattern()),
    }
    case = Case(func)
    solution = case.solve(
        steps=differences(form).steps, **arguments_for(METHODS[form], linear=GMRES(assembled[source]))
    )
    gradients = {name.removeprefix("local.whole."): g for name, g in case.gradients(solution).items()}
    differences(form).require(solution.y, gradients, f"{form}, {source} of a field")


ADAPTIVE = [
    ("bdf3", GMRES(Assembled())),
    ("arkimex split", GMRES(PointBlock())),
    ("dirk", Krylov("bcgs")),
    # What is left of a Rosenbrock method's systems is left in its solution.
    ("rosw", GMRES(Assembled(), rtol=1e-11)),
]


@pytest.mark.parametrize(("form", "linear"), ADAPTIVE)
def test_adaptive_and_fixed_steps(form: str, linear: Krylov) -> None:
    case = problem(form)
    arguments = arguments_for(METHODS[form], linear=linear)
    loose = {"rtol": 1e-2, "atol": 1e-3}
    case.require_gradients(f"{form}, adaptive: {LOOK_AT}", Adaptive(), **arguments, **loose)
    if form != "bdf3":  # which is tried with given steps above, and takes many
        case.require_gradients(f"{form}, fixed: {LOOK_AT}", Fixed(0.08), **arguments)


# Mass matrices.

MASS = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)
COUPLED = torch.diag(MASS) + 0.002 * torch.sin(torch.arange(2500.0).double()).reshape(50, 50)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("method", "mass"),
    [("rosw-ra34pw2", MASS.reshape(2, 5, 5)), ("cn", COUPLED)],
    ids=["rosw", "cn, dense"],
)
def test_mass_matrices(method: str, mass: Tensor, solver: str) -> None:
    mass = mass.clone().requires_grad_()
    case = Case(Brusselator(), mass=mass)
    arguments = arguments_for(method, mass=mass, **SOLVERS[solver])
    case.require_gradients(f"{LOOK_AT}, and at Mass", Grid(1), **arguments)


class Screened(nn.Module):
    """A Brusselator with a field w between its species: 0 = κ Δw - w - w³/9 + u v."""

    def __init__(self) -> None:
        super().__init__()
        self.brusselator = Brusselator(4)
        self.kappa = nn.Parameter(torch.tensor(0.02, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        u, v, w = y.unbind(-3)
        around = sum(w.roll(shift, axis) for shift in (1, -1) for axis in (-1, -2))
        algebraic = 16 * self.kappa * (around - 4 * w) - w - w**3 / 9 + u * v
        moved = torch.stack([-w, 0.5 * w], dim=-3)
        return torch.cat([self.brusselator(t, y[..., :2, :, :]) + moved, algebraic[..., None, :, :]], dim=-3)


@pytest.mark.parametrize("solver", ["gmres", "gmres ilu", "coloured lu"])
@pytest.mark.parametrize("method", ["beuler", "rosw-ra34pw2", "arkimex-3"])
def test_algebraic_equations(method: str, solver: str) -> None:
    mass = torch.ones(3, 4, 4, dtype=torch.float64)
    mass[2] = 0
    start = torch.cat([waves(4), torch.ones(1, 4, 4, dtype=torch.float64)])
    case = Case(Screened(), start, times(0.1, 0.15))
    arguments = arguments_for(method, mass=mass, make_consistent=True, **SOLVERS[solver])
    case.require_gradients(f"{LOOK_AT}, and at initialization.py", Grid(1), **arguments)
