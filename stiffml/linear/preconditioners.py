"""Preconditioners as a caller names them: approximate inverses of shift·M − J."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stiffml.checks import described, flag, whole
from stiffml.linear.sparsity import Sparsity
from stiffml.system.state import State


class OwnPreconditioner(Protocol):
    """A preconditioner of your own: any object with these methods.

    States are tensors in the shape of y0 (or tuples of them), float64. An ``update(t, y, shift)`` is called,
    if there is one, at every new point: what follows is to solve with about shift·M − ∂f/∂y(t, y).
    """

    def apply(self, residual: State) -> State:
        """The x of (shift·M − J) x ≈ residual."""

    def apply_transpose(self, residual: State) -> State:
        """The x of (shift·M − J)ᵀ x ≈ residual, for the backward pass."""


@dataclass(frozen=True)
class Assembled:
    """shift·M − A with A assembled as a sparse matrix, solved with approximately or exactly.

    The matrix is assembled anew, and what is made of it, where the step has become 1.8 times as long or as
    short, or where iterations have become many.

    Parameters
    ----------
    source : callable, sparse matrix or None
        Where A comes from: a function (t, y) -> tensor like y that stands for the right-hand side (its stiff
        part, say the diffusion), whose Jacobian is A; a constant sparse matrix over the flat state; or
        None (default), the Jacobian of the right-hand side itself.
    solver : str
        PETSc's name for the preconditioner made of it (``PCType``): ``"ilu"`` (default; processes factorise
        their own parts), ``"icc"`` if it is symmetric, ``"gamg"``, ``"lu"``, ``"jacobi"``, … Settings of it
        go through ``options``, as in ``{"pc_factor_levels": 1}``. One that has no transpose, such as
        ``"sor"``, serves forward solves only.
    sparsity : Sparsity, optional
        Where the Jacobian of ``source`` may have entries. Default: found by trying it.
    constant : bool
        Whether the Jacobian of a function is the same everywhere. Default False.
    """

    source: Callable[..., Any] | Any | None = None
    solver: str = "ilu"
    sparsity: Sparsity | None = None
    constant: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.solver, str) or not self.solver:
            found = described(self.solver)
            raise ValueError(f"Assembled: solver must be the name of a preconditioner, not {found}")
        flag("Assembled: constant", self.constant)
        if self.sparsity is not None and not isinstance(self.sparsity, Sparsity):
            raise TypeError(f"Assembled: sparsity must be Sparsity(pattern), not {described(self.sparsity)}")


@dataclass(frozen=True)
class PointBlock:
    """At every point the coupling of the components there, from as many products as there are components.

    Product j is with the vector that is 1 in component j at every point. What a point receives from its
    neighbours is counted as its own: of a diffusion, which vanishes on constants, nothing is left.
    So this suits stiff reactions on coarse grids.

    Parameters
    ----------
    axis : int
        The axis of a sample along which the components lie. Default 0.
    """

    axis: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", whole("PointBlock: axis", self.axis, least=-64, most=63))


Preconditioner = Assembled | PointBlock | OwnPreconditioner
