"""The settings of preconditioners: approximate inverses of shift·M − J."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stiffml.checks import described, flag, whole
from stiffml.display import readable
from stiffml.linear.sparsity import Sparsity
from stiffml.system.state import State


class OwnPreconditioner(Protocol):
    """A preconditioner of your own: any object with these methods.

    States are tensors in the shape of y0 (or tuples of them), float64. If it has a method
    ``update(t, y, shift)``, that is called at every new point. The calls that follow are then for
    shift·M − ∂f/∂y(t, y).
    """

    def apply(self, residual: State) -> State:
        """The x of (shift·M − J) x ≈ residual."""

    def apply_transpose(self, residual: State) -> State:
        """The x of (shift·M − J)ᵀ x ≈ residual, for the backward pass."""


@readable
@dataclass(frozen=True)
class Assembled:
    """An approximate or exact inverse of shift·M − A, with A assembled as a sparse matrix.

    The matrix and the preconditioner are made anew when the step has become 1.8 times as long or as
    short, or when solves take many iterations.

    Parameters
    ----------
    source : callable, sparse matrix or None
        The source of A. A function (t, y) -> tensor like y that stands for the right-hand side (its stiff
        part, say the diffusion), with A its Jacobian; a constant sparse matrix over the flat state; or
        None (default) for the Jacobian of the right-hand side itself.
    solver : str
        PETSc's name of the preconditioner (``PCType``): ``"ilu"`` (default; each process factorises its own
        part), ``"icc"`` for a symmetric matrix, ``"gamg"``, ``"lu"``, ``"jacobi"``, … Its settings go through
        ``options``, as in ``{"pc_factor_levels": 1}``. A preconditioner without a transpose, such as
        ``"sor"``, serves forward solves only.
    sparsity : Sparsity, optional
        The pattern of the Jacobian of ``source``. Default: found by trying the function.
    constant : bool
        Whether the Jacobian of a function is the same everywhere. Default False.

    Examples
    --------
    >>> n = 300
    >>> def diffusion(t, y):
    ...     return n**2 * (y.roll(1) + y.roll(-1) - 2 * y)
    >>> u0 = torch.cos(2 * torch.pi * torch.arange(n) / n).double()
    >>> linear = stiffml.GMRES(stiffml.Assembled(diffusion, "ilu", constant=True))
    >>> sol = stiffml.solve(lambda t, y: diffusion(t, y) - y**3, u0, 0.01 * t, linear=linear)
    >>> bool(sol.y[-1].max() < 0.7), sol.stats.linear
    (True, 'gmres, matrix-free, ilu of diffusion (900 entries from 3 products)')
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
    """One dense block at every point: the coupling of the components there.

    It takes as many products with J as there are components. Product j is with the vector that is 1 in
    component j at every point. So the influence of neighbours is added to the block; that of a diffusion,
    which vanishes on constants, is lost. This suits stiff reactions on coarse grids.

    Parameters
    ----------
    axis : int
        The axis of a sample along which the components lie. Default 0.

    Examples
    --------
    >>> def grid(t, y):  # two species at 200 points: a fast exchange
    ...     return torch.stack([y[1] - y[0], y[0] - y[1]]) * 1e4
    >>> u0 = torch.stack([torch.ones(200), torch.zeros(200)]).double()
    >>> sol = stiffml.solve(grid, u0, t, linear=stiffml.GMRES(stiffml.PointBlock(axis=0)))
    >>> sol.y[-1, :, 0]
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    axis: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", whole("PointBlock: axis", self.axis, least=-64, most=63))


Preconditioner = Assembled | PointBlock | OwnPreconditioner
