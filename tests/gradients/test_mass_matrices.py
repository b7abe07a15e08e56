"""Mass matrices: gradients of differential-algebraic problems of index 1, and the forms of a matrix."""

from __future__ import annotations

import pytest
import torch
from daes import (
    BATCH,
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
    with_zero_row,
    with_zero_row_and_column,
)
from gradients import compare
from methods import DAE, DAE_KINDS
from small_problems import times
from torch import Tensor

import problems
from stiffml import METHODS, Grid, Solution, check_gradients, solve

# Gradients.


@pytest.mark.parametrize("method", DAE)
def test_gradients_of_every_method(method: str) -> None:
    func = SmallDAE()
    # Where the first stage is explicit, the column of the algebraic variable has to be zero too.
    explicit_first = METHODS[method].explicit_first_stage
    regular = (ROWS[:, :2] if explicit_first else ROWS).clone().requires_grad_()
    y0, t = CONSISTENT.clone().requires_grad_(), T.clone().requires_grad_()

    def run(steps) -> Solution:
        mass = with_zero_row_and_column(regular) if explicit_first else with_zero_row(regular)
        arguments = {"mass": mass, "make_consistent": True, **newton(method)}
        return solve(func, y0, t, method=method, steps=steps, **arguments)

    def loss(solution: Solution) -> Tensor:
        assert isinstance(solution.y, Tensor)
        return weighted(solution.y)

    # One-step methods repeat themselves: where a step has many stages, fewer steps show the same.
    steps = Grid(1 if METHODS[method].history == 1 and METHODS[method].order > 5 else 2)
    solution = run(steps)
    inputs = {"y0": y0, "slopes": func.slopes, "algebraic": func.algebraic, "t": t, "mass": regular}
    gradients = torch.autograd.grad(loss(solution), list(inputs.values()))
    for (name, tensor), gradient in zip(inputs.items(), gradients, strict=True):
        error, rate = compare(lambda: loss(run(solution.steps)), [tensor], [gradient], 1e-3)
        # The loss is known to 1e-15 or so, so that differences of size 1e-3 are known to about 1e-12; times
        # are divided by the lengths of steps, which the starts of higher BDF make short.
        assert error <= 1e-6, f"{method}: dL/d{name} is off by {error:.1e}; {LOOK_AT[name]}"
        assert rate >= 1.9, f"{method}: dL/d{name} has Taylor rate {rate:.2f}; {LOOK_AT[name]}"


LOOK_AT = {
    "y0": "see that history terms are multiplied by the mass matrix transposed, and MakeConsistent.backward",
    "slopes": "look at which nodes the cotangents of f belong to, in equations.py",
    "algebraic": "look at the same, and at the parameter gradients of MakeConsistent.backward",
    "t": "look at times.py, and at dL/dt0 of MakeConsistent.backward",
    "mass": "look at gradients/mass.py",
}


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in DAE_KINDS else pytest.mark.sweep) for m in DAE]
)
def test_gradients_from_inconsistent_values(method: str) -> None:
    report = check_gradients(
        SmallDAE(), INCONSISTENT, T, method=method, steps=Grid(1), mass=DIAGONAL, make_consistent=True
    )
    assert report.ok, f"{method}:\n{report}\nlook at {LOOK_AT['y0']}"


@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2"])
def test_gradients_of_adaptive_steps(method: str) -> None:
    # Loose: few steps suffice to show a wrong adjoint.
    problem = problems.load("pendulum")
    report = check_gradients(
        problem.func("g"),
        problem.initial_state(),
        times(0, 0.1),
        method=method,
        rtol=1e-2,
        atol=1e-3,
        mass=problem.mass_matrix(),
        make_consistent=True,
    )
    assert report.ok, f"{method}:\n{report}"


