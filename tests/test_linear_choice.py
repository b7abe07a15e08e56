"""How linear systems are solved: what is chosen, what is refused, and what reaches PETSc."""

from __future__ import annotations

import copy
import dataclasses
import gc
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import times
from fields import TIGHT, Brusselator, Case, Own, jacobian_of, waves, weighted
from petsc4py import PETSc
from scipy.sparse import eye_array
from torch import Tensor

from stiffml import (
    GMRES,
    LU,
    Assembled,
    Grid,
    Krylov,
    LinearSolveError,
    ODEBlock,
    PointBlock,
    Solution,
    Sparsity,
    Split,
    odeint,
    solve,
)
from stiffml.linear.jacobians import MissingEntriesError

T = times(0, 0.1)


def ring(t: Tensor, y: Tensor) -> Tensor:
    """Diffusion along the last axis, round the end to the beginning."""
    return 50 * (y.roll(1, -1) - 2 * y + y.roll(-1, -1)) - y**3 + torch.sin(t)


def mixed(t: Tensor, y: Tensor) -> Tensor:
    """All components depend on all."""
    return torch.cos(y.mean(-1, keepdim=True)) - y


def line(n: int) -> Tensor:
    return torch.linspace(0.1, 1, n, dtype=torch.float64)


def one_step(func: Callable, y0: Any, t: Tensor = T, method: str = "cn", **arguments: Any) -> Solution:
    return solve(func, y0, t, method=method, steps=Grid(1), **arguments)


# What is chosen.

DENSE, SPARSE, FREE = "LU of the Jacobian, dense", "LU of the Jacobian, sparse", "gmres, matrix-free"
INCOMPLETE = r"gmres, a Jacobian of \d+ entries from \d products, ilu of the Jacobian"


@pytest.mark.parametrize(
    ("func", "y0", "arguments", "expected"),
    [
        (ring, line(256), {}, f"{DENSE}, 256 × 256"),
        (ring, line(400), {}, f"{SPARSE}, 1200 entries from [34] products"),
        (ring, line(25_000), {}, INCOMPLETE),
        (mixed, line(400), {}, f"{DENSE}, 400 × 400"),
        (mixed, line(2049), {}, f"{FREE}, no preconditioner"),
        (
            ring,
            line(400).reshape(4, 100),
            {"batch_dims": 1},
            "LU of 4 blocks of the Jacobian, dense, 100 × 100",
        ),
        (ring, line(400), {"linear": LU()}, f"{DENSE}, 400 × 400"),
        (ring, line(400), {"jacobian": "dense"}, f"{DENSE}, 400 × 400"),
        (ring, line(10), {"jacobian": "coloured"}, f"{SPARSE}, 30 entries from [3-5] products"),
        (ring, line(25_000), {"jacobian": "coloured"}, INCOMPLETE),
        (ring, line(25_000), {"jacobian": "coloured", "linear": LU()}, SPARSE),
        (
            ring,
            line(10),
            {"jacobian": Sparsity(np.ones((10, 10)))},
            f"{SPARSE}, 100 entries from 10 products",
        ),
        (ring, line(10), {"jacobian": "matrix-free"}, f"{FREE}, no preconditioner"),
        (ring, line(10), {"linear": GMRES()}, f"{FREE}, no preconditioner"),
        (ring, line(10), {"linear": GMRES(PointBlock())}, f"{FREE}, point-block Jacobi"),
        (ring, line(10), {"linear": GMRES(Own(ring))}, f"{FREE}, Own"),
        (
            ring,
            line(10),
            {"linear": Krylov("bcgs", Assembled(ring, "gamg"))},
            r"bcgs, matrix-free, gamg of ring \(",
        ),
        (ring, line(10), {"linear": GMRES(Assembled(eye_array(10)))}, f"{FREE}, ilu of a given matrix"),
        (ring, line(10), {"method": "rk4"}, "$"),
    ],
)
def test_what_is_chosen(func: Callable, y0: Tensor, arguments: dict[str, Any], expected: str) -> None:
    chosen = one_step(func, y0, **arguments).stats.linear
    assert re.match(expected, chosen), f"chosen was {chosen!r}; look at choice.py"


