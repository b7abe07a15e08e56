"""The choice of a linear solver: by what the caller asked for, or by size and structure of the Jacobian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from stiffml.checks import described
from stiffml.linear.dense.exponential import Exponentials
from stiffml.linear.dense.lu import DenseLU
from stiffml.linear.given_jacobian import GivenJacobian, GivenSparse, JacobianFunc
from stiffml.linear.krylov.matrix_free import JacobianOf, MatrixFree
from stiffml.linear.krylov.preconditioning import preconditioning
from stiffml.linear.krylov.solver import KrylovSolver
from stiffml.linear.krylov.strengthened import Strength, StrengthenedInverse
from stiffml.linear.preconditioners import Assembled
from stiffml.linear.settings import GMRES, JACOBIANS, LU, Krylov
from stiffml.linear.sparse.compression import LocalJacobian, offered_jacobian
from stiffml.linear.sparse.lu import SparseJacobian, SparseLU
from stiffml.linear.sparsity import Sparsity
from stiffml.linear.structure import NoPatternError, Structure
from stiffml.memory import free_bytes
from stiffml.methods import Method
from stiffml.petsc.matrix import PETScSolver
from stiffml.petsc.sharing import can_share
from stiffml.settings import Tolerances
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import NotTwiceDifferentiableError
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.mass import Mass

DENSE = 256
"""Components of a sample up to which a dense Jacobian is taken without a look at its structure."""

SPARSE = 0.125
"""Products that a sparse Jacobian may take, relative to a dense one, to be chosen without being asked for."""

LARGEST_DENSE = 2048
"""Components of a sample up to which a dense Jacobian is taken where no structure is found."""

DIRECT = 20_000
"""Components of a state up to which a sparse Jacobian is factorised."""

KEPT = 1_000
"""Components of a state from which factors of a sparse Jacobian are kept over steps, as a preconditioner."""

SMALL = 2**26
"""Bytes that are not worth asking the system about."""

COPIES = 3
"""Matrices of the size of a dense Jacobian that a step needs: itself, shift·M − J, and room to make them."""


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for, and what the choice depends on besides the right-hand side.

    ``constant``: whether the Jacobian is. ``tolerances``: those of the steps; None for steps without error
    control.
    """

    linear: LU | Krylov | str
    jacobian: str | Sparsity | JacobianFunc
    method: Method
    constant: bool
    tolerances: Tolerances | None
    options: Mapping[str, object]


def choose(wanted: Wanted, f: Dynamics, mass: Mass | None, s0: float, u0: np.ndarray) -> LinearSolver:
    """The solver for the linear systems of an implicit method, or what has the φ-functions of a linear part.

    Parameters
    ----------
    wanted : Wanted
    f : Dynamics
        The right-hand side, or its implicit part.
    mass : Mass or None
    s0, u0 : float, ndarray
        The initial time and state (size,).

    Raises
    ------
    ValueError, TypeError
        For settings that do not go together, a Jacobian that would not fit in memory, or a pattern that
        cannot be found.
    """
    _check(wanted, f)
    if wanted.method.exponential:
        return _exponentials(wanted, f)
    choice = _Choice(wanted, f, mass, s0, u0)
    try:
        return choice.solver()
    except NoPatternError:
        if f.space.every(bool(np.isfinite(f.evaluate_anew(s0, u0)).all())):
            raise
        return choice.without_trying()  # the run will say that f is not finite at its start


