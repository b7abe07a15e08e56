"""From a preconditioner as the caller names it to one that works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, issparse

from stiffml.checks import described
from stiffml.linear.inverse import ApproximateInverse
from stiffml.linear.krylov.inverses import AssembledInverse, OwnInverse, PointBlockInverse
from stiffml.linear.krylov.solver import MakeInverse
from stiffml.linear.preconditioners import Assembled, PointBlock, Preconditioner
from stiffml.linear.sparse.compression import Compressed, LocalJacobian
from stiffml.linear.sparse.matrices import Entries
from stiffml.linear.sparsity import coordinates
from stiffml.linear.structure import FROM_FIELD, Structure
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.mass import Mass
from stiffml.system.space import Space
from stiffml.system.state import Layout

MULTIGRID: Mapping[str, object] = {
    "mg_levels_ksp_type": "richardson",
    "mg_levels_ksp_max_it": 1,
    "mg_levels_pc_type": "ilu",
    "pc_gamg_threshold": 0.0,
}
"""Smoothing by one step with incomplete factors. It has a transpose and needs no estimate of eigenvalues. On
diffusion with the shift of a time step it took two thirds of the iterations of two steps of damped Jacobi, at
the same cost. With the threshold, entries that are zero couple nothing; stencils of fields have many.
"""

MULTIGRID_OVER_PROCESSES = {**MULTIGRID, "mg_levels_pc_type": "bjacobi"}
"""The same with incomplete factors of each process's part."""

SUGGESTED_OVER_PROCESSES: Mapping[str, Mapping[str, object]] = {
    "gamg": MULTIGRID_OVER_PROCESSES,
    "icc": {"sub_pc_type": "icc"},
}


@dataclass(frozen=True)
class Preconditioning:
    """How a preconditioner is made; ``make`` is None for none.

    ``suggested``: PETSc options of it, of which the caller's take precedence.
    """

    make: MakeInverse | None
    description: str
    suggested: Mapping[str, object] = field(default_factory=dict)


def preconditioning(
    setting: Preconditioner | None,
    f: Dynamics,
    mass: Mass | None,
    structure: Structure,
    coloured: LocalJacobian | None,
) -> Preconditioning:
    """What makes the preconditioner that a caller names.

    ``coloured``: the Jacobian of f, if it is evaluated as a sparse matrix.

    Raises
    ------
    ValueError, TypeError
        For one that does not fit the state, or is none.
    """
    if setting is None:
        return Preconditioning(None, "no preconditioner")
    if isinstance(setting, PointBlock):
        return Preconditioning(_point_block(setting, f.layout, mass), "point-block Jacobi")
    if isinstance(setting, Assembled):
        suggested = _suggested(setting.solver, f.space)
        if setting.source is None or (callable(setting.source) and not issparse(setting.source)):
            return Preconditioning(*_of_function(setting, f, mass, structure, coloured), suggested)
        make = _of_matrix(setting, f, mass)
        return Preconditioning(make, f"{setting.solver} of a given matrix", suggested)
    missing = [m for m in ("apply", "apply_transpose") if not callable(getattr(setting, m, None))]
    if missing:
        raise TypeError(
            "preconditioner must be Assembled(…), PointBlock(…), None or an object with apply and "
            f"apply_transpose; {described(setting)} has no {' and no '.join(missing)}"
        )
    return Preconditioning(lambda prefix: OwnInverse(setting, f), type(setting).__name__)


def _suggested(solver: str, space: Space) -> Mapping[str, object]:
    if space.is_distributed:
        return SUGGESTED_OVER_PROCESSES.get(solver, {})
    return MULTIGRID if solver == "gamg" else {}


def _point_block(setting: PointBlock, layout: Layout, mass: Mass | None) -> MakeInverse:
    if layout.is_tuple:
        raise ValueError("PointBlock: y0 must be one tensor, whose axis holds the components")
    shape = tuple(layout.shapes[0][len(layout.batch) :])
    if not -len(shape) <= setting.axis < len(shape):
        raise ValueError(f"PointBlock: axis {setting.axis} is none of a sample of shape {shape}")
    axis = setting.axis % len(shape)
    return lambda prefix: PointBlockInverse(shape, layout.samples, axis, mass)


def _of_function(
    setting: Assembled, f: Dynamics, mass: Mass | None, structure: Structure, coloured: LocalJacobian | None
) -> tuple[MakeInverse, str]:
    """Assembled from the Jacobian of a function, and what that is."""
    source = setting.source
    of = f if source is None else Dynamics(source, f.layout, f.direction, space=f.space, span=f.span)
    compressed: Compressed
    if source is None and coloured is not None and setting.sparsity is None:
        compressed = coloured
    else:
        compressed = structure.of_source(of, setting.sparsity)
    entries = Entries(compressed.rows, compressed.columns, partial(compressed.values, of))
    what = f"{setting.solver} of {'the Jacobian' if source is None else _name(source)}"
    what += f" ({compressed.description})"
    return _assembled(lambda: entries, setting, f, mass, setting.constant), what


def _of_matrix(setting: Assembled, f: Dynamics, mass: Mass | None) -> MakeInverse:
    """Assembled from a caller's matrix."""
    if f.space.is_distributed:
        raise ValueError(FROM_FIELD)
    _checked_matrix(setting.source, f.layout.size)
    entries = partial(_entries, setting.source, f.layout.size, f.direction)  # found again rather than kept
    return _assembled(entries, setting, f, mass, True)


def _assembled(
    entries: Callable[[], Entries], setting: Assembled, f: Dynamics, mass: Mass | None, constant: bool
) -> MakeInverse:
    def make(prefix: str) -> ApproximateInverse:
        size, space = f.layout.size, f.space
        return AssembledInverse(entries, mass, size, setting.solver, space, prefix, constant)

    return make


def _name(source: Any) -> str:
    source = getattr(source, "local", source)  # of a field
    return getattr(source, "__name__", type(source).__name__)


def _checked_matrix(source: Any, size: int):
    """A caller's sparse matrix, in coordinates."""
    if not isinstance(source, torch.Tensor | np.ndarray) and not issparse(source):
        found = described(source)
        raise TypeError(f"Assembled: source must be a function, a sparse matrix or None, not {found}")
    matrix = csr_array(coordinates(source, "Assembled: source")).tocoo()
    if matrix.shape != (size, size):
        raise ValueError(f"Assembled: the matrix is {matrix.shape}, but y0 has {size} numbers")
    return matrix


def _entries(source: Any, size: int, direction: int) -> Entries:
    matrix = _checked_matrix(source, size)
    data = direction * matrix.data.astype(float)
    return Entries(matrix.row, matrix.col, lambda s, u: data)