def test_backward_euler_multiplies_by_the_mass_matrix() -> None:
    """One step: without Mᵀ the cotangent of the algebraic variable is passed on, and nothing damps it."""
    problem = problems.load("pendulum")
    func, mass = problem.func(), problem.mass_matrix()
    assert mass is not None
    h = 0.1
    arguments = {"method": "beuler", "steps": Grid(1), "mass": mass, "newton": NEWTON}

    y0 = problem.initial_state().requires_grad_()
    y1 = solve(func, y0, times(0, h), **arguments).y[-1]
    (gradient,) = torch.autograd.grad(y1.sum(), y0)
    # λ₀ = Mᵀ (M − h J₁)⁻ᵀ λ₁, from the equation of the step.
    jacobian = torch.func.jacrev(func, argnums=1)(torch.tensor(h), y1.detach())
    one_step = torch.diag(mass) - h * jacobian
    expected = mass * torch.linalg.solve(one_step.T, torch.ones(5, dtype=torch.float64))
    assert off(gradient, expected) <= 1e-12
    assert gradient[4] == 0, "the step does not start from the algebraic variable"
    assert gradient.abs().max() < 10, "look for a missing transposed mass matrix"

    def loss() -> Tensor:
        return solve(func, y0, times(0, h), make_consistent=True, **arguments).y[-1].sum()

    # The step takes no notice of the projection, since it starts from the differential variables alone.
    error, rate = compare(loss, [y0], [gradient], 1e-3)
    assert error <= 1e-9
    assert rate >= 1.9


# Forms of the matrix.

FORMS = {
    "diagonal": DIAGONAL,
    "dense": DENSE,
    "shaped like a sample": DIAGONAL[None],
    "a diagonal a sample": spread(DIAGONAL),
    "a dense one a sample": spread(DENSE),
    "shaped like a sample, one a sample": spread(DIAGONAL[None]),
}


def methods_and_forms():
    for method in ("bdf3", "rosw-rodas3", "dirk-es213sal"):
        for form in FORMS:
            # These need the columns of the algebraic variables to be zero.
            if not (METHODS[method].explicit_first_stage and "dense" in form):
                yield pytest.param(method, form, id=f"{method}-{form}")


@pytest.mark.parametrize(("method", "form"), list(methods_and_forms()))
def test_batched_as_looped(method: str, form: str) -> None:
    mass = FORMS[form].clone().requires_grad_()
    shaped = "shaped" in form
    func = SmallDAE()
    start = spread(INCONSISTENT[None] if shaped else INCONSISTENT).requires_grad_()
    arguments = {"method": method, "steps": Grid(2), "make_consistent": True, **newton(method)}
    single = len(mass) != BATCH

    together = solve(func, start, T, batch_dims=1, mass=mass, **arguments).y
    apart = [
        solve(func, y0, T, mass=mass if single else mass[i], **arguments).y for i, y0 in enumerate(start)
    ]
    assert isinstance(together, Tensor)
    looped = torch.stack([y for y in apart if isinstance(y, Tensor)], dim=1)
    assert off(together, looped) <= 1e-12, "look at Mass.apply and at the blocks of the Jacobian"
    inputs = [start, mass, *func.parameters()]
    batched_gradients, looped_gradients = (
        torch.autograd.grad(weighted(y), inputs) for y in (together, looped)
    )
    for name, a, b in zip(
        ("y0", "mass", "slopes", "algebraic"), batched_gradients, looped_gradients, strict=True
    ):
        # Sums over samples and outputs round differently, and dL/dM multiplies by differences of states.
        assert off(a, b) <= 1e-11, f"dL/d{name}: look at Mass.gradient"


def test_a_batch_of_one() -> None:
    arguments = {"method": "cn", "steps": Grid(2), "mass": DIAGONAL}
    together = solve(SmallDAE(), CONSISTENT[None], T, batch_dims=1, **arguments).y
    assert isinstance(together, Tensor)
    assert off(together[:, 0], solve(SmallDAE(), CONSISTENT, T, **arguments).y) <= 1e-12