def _check(wanted: Wanted, f: Dynamics) -> None:
    """Raise TypeError or ValueError for settings that are none, or do not go together."""
    linear, jacobian = wanted.linear, wanted.jacobian
    if not isinstance(linear, LU | Krylov) and not (isinstance(linear, str) and linear == "auto"):
        raise TypeError(f"linear must be 'auto', LU(), GMRES(…) or Krylov(name, …), not {described(linear)}")
    is_name = isinstance(jacobian, str) and jacobian in JACOBIANS
    if not (is_name or isinstance(jacobian, Sparsity) or callable(jacobian)):
        known = ", ".join(map(repr, JACOBIANS))
        raise ValueError(
            f"jacobian must be one of {known}, Sparsity(pattern) or a function of (t, y), not "
            f"{described(jacobian)}"
        )
    if isinstance(linear, Krylov) and jacobian == "dense":
        raise ValueError("jacobian='dense' goes with linear=LU(); Krylov methods need no dense one")
    if isinstance(linear, LU) and jacobian == "matrix-free":
        raise ValueError("jacobian='matrix-free' leaves LU() nothing to factorise; use linear=GMRES(…)")
    if not f.space.is_distributed or jacobian == "matrix-free":
        return
    if isinstance(linear, Krylov) and jacobian != "auto":
        raise ValueError(
            "jacobian: that of a state spread over processes is not assembled; leave jacobian out"
        )
    if not isinstance(linear, Krylov) and (linear != "auto" or jacobian != "auto"):
        raise ValueError(
            "a state spread over processes needs linear=GMRES(…) or another Krylov method; its "
            "Jacobian is not assembled"
        )


def _exponentials(wanted: Wanted, f: Dynamics) -> Exponentials:
    for name, given, taken in (
        ("linear", wanted.linear, isinstance(wanted.linear, LU | str)),
        ("jacobian", wanted.jacobian, wanted.jacobian in ("auto", "dense")),
    ):
        if not taken:
            raise ValueError(
                f"{name}: {wanted.method} takes dense matrix exponentials of the linear part, not "
                f"{name}={given!r}; leave {name} out, or use arkimex-3"
            )
    if f.space.is_distributed:
        raise ValueError(
            f"method: {wanted.method} takes dense matrix exponentials, which a state spread over processes "
            "has none of; use arkimex-3"
        )
    _require_memory(f.layout.samples, f.layout.width)
    return Exponentials(f.layout)