def test_a_split_is_chosen_for_by_its_implicit_part() -> None:
    split = Split(ring, mixed)
    assert one_step(split, line(300), method="arkimex-3").stats.linear.startswith(SPARSE)
    assert one_step(split, line(300), method="cn").stats.linear.startswith(DENSE)


@pytest.mark.parametrize(
    ("shape", "arguments", "size"),
    [
        ((10**6,), {"jacobian": "dense"}, r"2\.24e\+04 GiB for 1000000 × 1000000 numbers"),
        ((10**6,), {"linear": LU()}, r"2\.24e\+04 GiB for 1000000 × 1000000 numbers"),
        (
            (4, 10**5),
            {"linear": LU(), "batch_dims": 1},
            "894 GiB for 100000 × 100000 numbers in each of 4 samples",
        ),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], arguments: dict[str, Any], size: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match=rf"linear: .* {size}, but .* GiB are free\. Try: .*GMRES.*coloured"):
        one_step(ring, torch.ones(shape, dtype=torch.float64), **arguments)
    assert time.perf_counter() - began < 10, "something of that size was tried"


# What is refused.


class OnlyForwards:
    def apply(self, residual: Tensor) -> Tensor:
        return residual


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "linear as a name": (
        {"linear": "gmres"},
        r"linear must be LU\(\), GMRES\(…\) or Krylov\(name, …\), not 'gmres'",
    ),
    "linear as a class": ({"linear": GMRES}, "linear must be LU"),
    "an unknown jacobian": ({"jacobian": "sparse"}, r"jacobian must be one of .* or Sparsity\(pattern\)"),
    "no jacobian": ({"jacobian": None}, "jacobian must be one of"),
    "a bare pattern": ({"jacobian": np.eye(10)}, r"jacobian must be one of .*Sparsity\(pattern\)"),
    "a bare tensor": ({"jacobian": torch.eye(10)}, r"jacobian must be one of .*Sparsity\(pattern\)"),
    "a bare sparse pattern": ({"jacobian": eye_array(10)}, r"jacobian must be one of .*Sparsity\(pattern\)"),
    "gmres of a dense jacobian": (
        {"linear": GMRES(), "jacobian": "dense"},
        r"jacobian='dense' goes with linear=LU",
    ),
    "lu of no jacobian": ({"linear": LU(), "jacobian": "matrix-free"}, r"leaves LU\(\) nothing to factorise"),
    "a pattern of another size": (
        {"jacobian": Sparsity(np.eye(9))},
        "Sparsity: the pattern is 9 × 9, but y0 has 10",
    ),
    "a method": ({"linear": Krylov("gmrs")}, "linear: PETSc has no 'gmrs' here; it knows .*bcgs.*gmres"),
    "a preconditioner's name": ({"linear": GMRES("ilu")}, "preconditioner must be Assembled"),
    "a preconditioner's class": ({"linear": GMRES(PointBlock)}, "preconditioner must be .* no apply and no"),
    "no transpose": ({"linear": GMRES(OnlyForwards())}, "preconditioner must be .* has no apply_transpose"),
    "a solver": (
        {"linear": GMRES(Assembled(solver="icu"))},
        "Assembled: PETSc has no .*'icu' here; it knows .*gamg.*ilu",
    ),
    "a solver as source": (
        {"linear": GMRES(Assembled("ilu"))},
        "Assembled: source must be a function, a sparse",
    ),
    "a matrix of another size": (
        {"linear": GMRES(Assembled(eye_array(9)))},
        r"Assembled: the matrix is \(9, 9\), but",
    ),
    "a matrix that is not square": (
        {"linear": GMRES(Assembled(np.ones((10, 3))))},
        "Assembled: the matrix is",
    ),
    "a source of another shape": ({"linear": GMRES(Assembled(lambda t, y: y[:3]))}, r"shape \(3,\)"),
    "its size": (
        {"linear": GMRES(Assembled(sparsity=Sparsity(np.eye(9))))},
        "Sparsity: the pattern is 9 × 9",
    ),
    "an axis": ({"linear": GMRES(PointBlock(1))}, r"PointBlock: axis 1 is none of a sample of shape \(10,\)"),
    "an axis from the end": ({"linear": GMRES(PointBlock(-2))}, "PointBlock: axis -2 is none"),
    "linear for nothing": (
        {"method": "rk4", "linear": GMRES()},
        "linear has no effect with the explicit method",
    ),
    "lu for nothing": ({"method": "rk4", "linear": LU()}, "linear has no effect with the explicit method"),
    "a jacobian for nothing": (
        {"method": "rk4", "jacobian": "coloured"},
        "jacobian has no effect with the explicit",
    ),
    "an option": (
        {"linear": GMRES(), "options": {"ksp_gmrs_restart": 3}},
        "options: PETSc made no use of ksp_gmrs_",
    ),
    "an option without use": (
        {"linear": GMRES(), "options": {"pc_factor_levels": 3}},
        "no use of pc_factor_levels",
    ),
    "another preconditioner": (
        {"linear": GMRES(Assembled()), "options": {"pc_type": "jacobi"}},
        "options: pc_type",
    ),
    "one beside none": ({"linear": GMRES(), "options": {"pc_type": "jacobi"}}, "options: pc_type"),
    "another method": ({"linear": GMRES(), "options": {"ksp_type": "bcgs"}}, "options: ksp_type"),
}


