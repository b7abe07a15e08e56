"""From ``linear=`` and ``jacobian=`` to a solver: by what was asked for, or by size and structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array, issparse

from stiffml.checks import described
from stiffml.linear.dense.lu import DenseLU
from stiffml.linear.krylov.inverses import Approximate, AssembledInverse, OwnInverse, PointBlockInverse
from stiffml.linear.krylov.matrix_free import JacobianOf, MatrixFree
from stiffml.linear.krylov.solver import KrylovSolver
from stiffml.linear.preconditioners import Assembled, PointBlock, Preconditioner
from stiffml.linear.settings import GMRES, JACOBIANS, LU, Krylov, Sparsity, coordinates
from stiffml.linear.solver import LinearSolver
from stiffml.linear.sparse.compression import Coloured, Compressed
from stiffml.linear.sparse.lu import SparseJacobian, SparseLU
from stiffml.linear.sparse.matrices import Entries
from stiffml.linear.sparse.patterns import known_pattern
from stiffml.memory import free_bytes
from stiffml.methods import Method
from stiffml.petsc.sharing import can_share
from stiffml.settings import Tolerances
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.pattern_detection import detect_sparsity
from stiffml.system.mass import Mass
from stiffml.system.space import HasSpace

DENSE = 256
"""Components of a sample up to which a dense Jacobian is taken without a look at its structure."""

SPARSE = 0.125
"""Products that a sparse Jacobian may take, of those of a dense one, to be chosen without being asked for."""

LARGEST_DENSE = 2048
"""And up to which it is taken where no structure is found."""

DIRECT = 20_000
"""Components up to which a sparse Jacobian is factorised."""

COPIES = 3
"""Matrices of the size of a dense Jacobian that a step needs: itself, shift·M − J, and room to make them."""


FROM_FIELD = "Assembled: for a field over several processes, source must come from field.rhs(local) too"

MULTIGRID: Mapping[str, object] = {
    "mg_levels_ksp_type": "richardson",
    "mg_levels_ksp_max_it": 1,
    "mg_levels_pc_type": "ilu",
    "pc_gamg_threshold": 0.0,
}
"""Smoothing by one step with incomplete factors: has a transpose, needs no estimate of eigenvalues, and on
diffusion with the shift of a time step took two thirds of the iterations that two steps of damped Jacobi
did, which cost as much. The threshold says that entries which are zero, of which the stencils of fields
have many, couple nothing.
"""

MULTIGRID_OVER_PROCESSES = {**MULTIGRID, "mg_levels_pc_type": "bjacobi"}
"""The same with incomplete factors of each process's part."""