def test_a_tuple_of_states() -> None:
    """Differential and algebraic variables may be tensors of their own; the mass goes over both."""
    func = SmallDAE()

    def parts(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        slopes = func(t, torch.cat(y))
        return slopes[:2], slopes[2:]

    arguments = {"method": "bdf3", "steps": Grid(2), "newton": NEWTON}
    for mass in (DIAGONAL, DENSE):
        pair = solve(
            parts, (CONSISTENT[:2], CONSISTENT[2:]), T, mass=mass, params=func.parameters(), **arguments
        ).y
        assert off(torch.cat(pair, dim=-1), solve(func, CONSISTENT, T, mass=mass, **arguments).y) <= 1e-14


@pytest.mark.parametrize(
    "method",
    ["bdf3", "rosw-rodas3", "dirk-7510sal"],
)
def test_order_of_the_components(method: str) -> None:
    """An algebraic equation may stand in any row: that of its variable, or another."""
    func = SmallDAE()
    swap = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)

    def swapped(t: Tensor, y: Tensor) -> Tensor:
        return func(t, y @ swap)

    arguments = {"method": method, "steps": Grid(2), "params": func.parameters(), **newton(method)}
    y = solve(func, CONSISTENT, T, mass=torch.diag(DIAGONAL), **arguments).y
    assert isinstance(y, Tensor)
    again = solve(swapped, swap @ CONSISTENT, T, mass=torch.diag(DIAGONAL) @ swap, **arguments).y
    assert off(again, y @ swap) <= 1e-12, "look at the slope that the first stage starts with"


@pytest.mark.parametrize(
    "method", [*DAE_KINDS, "beuler", "arkimex-3", "dirk-s212", "rosw-theta2", "arkimex-l2"]
)
def test_regular_matrix_as_its_inverse(method: str) -> None:
    """M y' = f and y' = M⁻¹f have the same steps, also of methods that need M regular."""
    func = SmallDAE()
    found = []
    for as_mass in (True, False):
        mass = REGULAR.clone().requires_grad_()
        y0, t = INCONSISTENT.clone().requires_grad_(), T.clone().requires_grad_()
        arguments = {"mass": mass} if as_mass else {"params": [mass, *func.parameters()]}

        def solved_for(t: Tensor, y: Tensor, mass: Tensor = mass) -> Tensor:
            return torch.linalg.solve(mass, func(t, y))

        right = func if as_mass else solved_for
        y = solve(right, y0, t, method=method, steps=Grid(2), **arguments, **newton(method)).y
        assert isinstance(y, Tensor)
        found.append([y, *torch.autograd.grad(weighted(y), [y0, t, mass, *func.parameters()])])
    for name, a, b in zip(("values", "y0", "t", "mass", "slopes", "algebraic"), *found, strict=True):
        # Rounding of the solves with M, which the short first steps of BDF's ramp multiply in dL/dt.
        assert off(a, b) <= 1e-10, f"{method}: {name} of M y' = f differ from those of y' = M⁻¹f"


@pytest.mark.parametrize("method", ["beuler", "cn", "bdf", "rosw-rodas3", "dirk-7510sal"])
def test_algebraic_equations_may_be_combinations_of_rows(method: str) -> None:
    """Q M y' = Q f has the steps of M y' = f, though Q M has no row of zeros."""
    func = SmallDAE()
    found = []
    for mix in (torch.eye(3, dtype=torch.float64), MIX):
        y0, rows = INCONSISTENT.clone().requires_grad_(), ROWS.clone().requires_grad_()

        def mixed(t: Tensor, y: Tensor, mix: Tensor = mix) -> Tensor:
            return func(t, y) @ mix.T

        # From consistent values, so that dL/dM is that of the steps alone.
        y = solve(
            mixed,
            CONSISTENT + 0 * y0,
            T,
            method=method,
            steps=Grid(2),
            mass=mix @ with_zero_row(rows),
            params=func.parameters(),
            **newton(method),
        ).y
        assert isinstance(y, Tensor)
        found.append([y, *torch.autograd.grad(weighted(y), [rows, *func.parameters()])])
    for name, a, b in zip(("values", "mass", "slopes", "algebraic"), *found, strict=True):
        assert off(a, b) <= 1e-10, f"{method}: {name} change when the equations are combined"