def kept() -> int:
    gc.collect()
    return len(PETSc.Options().getAll())


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str) -> None:
    arguments, message = REFUSED[what]
    before = kept()
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        one_step(ring, line(10), **arguments)
    assert kept() == before, (
        "PETSc options are left behind; look at what Stepper and _Recorded do when they fail"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GMRES(rtol=0.0), "GMRES: rtol must lie between 0 and 1, not 0.0"),
        (lambda: GMRES(rtol=float("nan")), "GMRES: rtol must lie between 0 and 1, not nan"),
        (lambda: Krylov("cg", adjoint_rtol=1.0), "Krylov: adjoint_rtol must lie between 0 and 1, not 1.0"),
        (lambda: GMRES(max_iterations=0), "GMRES: max_iterations must be at least 1, not 0"),
        (lambda: GMRES(max_iterations=2.5), "GMRES: max_iterations must be"),
        (lambda: GMRES(restart=0), "GMRES: restart must be at least 1, not 0"),
        (lambda: GMRES(restart=2.5), "GMRES: restart must be"),
        (lambda: Krylov(None), "Krylov: method must be"),
        (lambda: Krylov(3), "Krylov: method must be"),
        (lambda: PointBlock(0.5), "PointBlock: axis must be a whole number"),
        (lambda: Assembled(sparsity=np.eye(10)), r"Assembled: sparsity must be Sparsity\(pattern\)"),
        (lambda: Krylov("preonly"), "Krylov: method must be the name of an iteration, not .preonly"),
        (lambda: Assembled(solver=None), "Assembled: solver must be"),
        (
            lambda: Sparsity(np.ones((2, 3))),
            r"Sparsity: the pattern must be a square matrix, not of shape \(2, 3\)",
        ),
        (lambda: Sparsity(np.ones(3)), r"Sparsity: the pattern must be a square matrix, not of shape \(3,\)"),
        (lambda: Sparsity("coloured"), "Sparsity: the pattern must be"),
        (lambda: Sparsity(None), "Sparsity: the pattern must be"),
    ],
)
def test_settings_are_checked(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    "pattern",
    [
        np.eye(3),
        np.eye(3, dtype=bool),
        eye_array(3),
        torch.eye(3),
        torch.eye(3, dtype=torch.bool),
        torch.eye(3, requires_grad=True),
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
    ],
    ids=[
        "array",
        "bool",
        "sparse array",
        "tensor",
        "bool tensor",
        "of a gradient",
        "sparse tensor",
        "csr tensor",
    ],
)
def test_patterns_come_in_many_forms(pattern: Any) -> None:
    assert (Sparsity(pattern).pattern.toarray() == np.eye(3, dtype=bool)).all()