SUGGESTED_OVER_PROCESSES: Mapping[str, Mapping[str, object]] = {
    "gamg": MULTIGRID_OVER_PROCESSES,
    "icc": {"sub_pc_type": "icc"},
}


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for, and what a choice depends on; ``constant``: whether the Jacobian is."""

    linear: LU | Krylov | str
    jacobian: str | Sparsity
    method: Method
    constant: bool
    tolerances: Tolerances | None
    options: Mapping[str, object]


def choose(wanted: Wanted, f: Dynamics, mass: Mass | None, s0: float, u0: np.ndarray) -> LinearSolver:
    """The solver for the systems of an implicit method.

    Raises
    ------
    ValueError, TypeError
        For settings that do not go together, a Jacobian that would not fit in memory, or a pattern that
        cannot be found.
    """
    linear, jacobian = wanted.linear, wanted.jacobian
    if not isinstance(linear, LU | Krylov) and not (isinstance(linear, str) and linear == "auto"):
        raise TypeError(f"linear must be 'auto', LU(), GMRES(…) or Krylov(name, …), not {described(linear)}")
    if not isinstance(jacobian, Sparsity) and not (isinstance(jacobian, str) and jacobian in JACOBIANS):
        known = ", ".join(map(repr, JACOBIANS))
        raise ValueError(f"jacobian must be one of {known} or Sparsity(pattern), not {described(jacobian)}")
    choice = _Choice(wanted, f, mass, s0, u0)
    try:
        return choice.solver()
    except _NotFoundError:
        if f.space.every(bool(np.isfinite(f.evaluate_anew(s0, u0)).all())):
            raise
        return choice.any()  # the run will say that f is not finite at its start


class _NotFoundError(ValueError):
    """No sparse pattern could be found."""


class _Choice:
    def __init__(self, wanted: Wanted, f: Dynamics, mass: Mass | None, s0: float, u0: np.ndarray) -> None:
        self._wanted, self._f, self._mass, self._s0, self._u0 = wanted, f, mass, s0, u0
        self._width = f.layout.width

    def any(self) -> LinearSolver:
        """One that needs no look at f."""
        return self._krylov(GMRES(), sparse=False)

    def solver(self) -> LinearSolver:
        linear, jacobian = self._wanted.linear, self._wanted.jacobian
        if isinstance(linear, Krylov):
            if jacobian == "dense":
                raise ValueError("jacobian='dense' goes with linear=LU(); Krylov methods need no dense one")
            return self._krylov(linear, sparse=jacobian not in ("auto", "matrix-free"))
        if jacobian == "matrix-free":
            if linear != "auto":
                raise ValueError(
                    "jacobian='matrix-free' leaves LU() nothing to factorise; use linear=GMRES(…)"
                )
            return self._krylov(GMRES(), sparse=False)
        if self._f.space.is_distributed:
            if linear != "auto" or jacobian != "auto":
                raise ValueError(
                    "a state spread over processes needs linear=GMRES(…) or another Krylov method; its "
                    "Jacobian is not assembled"
                )
            return self._krylov(GMRES(Assembled() if self._is_of_field(self._f) else None), sparse=False)
        if jacobian == "dense" or (jacobian == "auto" and (linear != "auto" or self._width <= DENSE)):
            return self._dense()
        if jacobian == "auto":
            return self._by_structure()
        coloured = self._coloured_or_refuse()
        if linear == "auto" and coloured.size > DIRECT:
            return self._krylov(GMRES(Assembled()), sparse=True)
        return SparseLU(coloured, self._f, self._mass)

    def _dense(self) -> LinearSolver:
        needed = COPIES * 8 * self._f.layout.samples * self._width**2
        there = free_bytes()
        if needed > there:
            size = f"{needed / 2**30:.3g} GiB for {self._width} × {self._width} numbers"
            if self._f.layout.samples > 1:
                size += f" in each of {self._f.layout.samples} samples"
            raise ValueError(
                f"linear: a dense Jacobian would take {size}, but {there / 2**30:.3g} GiB are free. Try: "
                "linear=GMRES(preconditioner=…), which needs none; or jacobian='coloured' if it is sparse"
            )
        return DenseLU(self._f.layout)

    def _by_structure(self) -> LinearSolver:
        """A large state, and nothing asked for."""
        coloured = self._detected(self._f, SPARSE)
        if coloured is not None:
            if coloured.size <= DIRECT:
                return SparseLU(coloured, self._f, self._mass)
            return self._krylov(GMRES(Assembled()), sparse=True, coloured=coloured)
        if self._width <= LARGEST_DENSE:
            return self._dense()
        return self._krylov(GMRES(), sparse=False)

    def _detected(self, of: Dynamics, densest: float) -> Coloured | None:
        """The Jacobian of a function, if its pattern can be found and its columns fall into few groups."""

        def find() -> Coloured | None:
            pattern = detect_sparsity(lambda u: of.evaluate_anew(self._s0, u), self._u0, densest)
            return None if pattern is None else Coloured(pattern)

        def is_fair() -> bool:
            return bool(np.isfinite(of.evaluate_anew(self._s0, self._u0)).all())

        return known_pattern(of, (of.layout, densest, self._s0), find, is_fair)

    def _coloured_or_refuse(self) -> Coloured:
        jacobian = self._wanted.jacobian
        if isinstance(jacobian, Sparsity):
            return self._expanded(jacobian)
        coloured = self._detected(self._f, 1.0)
        if coloured is None:
            raise _NotFoundError(
                "jacobian='coloured': no sparse pattern was found by trying func with NaN in single "
                "components (it is nearly dense, or func does not let NaN pass). Try: "
                "jacobian=Sparsity(pattern), or 'matrix-free'"
            )
        return coloured

    def _expanded(self, sparsity: Sparsity) -> Coloured:
        """The Jacobian over the whole flat state."""
        layout, pattern = self._f.layout, sparsity.pattern
        if pattern.shape[0] == layout.size:
            return _coloured(sparsity, 1)
        if pattern.shape[0] == layout.width:
            return _coloured(sparsity, layout.samples)
        raise ValueError(
            f"Sparsity: the pattern is {pattern.shape[0]} × {pattern.shape[0]}, but y0 has {layout.size} "
            "numbers" + (f" in {layout.samples} samples of {layout.width}" if layout.samples > 1 else "")
        )

    def _krylov(self, setting: Krylov, sparse: bool, coloured: Coloured | None = None) -> KrylovSolver:
        f = self._f
        if sparse and f.space.is_distributed:
            raise ValueError(
                "jacobian: that of a state spread over processes is not assembled; leave jacobian out"
            )
        if sparse and coloured is None:
            coloured = self._coloured_or_refuse()
        pc = setting.preconditioner
        preconditioner, what = self._preconditioner(pc, coloured)
        operator: JacobianOf = MatrixFree()
        f.keeps_graphs = coloured is None
        f.shares_vectors = f.keeps_graphs and self._may_share_vectors
        product = "matrix-free"
        if coloured is not None:
            operator = partial(SparseJacobian, coloured)
            product = f"a Jacobian of {len(coloured.rows)} entries from {coloured.products} products"
        return KrylovSolver(
            setting,
            self._rtol(setting),
            f,
            self._mass,
            operator,
            preconditioner,
            f"{setting.method}, {product}, {what}",
            self._wanted.options,
            self._suggested(pc),
        )

    @property
    def _may_share_vectors(self) -> bool:
        """Whether states are where PETSc could have its vectors too, and nothing else is made of them."""
        alone = self._mass is None and not self._wanted.method.time_is_state
        return alone and not self._f.space.is_distributed and can_share(self._f.layout.device)

    def _suggested(self, pc: object) -> Mapping[str, object]:
        """Options of a preconditioner."""
        if not isinstance(pc, Assembled):
            return {}
        if self._f.space.is_distributed:
            return SUGGESTED_OVER_PROCESSES.get(pc.solver, {})
        return MULTIGRID if pc.solver == "gamg" else {}

    def _rtol(self, setting: Krylov) -> float:
        """Of forward solves."""
        if setting.rtol is not None:
            return setting.rtol
        if self._wanted.method.newton and not self._wanted.constant:
            return 1e-3 if self._wanted.tolerances is None else 1e-2
        return 1e-10 if self._wanted.tolerances is None else 1e-3 * self._wanted.tolerances.rtol

    def _preconditioner(
        self, setting: Preconditioner | None, coloured: Coloured | None
    ) -> tuple[Callable[[str], Approximate] | None, str]:
        """What makes it, and its name."""
        if setting is None:
            return None, "no preconditioner"
        if isinstance(setting, PointBlock):
            return self._point_block(setting), "point-block Jacobi"
        if isinstance(setting, Assembled):
            return self._assembled(setting, coloured)
        missing = [m for m in ("apply", "apply_transpose") if not callable(getattr(setting, m, None))]
        if missing:
            raise TypeError(
                "preconditioner must be Assembled(…), PointBlock(…), None or an object with apply and "
                f"apply_transpose; {described(setting)} has no {' and no '.join(missing)}"
            )
        return lambda prefix: OwnInverse(setting, self._f), type(setting).__name__

    def _point_block(self, setting: PointBlock) -> Callable[[str], Approximate]:
        layout, mass = self._f.layout, self._mass
        if layout.is_tuple:
            raise ValueError("PointBlock: y0 must be one tensor, whose axis holds the components")
        shape = tuple(layout.shapes[0][len(layout.batch) :])
        if not -len(shape) <= setting.axis < len(shape):
            raise ValueError(f"PointBlock: axis {setting.axis} is none of a sample of shape {shape}")
        axis = setting.axis % len(shape)
        return lambda prefix: PointBlockInverse(shape, layout.samples, axis, mass)

    def _assembled(
        self, setting: Assembled, coloured: Coloured | None
    ) -> tuple[Callable[[str], Approximate], str]:
        f, source = self._f, setting.source
        size, space = f.layout.size, f.space
        constant = setting.constant
        compressed: Compressed
        if source is None or (callable(source) and not issparse(source)):
            of = f if source is None else Dynamics(source, f.layout, f.direction, space=space, span=f.span)
            if source is None and coloured is not None and setting.sparsity is None:
                compressed = coloured
            else:
                compressed = self._compressed(of, setting)
            found = Entries(compressed.rows, compressed.columns, partial(compressed.values, of))
            what = f"{setting.solver} of {'the Jacobian' if source is None else _name(source)}"
            what += f" ({len(found.rows)} entries from {compressed.products} products)"
            entries = lambda: found  # noqa: E731
        elif space.is_distributed:
            raise ValueError(FROM_FIELD)
        else:
            _matrix(source, size)
            constant = True
            entries = partial(_entries, source, size, f.direction)  # found again rather than kept
            what = f"{setting.solver} of a given matrix"
        mass = self._mass

        def make(prefix: str) -> Approximate:
            return AssembledInverse(entries, mass, size, setting.solver, space, prefix, constant)

        return make, what

    @staticmethod
    def _is_of_field(of: Dynamics) -> bool:
        """Whether a function is of one field; others have the name too, and a state may be more than that."""
        field: Any = getattr(of.func, "field", None)
        return isinstance(field, HasSpace) and math.prod(field.part_shape) == of.layout.size

    def _compressed(self, of: Dynamics, setting: Assembled) -> Compressed:
        if self._is_of_field(of) and setting.sparsity is None:
            from stiffml.distributed.stencil import StencilJacobian

            func: Any = of.func
            return StencilJacobian(func.field)
        if self._f.space.is_distributed:
            raise ValueError(FROM_FIELD)
        if setting.sparsity is not None:
            return self._expanded(setting.sparsity)
        coloured = self._detected(of, 1.0)
        if coloured is None:
            raise _NotFoundError(
                "Assembled: no sparse pattern of source was found by trying it with NaN in single "
                "components. Try: Assembled(…, sparsity=Sparsity(pattern))"
            )
        return coloured


@lru_cache(maxsize=16)
def _coloured(sparsity: Sparsity, samples: int) -> Coloured:
    pattern = sparsity.pattern
    return Coloured(pattern if samples == 1 else csr_array(block_diag([pattern] * samples)))


def _name(source: Any) -> str:
    source = getattr(source, "local", source)  # of a field
    return getattr(source, "__name__", type(source).__name__)


def _matrix(source: Any, size: int):
    """A caller's sparse matrix, in coordinates."""
    if not isinstance(source, torch.Tensor | np.ndarray) and not issparse(source):
        found = described(source)
        raise TypeError(f"Assembled: source must be a function, a sparse matrix or None, not {found}")
    matrix = csr_array(coordinates(source, "Assembled: source")).tocoo()
    if matrix.shape != (size, size):
        raise ValueError(f"Assembled: the matrix is {matrix.shape}, but y0 has {size} numbers")
    return matrix


def _entries(source: Any, size: int, direction: int) -> Entries:
    matrix = _matrix(source, size)
    data = direction * matrix.data.astype(float)
    return Entries(matrix.row, matrix.col, lambda s, u: data)
