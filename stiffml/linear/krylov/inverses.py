"""Preconditioners at work: an assembled matrix, one block a point, or an object of the caller's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stiffml.linear.dense.blocks import BlockLU, shift_
from stiffml.linear.inverse import ApproximateInverse
from stiffml.linear.preconditioners import OwnPreconditioner
from stiffml.linear.sparse.matrices import ConstantMatrix, Entries, Matrix
from stiffml.petsc.library import PETSc
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import JacobianAt
from stiffml.system.mass import Mass
from stiffml.system.space import Space
from stiffml.system.state import State

PRECONDITIONERS = (
    *("asm", "bjacobi", "cholesky", "gamg", "gasm", "icc", "ilu", "jacobi", "kaczmarz", "lu"),
    *("none", "pbjacobi", "redundant", "sor", "svd", "telescope"),
)
"""PETSc's preconditioners that need no further library."""

OVER_PROCESSES = {"icc": "bjacobi", "lu": "redundant"}
"""Substitutes for those that PETSc has for one process only: incomplete factors of each part, and LU
factors of the whole in every process.
"""

COARSER = 30.0
"""The factor by which the shift may fall before a multigrid hierarchy is built anew.

Its interpolation is smoothed with the matrix, and PETSc keeps it for later matrices. The matrix of a large
shift is nearly diagonal and smooths nothing; that of a small shift serves large shifts as well.
"""


class AssembledInverse(ApproximateInverse):
    """A PETSc preconditioner made of a sparse matrix.

    Parameters
    ----------
    entries : callable
        () -> Entries of A.
    mass : Mass or None
    size : int
        Numbers in this process's part of a state.
    kind : str
        PETSc's name of the preconditioner.
    space : Space
        The processes that hold the state.
    prefix : str
        The prefix of its options.
    constant : bool
        Whether A is the same at all states.
    """

    def __init__(
        self,
        entries: Callable[[], Entries],
        mass: Mass | None,
        size: int,
        kind: str,
        space: Space,
        prefix: str,
        constant: bool,
    ) -> None:
        self.depends_on_state = not constant
        self._matrix = (ConstantMatrix if constant else Matrix)(entries(), mass, size, space)
        comm = self._matrix.comm
        self._x = PETSc.Vec().create(comm=comm)
        self._x.setSizes((size, None))
        self._x.setType(PETSc.Vec.Type.STANDARD)
        self._y = self._x.duplicate()
        self._pc = PETSc.PC().create(comm=comm)
        self._pc.setOptionsPrefix(prefix)
        if kind == "ilu" and space.communicator is not None:
            kind = "bjacobi"  # with ILU within each process, its default
        if space.is_distributed:
            kind = OVER_PROCESSES.get(kind, kind)
        if kind not in PRECONDITIONERS:
            raise ValueError(
                f"Assembled: PETSc has no preconditioner {kind!r} here; it knows {', '.join(PRECONDITIONERS)}"
            )
        self._pc.setType(kind)
        self._pc.setFromOptions()
        self._has_hierarchy = kind == "gamg"
        self._built_for = math.inf  # shift

    def renew(self, s: float, u: np.ndarray, shift: float, jacobian: JacobianAt) -> None:
        before = self._matrix.mat
        self._matrix.update(s, u, shift)
        is_another = self._matrix.mat is not before  # for which PETSc builds another hierarchy
        if self._has_hierarchy and (is_another or abs(shift) * COARSER < self._built_for):
            self._pc.reset()
            self._built_for = abs(shift)
        self._pc.setOperators(self._matrix.mat)
        self._pc.setUp()

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        self._x.setArray(v)
        self.solve_vector(self._x, self._y, transpose)
        return self._y.array_r

    def solve_vector(self, v: Any, into: Any, transpose: bool = False) -> None:
        (self._pc.applyTranspose if transpose else self._pc.apply)(v, into)

    def close(self) -> None:
        self._pc.destroy()
        self._matrix.close()
        self._x.destroy()
        self._y.destroy()


class PointBlockInverse(ApproximateInverse):
    """LU factors of the coupling of components at every point."""

    def __init__(self, shape: tuple[int, ...], samples: int, axis: int, mass: Mass | None) -> None:
        self._shape, self._axis = (samples, *shape), axis + 1
        self._count = shape[axis]
        self._diagonal = None if mass is None else self._blocks(mass.main_diagonal())[:, :, 0]
        self._lu: BlockLU | None = None

    def _blocks(self, v: np.ndarray) -> np.ndarray:
        """(size,) -> (points, components, 1)"""
        return np.moveaxis(v.reshape(self._shape), self._axis, -1).reshape(-1, self._count, 1)

    def _flat(self, blocks: np.ndarray) -> np.ndarray:
        rest = [n for i, n in enumerate(self._shape) if i != self._axis]
        return np.moveaxis(blocks.reshape(*rest, self._count), -1, self._axis).reshape(-1)

    def renew(self, s: float, u: np.ndarray, shift: float, jacobian: JacobianAt) -> None:
        self._lu = None  # frees its memory before more is taken
        columns = []
        for component in range(self._count):
            probe = np.zeros(self._shape)
            np.moveaxis(probe, self._axis, 0)[component] = 1
            columns.append(self._blocks(jacobian.apply(probe.reshape(-1)))[:, :, 0])
        blocks = torch.from_numpy(np.stack(columns, axis=-1))
        mass = None if self._diagonal is None else self._diagonal[:, :, None] * np.eye(self._count)
        self._lu = BlockLU(shift_(blocks, shift, mass, 1.0))

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        assert self._lu is not None
        blocks = torch.from_numpy(self._blocks(np.array(v)))  # PETSc's own is read-only
        return self._flat(self._lu.solve(blocks, transpose).numpy())

    def close(self) -> None:
        self._lu = None


class OwnInverse(ApproximateInverse):
    """A caller's preconditioner, in the shape of the caller's states."""

    def __init__(self, own: OwnPreconditioner, dynamics: Dynamics) -> None:
        self._own, self._layout, self._direction = own, dynamics.layout, dynamics.direction

    def renew(self, s: float, u: np.ndarray, shift: float, jacobian: JacobianAt) -> None:
        update = getattr(self._own, "update", None)
        if update is not None:
            t = torch.tensor(self._direction * s, dtype=torch.float64)
            update(t, self._state(u), self._direction * shift)

    def _state(self, v: np.ndarray) -> State:
        return self._layout.unflatten(torch.from_numpy(np.array(v)).to(self._layout.device))

    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        # Where time runs backwards, shift·M + ∂f/∂y is what is to be solved with.
        apply = self._own.apply_transpose if transpose else self._own.apply
        state = apply(self._state(v))
        parts = state if isinstance(state, tuple | list) else (state,)
        shapes = tuple(getattr(part, "shape", type(part).__name__) for part in parts)
        if shapes != self._layout.shapes or not all(isinstance(part, torch.Tensor) for part in parts):
            raise ValueError(
                f"preconditioner: {type(self._own).__name__} returned {', '.join(map(str, shapes))} for a "
                f"state of shape {', '.join(map(str, self._layout.shapes))}"
            )
        found: Any = self._layout.flatten(state).detach().double().cpu().numpy()
        return found if self._direction > 0 else -found
