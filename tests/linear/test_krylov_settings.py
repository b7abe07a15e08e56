"""What of the settings of linear solvers reaches PETSc, and what solves do to each other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fields import TIGHT, Brusselator, Case, Own, waves, weighted
from rings import T, line, one_step, ring
from small_problems import times
from torch import Tensor

from stiffml import (
    GMRES,
    Assembled,
    Grid,
    Krylov,
    LinearSolveError,
    Newton,
    ODEBlock,
    Solution,
    odeint,
    solve,
)

# isort: split
from petsc4py import PETSc  # after stiffml, which initialises it


def forth_and_back(
    options: dict[str, object], linear: Krylov, points: int = 5
) -> tuple[Solution, dict[str, Tensor]]:
    case = Case(Brusselator(points), waves(points), times(0.1, 0.2))
    solution = case.solve(method="cn", steps=Grid(1), newton=TIGHT, linear=linear, options=options)
    return solution, case.gradients(solution)


NEW_IN_3_26 = pytest.mark.skipif(PETSc.Sys.getVersion() < (3, 26, 0), reason="an option since PETSc 3.26")


@pytest.mark.parametrize(
    "option",
    [
        ("ksp_gmres_modifiedgramschmidt", True),
        pytest.param(("ksp_orthogonalization", "mgs"), marks=NEW_IN_3_26),
    ],
)
def test_options_of_the_method_go_both_ways(option: tuple[str, object], tmp_path: Path) -> None:
    path = tmp_path / "view"
    forth_and_back(dict([option, ("ksp_view", f"ascii:{path}::append")]), GMRES(Assembled()))
    views = [view for view in path.read_text().split("KSP Object: ") if view]
    prefixes = {view.split(")")[0] for view in views}
    assert len(prefixes) == 2, (
        f"solves of {prefixes} were seen; there should be forward ones and backward ones"
    )
    assert all("modified Gram-Schmidt" in view for view in views), (
        "an option is lost on the way to the backward pass"
    )


def test_options_of_the_preconditioner_go_both_ways() -> None:
    few, many = (forth_and_back({"pc_factor_levels": n}, GMRES(Assembled()), 8)[0].stats for n in (0, 3))
    assert many.krylov_iterations < few.krylov_iterations
    assert few.adjoint is not None
    assert many.adjoint is not None
    assert many.adjoint.krylov_iterations < few.adjoint.krylov_iterations


def test_options_of_inner_solvers_go_both_ways() -> None:
    linear = GMRES(Assembled(solver="redundant"))
    exact, rough = (forth_and_back({"redundant_pc_type": kind}, linear)[0].stats for kind in ("lu", "jacobi"))
    assert exact.krylov_iterations < rough.krylov_iterations
    assert exact.adjoint is not None
    assert rough.adjoint is not None
    assert exact.adjoint.krylov_iterations < rough.adjoint.krylov_iterations


@pytest.mark.parametrize("solver", ["asm", "bjacobi", "icc", "cholesky"])
def test_other_preconditioners_of_petsc(solver: str) -> None:
    _, expected = forth_and_back({}, GMRES())
    _, found = forth_and_back({}, GMRES(Assembled(solver=solver)))
    for name, gradient in expected.items():
        off = float((found[name] - gradient).abs().max() / gradient.abs().max())
        assert off <= 1e-7, f"{solver}: dL/d({name}) is off by {off:.1e}"


@pytest.mark.parametrize("solver", ["sor", "kaczmarz"])
def test_preconditioners_without_a_transpose_say_so(solver: str) -> None:
    with pytest.raises(LinearSolveError, match=r"no transpose, which the backward pass needs\. Try: "):
        forth_and_back({}, GMRES(Assembled(solver=solver)))


def test_multigrid_follows_the_step_size() -> None:
    """An interpolation that was smoothed for a tiny step is no good for one that is 10⁵ times as long."""
    case = Case(Brusselator(64), waves(64), torch.tensor([0, 1e-6, 0.1], dtype=torch.float64))
    last = torch.tensor([0, 0.1], dtype=torch.float64)
    linear = GMRES(Assembled(case.func.diffusion, "gamg", constant=True), rtol=1e-6)
    arguments = {"method": "bdf1", "steps": Grid(1), "newton": Newton(max_iterations=50), "linear": linear}
    iterations = []
    for t in (case.t, last):
        stats = solve(case.func, waves(64), t, **arguments).stats
        iterations.append(stats.krylov_iterations)
    after, alone = iterations
    assert after <= 1.5 * alone + 10, (
        f"{after} iterations for a tiny and a long step, {alone} for the long one; look at COARSER"
    )


def test_iterations_are_counted() -> None:
    solution, _ = forth_and_back({}, GMRES(Assembled()))
    stats = solution.stats
    assert stats.krylov_iterations >= stats.newton_iterations > 0
    assert stats.adjoint is not None
    assert stats.adjoint.krylov_iterations >= 2
    assert one_step(ring, line(10), jacobian="coloured").stats.krylov_iterations <= 4, "LU takes one a solve"


class Watched(Own):
    """Remembers what it was called with."""

    def __init__(self, func: Callable) -> None:
        super().__init__(func)
        self.points: list[tuple[Any, ...]] = []
        self.residuals: list[Tensor] = []

    def update(self, t: Tensor, y: Tensor, shift: float) -> None:
        self.points.append((t, y.clone(), shift))
        super().update(t, y, shift)

    def apply(self, residual: Tensor) -> Tensor:
        self.residuals.append(residual.clone())
        return super().apply(residual)


@pytest.mark.parametrize("method", ["cn", "rosw-ra34pw2"])
def test_what_an_own_preconditioner_is_given(method: str) -> None:
    model = Brusselator()
    own = Watched(model)
    solution = solve(model, waves(), times(0.1, 0.2, 0.3), method=method, steps=Grid(2), linear=GMRES(own))
    for t, y, shift in own.points:
        assert t.dim() == 0
        assert 0.1 <= float(t) <= 0.3
        assert y.shape == (2, 5, 5)
        assert {t.dtype, y.dtype} == {torch.float64}
        assert shift > 0
    assert all(residual.shape == (2, 5, 5) for residual in own.residuals)
    assert len(own.points) == solution.stats.jacobians, "an update is promised at every new point; see Upkeep"


# Copies, solves side by side, and no gradients.


def test_a_deep_copy_solves_the_same() -> None:
    model = Brusselator()
    block = ODEBlock(
        model, times(0, 0.1), method="cn", steps=Grid(2), linear=GMRES(Assembled(model.diffusion))
    )
    twin = copy.deepcopy(block)
    y = block(waves())
    assert torch.equal(twin(waves()), y)
    y.sum().backward()
    twin(waves()).sum().backward()
    for (name, a), b in zip(block.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), f"{name}: a copy has another gradient"
    solver = twin.arguments["linear"].preconditioner.source
    assert solver is twin.func.diffusion, "a copy's preconditioner is still that of the original"


@pytest.mark.parametrize("kind", ["own", "assembled"])
def test_two_solves_at_once(kind: str) -> None:
    """They may share a preconditioner, which each brings up to date for itself."""
    model = Brusselator()
    linear = GMRES(Own(model) if kind == "own" else Assembled())
    cases = [Case(model, waves(), times(0.1, end)) for end in (0.2, 0.11)]
    arguments = {"method": "cn", "steps": Grid(2), "newton": TIGHT, "linear": linear}
    alone = [case.gradients(case.solve(**arguments)) for case in cases]
    first, second = (weighted(case.solve(**arguments).y) for case in cases)
    for which, loss in ((1, second), (0, first), (1, second), (0, first)):
        inputs = cases[which].inputs
        found = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True)
        for name, gradient in zip(inputs, found, strict=True):
            expected = alone[which][name]
            off = float((gradient - expected).abs().max() / expected.abs().max())
            assert off <= 1e-7, f"{kind}: dL/d({name}) changes by {off:.1e} with another solve beside it"


def test_a_solve_within_a_solve() -> None:
    """Of a function that solves equations of its own, with the same preconditioner."""
    model = Brusselator()
    linear = GMRES(Assembled())
    arguments = {"method": "cn", "steps": Grid(1), "linear": linear}
    inner = odeint(model, waves(), times(0.1, 0.12), **arguments)[-1]

    def func(t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            source = odeint(model, waves(), times(0.1, 0.12), **arguments)[-1]
        return model(t, y) + source

    found = solve(func, waves(), times(0, 0.1), method="cn", steps=Grid(1), linear=GMRES())
    expected = solve(
        lambda t, y: model(t, y) + inner, waves(), times(0, 0.1), method="cn", steps=Grid(1), linear=GMRES()
    )
    assert torch.equal(found.y, expected.y)


@pytest.mark.parametrize("arguments", [{"linear": GMRES(Assembled())}, {"jacobian": "coloured"}])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable, arguments: dict[str, Any]) -> None:
    model = Brusselator()
    expected = one_step(model, waves(), **arguments).y
    with mode():
        found = one_step(model, waves(), **arguments).y
    assert not found.requires_grad
    assert torch.equal(found, expected)


def test_functions_without_a_jacobian() -> None:
    """Of a slope that does not depend on the state, neither products nor entries are anything but zero."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(t) * torch.ones_like(y)

    for arguments in ({"linear": GMRES()}, {"linear": GMRES(Assembled())}, {"jacobian": "coloured"}):
        y = solve(func, line(5), T, method="cn", steps=Grid(20), **arguments).y
        assert torch.allclose(y[-1] - y[0], torch.sin(T[-1]), rtol=1e-5)


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("method", ["bicg", "cgne"])
def test_methods_that_need_the_transpose_carry_time_too(method: str, batch_dims: int) -> None:
    """Rosenbrock methods solve with time as a further state."""
    rates = torch.tensor([[3.0, 40.0, 7.0], [1.0, 20.0, 9.0]], dtype=torch.float64)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -rates * (y - torch.cos(5 * t)[..., None, None]) + 0.5 * y.roll(1, -1)

    arguments: dict[str, Any] = {"method": "rosw-ra34pw2", "steps": Grid(4), "batch_dims": batch_dims}
    y0, t = torch.ones(2, 3, dtype=torch.float64), times(0, 0.1)
    expected = solve(func, y0, t, **arguments).y
    for preconditioner in (None, Assembled(solver="lu")):
        linear = Krylov(method, preconditioner, rtol=1e-12)
        found = solve(func, y0, t, linear=linear, **arguments).y
        off = float((found - expected).abs().max())
        assert off < 1e-9, (
            f"off by {off:.1e} with {preconditioner}: look at ShiftedOperator's transposes with time"
        )
