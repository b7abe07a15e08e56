"""How linear systems are solved: what is chosen, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import gc
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fields import Own, jacobian_of
from petsc4py import PETSc
from rings import T, line, one_step, ring
from scipy.sparse import eye_array
from small_problems import times
from torch import Tensor

from stiffml import (
    GMRES,
    LU,
    Assembled,
    Grid,
    Krylov,
    PointBlock,
    Sparsity,
    Split,
    solve,
)
from stiffml.linear.sparse.compression import MissingEntriesError


def mixed(t: Tensor, y: Tensor) -> Tensor:
    """All components depend on all."""
    return torch.cos(y.mean(-1, keepdim=True)) - y


# What is chosen.

DENSE, SPARSE, FREE = "LU of the Jacobian, dense", "LU of the Jacobian, sparse", "gmres, matrix-free"
INCOMPLETE = r"gmres, a Jacobian of \d+ entries from \d products, ilu of the Jacobian"


@pytest.mark.parametrize(
    ("func", "y0", "arguments", "expected"),
    [
        (ring, line(256), {}, f"{DENSE}, 256 × 256"),
        (ring, line(400), {}, f"{SPARSE}, 1200 entries from [34] products"),
        (ring, line(25_000), {}, INCOMPLETE),
        (ring, line(400), {"linear": "auto"}, f"{SPARSE}, 1200 entries from [34] products"),
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
        (ring, line(10), {"method": "rk4", "linear": "auto"}, "$"),
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
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return ring(t, y)

    with pytest.raises(ValueError, match=rf"linear: .* {size}, but .* GiB are free\. Try: .*GMRES.*coloured"):
        one_step(counted, torch.ones(shape, dtype=torch.float64), **arguments)
    assert calls <= 5, "something of that size was tried"


# What is refused.


class OnlyForwards:
    def apply(self, residual: Tensor) -> Tensor:
        return residual


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "linear as a name": (
        {"linear": "gmres"},
        r"linear must be 'auto', LU\(\), GMRES\(…\) or Krylov\(name, …\), not 'gmres'",
    ),
    "linear as a class": ({"linear": GMRES}, "linear must be 'auto', LU"),
    "no linear": ({"linear": None}, "linear must be 'auto', LU"),
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


@pytest.mark.parametrize("scale", [1.0, 1e12], ids=["alone", "beside a huge entry"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_missing_entry_is_noticed_in_any_precision(dtype: torch.dtype, scale: float) -> None:
    size = torch.ones(10, dtype=dtype)
    size[0] = scale

    def func(t: Tensor, y: Tensor) -> Tensor:
        coupled = torch.cat([torch.zeros(1, dtype=dtype), y[1:].roll(1)])
        return -size * y + 0.3 * coupled

    if scale > 1 and dtype == torch.float32:
        return  # its rounding is larger than what is missing
    with pytest.raises(MissingEntriesError, match="lacks entries"):
        one_step(func, line(10).to(dtype), jacobian=Sparsity(np.eye(10)))


def test_a_jacobian_that_is_not_finite_gets_differences() -> None:
    """It is not taken for one that lacks entries."""
    y0 = torch.linspace(0, 1, 10, dtype=torch.float64)
    found = one_step(lambda t, y: -y.clamp(min=0).sqrt(), y0, jacobian="coloured")
    assert found.stats.mended_jacobians > 0, "look at linear/non_finite.py"
    assert found.y[-1, 0] == 0


def test_a_module_may_have_a_field_of_another_kind() -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = torch.nn.Linear(2, 2)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return ring(t, y)

    assert one_step(Named(), line(10), linear=GMRES(Assembled())).success


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


def test_the_pattern_of_a_method_is_found_once() -> None:
    """Each mention of it makes another object."""

    class Model:
        calls = 0

        def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return ring(t, y)

    model = Model()
    calls = []
    for _ in range(2):
        model.calls = 0
        one_step(ring, line(40), linear=GMRES(Assembled(model.diffusion)))
        calls.append(model.calls)
    assert calls[1] < calls[0] - 20, f"{calls} evaluations; look at known_pattern"


def test_solves_do_not_depend_on_those_before() -> None:
    func = Later()
    one_step(func, line(10), T, jacobian="coloured")
    later = one_step(func, line(10), times(0.2, 0.3), jacobian="coloured")
    assert later.success, "a pattern found at another time was taken; look at known_pattern"
