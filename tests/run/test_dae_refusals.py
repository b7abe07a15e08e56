"""Initial values of differential-algebraic problems, and what is refused."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from daes import (
    CONSISTENT,
    DENSE,
    DIAGONAL,
    INCONSISTENT,
    MIX,
    NEWTON,
    REGULAR,
    ROWS,
    SmallDAE,
    T,
    newton,
    off,
    spread,
    weighted,
)
from gradients import compare
from methods import DAE, DAE_FIRST_EXPLICIT
from small_problems import times
from torch import Tensor

import problems
from stiffml import METHODS, Grid, Split, solve

# Initial values.


def test_inconsistent_values_are_refused() -> None:
    func = SmallDAE()
    residual = func(T[0], INCONSISTENT)[2].abs().item()
    slope = 1 + 3 * 0.3 * 0.2**2  # of the algebraic equation, by z
    message = (
        rf"y0 is not consistent.*residual {residual:.3g}, and component \[2\] is off by about "
        rf"{residual / slope:.3g}; pass consistent values, or make_consistent=True"
    )
    with pytest.raises(ValueError, match=message):
        solve(func, INCONSISTENT, T, mass=DIAGONAL)
    batch = torch.stack([CONSISTENT, INCONSISTENT])
    with pytest.raises(ValueError, match=r"component \[1, 2\] is off"):
        solve(func, batch, T, mass=DIAGONAL, batch_dims=1)
    # Within the tolerances is consistent enough.
    nearly = CONSISTENT + torch.tensor([0.0, 0.0, 1e-5], dtype=torch.float64)
    found, exact = (solve(func, y0, T, mass=DIAGONAL, rtol=1e-4).y[-1] for y0 in (nearly, CONSISTENT))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="y0 is not consistent"):
        solve(func, nearly, T, mass=DIAGONAL, rtol=1e-7)


@pytest.mark.parametrize("mass", [DIAGONAL, DENSE, MIX @ DENSE], ids=["diagonal", "dense", "no zero row"])
def test_projection(mass: Tensor) -> None:
    """What make_consistent changes: only what the algebraic equations decide on, with its gradient."""
    func = SmallDAE()
    mix = MIX if mass[-1].any() else torch.eye(3, dtype=torch.float64)
    y0, t0 = INCONSISTENT.clone().requires_grad_(), times(0.4).requires_grad_()

    def mixed(t: Tensor, y: Tensor) -> Tensor:
        return func(t, y) @ mix.T

    def projected() -> Tensor:
        y = solve(mixed, y0, t0, mass=mass, make_consistent=True, params=func.parameters()).y
        assert isinstance(y, Tensor)
        return y[0]

    y = projected()
    assert func(t0[0], y)[2].abs() <= 1e-15
    matrix = torch.diag(mass) if mass.dim() == 1 else mass
    assert (matrix @ (y - INCONSISTENT)).abs().max() <= 1e-15
    inputs = {"y0": y0, "t0": t0, "algebraic": func.algebraic}
    gradients = torch.autograd.grad(weighted(y), [*inputs.values(), func.slopes], allow_unused=True)
    for (name, tensor), gradient in zip(inputs.items(), gradients, strict=False):
        error, rate = compare(lambda: weighted(projected()), [tensor], [gradient], 1e-3)
        assert error <= 1e-9, f"{name}: off by {error:.1e}; look at MakeConsistent.backward"
        assert rate >= 1.9
    assert gradients[-1] is None or gradients[-1].abs().max() <= 1e-15


@pytest.mark.parametrize("method", ["beuler", "bdf3"])
def test_projection_depends_on_a_dense_matrix(method: str) -> None:
    """Of a dense singular matrix the null spaces move with its entries, and the projection with them."""
    func = SmallDAE()
    left = torch.tensor([[1.0, 0.1], [0.2, 1.0], [0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    right = ROWS.clone().requires_grad_()

    def loss() -> Tensor:
        arguments = {"mass": left @ right, "make_consistent": True, **newton(method)}
        y = solve(func, INCONSISTENT, T, method=method, steps=Grid(1), **arguments).y
        assert isinstance(y, Tensor)
        return weighted(y)

    gradients = torch.autograd.grad(loss(), [left, right])
    error, _ = compare(loss, [left, right], gradients, 1e-3)
    assert error <= 1e-6, f"dL/dM is off by {error:.1e}; look at MakeConsistent.backward"


def test_make_consistent_needs_algebraic_equations() -> None:
    for mass in (None, torch.ones(3, dtype=torch.float64), REGULAR):
        with pytest.raises(ValueError, match="make_consistent has no effect without a singular mass matrix"):
            solve(SmallDAE(), INCONSISTENT, T, mass=mass, make_consistent=True)


def test_projection_that_does_not_converge() -> None:
    def without_solution(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0], 1 + y[1] ** 2])

    start = torch.tensor([1.0, 0.5], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"make_consistent: Newton's iteration .* did not converge"):
        solve(without_solution, start, T, mass=times(1, 0), make_consistent=True)


# What is refused.


@pytest.mark.parametrize("make_consistent", [False, True])
def test_index_two_is_refused(make_consistent: bool) -> None:
    """The pendulum with its constraint differentiated once: the tension is not in it."""
    problem = problems.load("pendulum")
    index_one = problem.func()

    def index_two(t: Tensor, y: Tensor) -> Tensor:
        x, height, vx, vy, _ = y.unbind(dim=-1)
        return torch.cat([index_one(t, y)[..., :4], (x * vx + height * vy)[..., None]], dim=-1)

    with pytest.raises(ValueError, match=r"not of index 1 but of a higher index.* Differentiate equation"):
        solve(
            index_two,
            problem.initial_state(),
            times(0, 0.1),
            mass=problem.mass_matrix(),
            make_consistent=make_consistent,
        )


def listed(message: str) -> list[str]:
    """The methods that a message tells to use."""
    found = re.search(r"use one of (.*)", message)
    assert found, f"no methods are named in: {message}"
    return found[1].split(", ")


@pytest.mark.parametrize("method", ["dirk-s212", "dirk-657a", "arkimex-l2", "rosw-theta2"])
def test_methods_that_need_a_regular_matrix(method: str) -> None:
    with pytest.raises(
        ValueError, match=r"mass is singular, and .* does not integrate such problems"
    ) as caught:
        solve(SmallDAE(), CONSISTENT, T, method=method, steps=Grid(2), mass=DIAGONAL)
    assert listed(str(caught.value)) == DAE


@pytest.mark.parametrize("method", ["dopri5", "rk4", "arkimex-ars122"])
def test_methods_without_a_matrix(method: str) -> None:
    for mass in (DIAGONAL, REGULAR):
        with pytest.raises(ValueError, match="takes no mass matrix") as caught:
            solve(SmallDAE(), CONSISTENT, T, method=method, steps=Grid(2), mass=mass)
        assert listed(str(caught.value)) == [name for name, able in METHODS.items() if able.mass]


def test_split_with_a_matrix() -> None:
    func = SmallDAE()
    parts = Split(func, lambda t, y: 0 * y)
    for mass in (DIAGONAL, REGULAR):
        with pytest.raises(ValueError, match="with Split needs an identity mass matrix"):
            solve(parts, CONSISTENT, T, method="arkimex-3", steps=Grid(2), mass=mass)
    # A method that takes the sum has nothing to refuse.
    arguments = {"method": "cn", "steps": Grid(2), "mass": DIAGONAL, "newton": NEWTON}
    whole = solve(func, CONSISTENT, T, **arguments).y
    assert off(solve(parts, CONSISTENT, T, **arguments).y, whole) <= 1e-14


@pytest.mark.parametrize("method", DAE_FIRST_EXPLICIT)
def test_explicit_first_stages_need_rows_of_zeros(method: str) -> None:
    def mixed(t: Tensor, y: Tensor) -> Tensor:
        return SmallDAE()(t, y) @ MIX.T

    with pytest.raises(ValueError, match=r"begins with an explicit stage.*zero row.*a method such as bdf"):
        solve(mixed, CONSISTENT, T, method=method, steps=Grid(2), mass=MIX @ DENSE)


@pytest.mark.parametrize(
    ("mass", "error", "message"),
    [
        (torch.ones(2), ValueError, r"mass must have shape \(3,\) or \(3, 3\) .* not \(2,\)"),
        (torch.ones(3, 2), ValueError, r"mass must have shape .* not \(3, 2\)"),
        (torch.ones(5, 3), ValueError, r"mass must have shape .* not \(5, 3\)"),
        (torch.ones(4, 3, 3, 1), ValueError, r"mass must have shape .* not \(4, 3, 3, 1\)"),
        (torch.tensor(1.0), ValueError, r"mass must have shape .* not \(\)"),
        (torch.tensor([1.0, math.nan, 0.0]), ValueError, "mass is not finite"),
        (torch.tensor([1.0, math.inf, 0.0]), ValueError, "mass is not finite"),
        ([1.0, 1.0, 0.0], TypeError, r"mass must be a tensor, not \[1\.0"),
        (np.array([1.0, 1.0, 0.0]), TypeError, "mass must be a tensor, not an array"),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_wrong_matrices(mass, error: type[Exception], message: str, batched: bool) -> None:
    y0 = spread(CONSISTENT) if batched else CONSISTENT
    with pytest.raises(error, match=message):
        solve(SmallDAE(), y0, T, mass=mass, batch_dims=int(batched))


@pytest.mark.parametrize("samples", [2, 3])
def test_a_square_of_as_many_samples_as_components_has_two_meanings(samples: int) -> None:
    """With two samples of two components, rows of diagonals look like one matrix."""

    def run(mass: Tensor) -> Tensor:
        return solve(lambda t, y: -y, y0, T, method="cn", steps=Grid(2), mass=mass, batch_dims=1).y

    y0 = torch.ones(samples, 2, dtype=torch.float64)
    rows = torch.arange(1, 2 * samples + 1, dtype=torch.float64).reshape(samples, 2).requires_grad_()
    apart = torch.stack(
        [
            solve(lambda t, y: -y, y0[0], T, method="cn", steps=Grid(2), mass=row.detach()).y
            for row in rows.unbind()
        ],
        dim=1,
    )
    # The diagonals of samples as such, or as matrices.
    for mass in ([rows] if samples == 3 else []) + [torch.diag_embed(rows)]:
        y = run(mass)
        torch.testing.assert_close(y.detach(), apart, rtol=1e-12, atol=0)
        assert torch.autograd.grad(y.sum(), rows)[0].all()
    matrix = times(2, 0.5, -0.5, 1).reshape(2, 2)
    single = solve(lambda t, y: -y, y0[0], T, method="cn", steps=Grid(2), mass=matrix).y
    for shared in [matrix[None]] + ([matrix] if samples == 3 else []):
        torch.testing.assert_close(run(shared)[:, -1], single, rtol=1e-12, atol=0)
    if samples == 2:
        with pytest.raises(ValueError, match=r"mass of shape \(2, 2\) has two meanings"):
            run(rows)


def pendulum(index: int):
    """x'' = −λ x, y'' = −λ y − g on the circle x² + y² = 1, its constraint differentiated 3 − index times."""

    def func(t: Tensor, z: Tensor) -> Tensor:
        x, y, u, v, force = z.unbind(-1)
        constraint = {
            3: x * x + y * y - 1,
            2: x * u + y * v,
            1: u * u + v * v - force * (x * x + y * y) - 9.81 * y,
        }
        return torch.stack([u, v, -force * x, -force * y - 9.81, constraint[index]], dim=-1)

    return func


@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2", "arkimex-3"])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_higher_index_is_refused_with_what_to_do(index: int, method: str, samples: int) -> None:
    """By the multiplier, which the constraint does not contain."""
    mass, start = times(1, 1, 1, 1, 0), times(1, 0, 0, 0, 0)
    y0, batch_dims = (start, 0) if samples == 1 else (start.expand(2, -1), 1)
    prefix = "" if samples == 1 else "0, "
    for more in ({}, {"make_consistent": True}):
        said = (
            rf"do not determine component \[{prefix}4\] of y .*not of index 1 but of a higher index.* "
            rf"Differentiate equation \[{prefix}4\] with respect to time, once for index 2 and twice"
        )
        with pytest.raises(ValueError, match=said):
            solve(pendulum(index), y0, times(0, 0.5), mass=mass, method=method, batch_dims=batch_dims, **more)
    if samples == 1:
        assert solve(pendulum(1), y0, times(0, 0.5), mass=mass, method=method).success