class _Choice:
    """What each setting leads to."""

    def __init__(self, wanted: Wanted, f: Dynamics, mass: Mass | None, s0: float, u0: np.ndarray) -> None:
        self._wanted, self._f, self._mass = wanted, f, mass
        self._s0, self._u0 = s0, u0
        named = "auto" if isinstance(f, GivenJacobian) else wanted.jacobian
        assert isinstance(named, str | Sparsity)
        self._structure = Structure(f, s0, u0, named)
        self._width = f.layout.width

    def without_trying(self) -> PETScSolver:
        """One for which f need not be tried."""
        return self._krylov(GMRES())

    def solver(self) -> PETScSolver:
        linear, jacobian = self._wanted.linear, self._wanted.jacobian
        if isinstance(self._f, GivenJacobian):
            return self._by_given(self._f)
        if isinstance(linear, Krylov):
            sparse = jacobian not in ("auto", "matrix-free")
            return self._krylov(linear, self._structure.of_right_hand_side() if sparse else None)
        if jacobian == "matrix-free":
            return self._krylov(GMRES())
        if self._f.space.is_distributed:
            offered = offered_jacobian(self._f.func, self._f.layout.size)
            return self._krylov(GMRES(None if offered is None else Assembled()))
        if jacobian == "dense" or (jacobian == "auto" and (linear != "auto" or self._width <= DENSE)):
            return self._dense()
        if jacobian == "auto":
            return self._by_structure()
        coloured = self._structure.of_right_hand_side()
        if linear == "auto" and coloured.size > DIRECT:
            return self._krylov(GMRES(Assembled()), coloured)
        return SparseLU(coloured, self._f, self._mass)

    def _by_given(self, f: GivenJacobian) -> PETScSolver:
        """For a Jacobian that the caller gives as a function."""
        linear, found = self._wanted.linear, f.check(self._s0, self._u0)
        if isinstance(found, np.ndarray):
            if isinstance(linear, Krylov):
                raise ValueError(
                    "jacobian: returned a dense matrix, which Krylov methods do not form; leave linear or "
                    "jacobian out, or return a sparse one"
                )
            return self._dense()
        given = GivenSparse(found)
        if isinstance(linear, Krylov):
            return self._krylov(linear, given)
        if linear == "auto" and given.size > DIRECT:
            return self._krylov(GMRES(Assembled()), given)
        return SparseLU(given, f, self._mass)

    def _by_structure(self) -> PETScSolver:
        """For a large state, if nothing was asked for."""
        coloured = self._structure.detected(self._f, SPARSE)
        if coloured is not None:
            if coloured.size <= DIRECT:
                return self._factorised(SparseLU(coloured, self._f, self._mass))
            return self._krylov(GMRES(Assembled()), coloured)
        if self._width <= LARGEST_DENSE:
            return self._dense()
        return self._krylov(GMRES())

    def _factorised(self, direct: SparseLU) -> PETScSolver:
        """With factors of a sparse Jacobian: new ones for every matrix, or kept ones as a preconditioner."""
        wanted, f, coloured = self._wanted, self._f, direct.coloured
        needs_new = wanted.constant or self._mass is not None or wanted.options
        if coloured.size < KEPT or needs_new or f.layout.dtype != torch.float64:
            return direct
        try:
            f.graph(self._s0, self._u0.copy()).require_adjoint(f.space)
        except NotTwiceDifferentiableError:
            return direct
        strength = Strength()

        def description() -> str:
            kept = "LU, as ILU took too many iterations," if strength.is_whole else "ilu"
            return f"gmres, matrix-free, {kept} of the Jacobian ({coloured.description})"

        setting = GMRES()
        return KrylovSolver(
            setting,
            self._rtol(setting),
            f,
            self._mass,
            MatrixFree(),
            partial(StrengthenedInverse, direct, strength),
            description,
            wanted.options,
            {},
        )

    def _dense(self) -> PETScSolver:
        _require_memory(self._f.layout.samples, self._width)
        return DenseLU(self._f.layout, self._wanted.constant)

    def _krylov(self, setting: Krylov, coloured: LocalJacobian | None = None) -> PETScSolver:
        """With products of the graph of f, or of its sparse Jacobian."""
        chosen = preconditioning(setting.preconditioner, self._f, self._mass, self._structure, coloured)
        jacobian_of: JacobianOf = MatrixFree()
        product = "matrix-free"
        if coloured is not None:
            jacobian_of = partial(SparseJacobian, coloured)
            product = f"a Jacobian of {coloured.description}"
        return KrylovSolver(
            setting,
            self._rtol(setting),
            self._f,
            self._mass,
            jacobian_of,
            chosen.make,
            f"{setting.method}, {product}, {chosen.description}",
            self._wanted.options,
            chosen.suggested,
            shares_vectors=coloured is None and self._may_share_vectors,
        )

    @property
    def _may_share_vectors(self) -> bool:
        """Whether PETSc has vectors on the device of the states, and these are all that is in a vector."""
        alone = self._mass is None and not self._wanted.method.time_is_state
        return alone and not self._f.space.is_distributed and can_share(self._f.layout.device)

    def _rtol(self, setting: Krylov) -> float:
        """Of forward solves."""
        if setting.rtol is not None:
            return setting.rtol
        if self._wanted.method.newton and not self._wanted.constant:
            return 1e-3 if self._wanted.tolerances is None else 1e-2
        tolerances = self._wanted.tolerances
        return 1e-10 if tolerances is None else 1e-3 * float(np.min(tolerances.rtol))


def _require_memory(samples: int, width: int) -> None:
    """Raise ValueError if dense Jacobians (samples, width, width) do not fit into free memory."""
    needed = COPIES * 8 * samples * width**2
    if needed <= SMALL:
        return
    there = free_bytes()
    if needed <= there:
        return
    size = f"{needed / 2**30:.3g} GiB for {width} × {width} numbers"
    if samples > 1:
        size += f" in each of {samples} samples"
    raise ValueError(
        f"linear: a dense Jacobian would take {size}, but {there / 2**30:.3g} GiB are free. Try: "
        "linear=GMRES(preconditioner=…), which needs none; or jacobian='coloured' if it is sparse"
    )
