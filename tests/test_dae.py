"""Mass matrices: differential-algebraic problems of index 1, their initial values, and their gradients."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from conftest import times
from gradients import compare
from torch import Tensor, nn

import problems
from problems import Problem
from stiffml import METHODS, Grid, Newton, Solution, Split, check_gradients, solve

DAE = [name for name, method in METHODS.items() if method.dae]
FAMILIES = ("cn", "bdf3", "rosw-rodas3", "dirk-es213sal")
"""One of each kind of step; orders and tableaux differ within a family, equations do not."""

NEWTON = Newton(rtol=1e-13, atol=1e-16)
T = times(0, 0.3, 0.5)


def newton(method: str) -> dict[str, Newton]:
    """Steps solved to rounding, where they take Newton's iteration."""
    return {"newton": NEWTON} if METHODS[method].newton else {}


def weighted(y: Tensor) -> Tensor:
    """A loss of all outputs in which nothing cancels."""
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    return (weights * (y + y**2 / 2)).sum()


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


class SmallDAE(nn.Module):
    """Two differential equations and one algebraic, each with parameters, driven in time."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(
            torch.tensor([[-0.8, 0.3, 1.0, 0.2], [0.5, -1.5, 0.4, -0.1]], dtype=torch.float64)
        )
        # z + 0.3 z³ = 0.9 a + 0.7 b + …: its derivative by z is never 0.
        self.algebraic = nn.Parameter(torch.tensor([[-0.9, -0.7, 1.0, 0.3]], dtype=torch.float64))
        self.register_buffer("drive", torch.tensor([0.3, 0.0, -0.2], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        features = torch.cat([y, y[..., 2:] ** 3], dim=-1)
        return features @ torch.cat([self.slopes, self.algebraic]).T + torch.sin(3 * t) * self.drive


INCONSISTENT = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
CONSISTENT = torch.tensor([1.0, (0.6 + 0.3 * 0.6**3 - 0.9) / 0.7, 0.6], dtype=torch.float64)
DIAGONAL = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)


def with_zero_row(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.zeros(1, 3, dtype=rows.dtype)])


def with_zero_row_and_column(block: Tensor) -> Tensor:
    return nn.functional.pad(block, (0, 1, 0, 1))


ROWS = torch.tensor([[1.0, 0.2, 0.1], [-0.1, 1.3, 0.2]], dtype=torch.float64)
"""Of a dense singular matrix. Its null space is not an axis: every component is partly algebraic."""


# Known end values.

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
    """−log₁₀ of the largest relative error of any component at any reference."""
    assert isinstance(solution.y, Tensor)
    found = solution.y[1:].numpy()
    errors = [np.abs(y / r.y - 1).max() for y, r in zip(found, problem.references, strict=True)]
    return -math.log10(max(errors))


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
        "else at the equations in problems/akzo.py or at the steps"
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
    "mass": "look at adjoint._mass_gradient",
}


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in FAMILIES else pytest.mark.sweep) for m in DAE]
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

BATCH = 4
"""Not the number of components: a diagonal a sample would have the shape of one dense matrix."""


def spread(base: Tensor) -> Tensor:
    """One a sample, each a multiple of the same."""
    factors = torch.linspace(0.7, 1.3, BATCH, dtype=base.dtype)
    return factors.reshape(-1, *[1] * base.dim()) * base


DENSE = with_zero_row(ROWS)
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


REGULAR = torch.tensor([[1.0, 0.2, 0.1], [-0.1, 1.3, 0.2], [0.3, 0.0, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize(
    "method", [*FAMILIES, "beuler", "arkimex-3", "dirk-s212", "rosw-theta2", "arkimex-l2"]
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


MIX = torch.tensor([[1.0, 0.3, 0.5], [0.2, 1.0, -0.4], [-0.3, 0.6, 1.0]], dtype=torch.float64)


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
    assert solve(func, nearly, T, mass=DIAGONAL, rtol=1e-4).success
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

    with pytest.raises(ValueError, match=r"not of index 1; differentiate the constraints"):
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


FIRST_EXPLICIT = [name for name in DAE if METHODS[name].explicit_first_stage]


@pytest.mark.parametrize("method", FIRST_EXPLICIT)
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
        ([1.0, 1.0, 0.0], TypeError, "mass must be a tensor, not list"),
        (np.array([1.0, 1.0, 0.0]), TypeError, "mass must be a tensor, not ndarray"),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_wrong_matrices(mass, error: type[Exception], message: str, batched: bool) -> None:
    y0 = spread(CONSISTENT) if batched else CONSISTENT
    with pytest.raises(error, match=message):
        solve(SmallDAE(), y0, T, mass=mass, batch_dims=int(batched))