def test_settings_can_be_changed_and_copied() -> None:
    linear = GMRES(Assembled(solver="gamg"), restart=7)
    assert copy.deepcopy(linear) == linear
    assert dataclasses.replace(linear, rtol=0.5) == GMRES(Assembled(solver="gamg"), rtol=0.5, restart=7)


@pytest.mark.parametrize("kind", ["hypre", "ml", "amgx"])
def test_only_what_petsc_has_is_offered(kind: str) -> None:
    """Names of packages that this PETSc was built without."""
    try:
        one_step(ring, line(10), linear=GMRES(Assembled(solver=kind)))
    except ValueError as error:
        offered = str(error).partition("it knows ")[2].split(", ")
        assert "ilu" in offered
        assert kind not in offered, "PETSc's names of types are not all there; look at what can be set"


@pytest.mark.parametrize(("func", "wrong"), [(mixed, "nearly dense"), (None, "does not let NaN pass")])
def test_no_pattern_is_found(func: Callable | None, wrong: str) -> None:
    def strict(t: Tensor, y: Tensor) -> Tensor:
        if y.isnan().any():
            raise ValueError("not a number")
        return -y

    y0 = line(1100)  # more rows than any sparse Jacobian may take
    with pytest.raises(
        ValueError, match=rf"jacobian='coloured': no sparse pattern .*{wrong}.*Sparsity\(pattern\)"
    ):
        one_step(func or strict, y0, jacobian="coloured")
    with pytest.raises(ValueError, match=r"Assembled: no sparse pattern .*sparsity=Sparsity\(pattern\)"):
        one_step(func or strict, y0, linear=GMRES(Assembled()))


# Patterns that are too small.


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"linear": GMRES(PointBlock())},
        {"linear": GMRES(Assembled()), "method": "rosw-ra34pw2"},
        {"linear": GMRES(Assembled(sparsity=Sparsity(np.eye(10)))), "jacobian": "auto"},
    ],
)
def test_a_missing_entry_is_noticed(arguments: dict[str, Any]) -> None:
    pattern = jacobian_of(ring, line(10)) != 0
    pattern[3, 4] = False
    with pytest.raises(
        MissingEntriesError, match=r"lacks entries .* (row|column) of component \[\d\].*matrix-free"
    ):
        one_step(ring, line(10), **{"jacobian": Sparsity(pattern), **arguments})


class Later:
    """Components depend on their neighbours from a certain time on."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 0.15 else -y + y.roll(1, -1)


@pytest.mark.parametrize("method", ["cn", "rosw-ra34pw2"])
def test_an_entry_that_appears_is_noticed(method: str) -> None:
    func = Later()
    assert solve(func, line(10), T, method=method, steps=Grid(2), jacobian="coloured").success
    with pytest.raises(MissingEntriesError, match="lacks entries"):
        solve(func, line(10), times(0, 0.1, 0.3), method=method, steps=Grid(2), jacobian="coloured")


def test_solves_do_not_depend_on_those_before() -> None:
    func = Later()
    one_step(func, line(10), T, jacobian="coloured")
    later = one_step(func, line(10), times(0.2, 0.3), jacobian="coloured")
    assert later.success, "a pattern found at another time was taken; look at _known_pattern"


# What reaches PETSc.


def forth_and_back(
    options: dict[str, object], linear: Krylov, points: int = 5
) -> tuple[Solution, dict[str, Tensor]]:
    case = Case(Brusselator(points), waves(points), times(0.1, 0.2))
    solution = case.solve(method="cn", steps=Grid(1), newton=TIGHT, linear=linear, options=options)
    return solution, case.gradients(solution)


@pytest.mark.parametrize(
    "option", [("ksp_gmres_modifiedgramschmidt", True), ("ksp_orthogonalization", "mgs")]
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
