"""Settings of linear solvers: what is refused, and the forms they may be given in."""

from __future__ import annotations

import copy
import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from petsc4py import PETSc
from rings import line, mixed, one_step, ring
from scipy.sparse import eye_array
from torch import Tensor

from stiffml import (
    GMRES,
    LU,
    Assembled,
    Krylov,
    PointBlock,
    Sparsity,
)


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
    "an unknown jacobian": (
        {"jacobian": "sparse"},
        r"jacobian must be one of .*Sparsity\(pattern\) or a function",
    ),
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
