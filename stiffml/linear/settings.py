"""The settings of linear solvers: what ``linear=`` takes, and the names that ``jacobian=`` takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from stiffml.checks import described, number, whole
from stiffml.display import readable
from stiffml.linear.preconditioners import Preconditioner

JACOBIANS = ("auto", "dense", "coloured", "matrix-free")


@dataclass(frozen=True)
class LU:
    """Factorise the Jacobian.

    Densely, or one dense block a sample where ``batch_dims`` is given; sparsely where ``jacobian`` is
    ``"coloured"`` or a ``Sparsity`` (SuperLU, with partial pivoting).

    Examples
    --------
    >>> stiffml.solve(func, y0, t, linear=stiffml.LU()).stats.linear
    'LU of the Jacobian, dense, 2 × 2'
    >>> stiffml.solve(func, y0, t, linear=stiffml.LU(), jacobian="coloured").stats.linear
    'LU of the Jacobian, sparse, 2 entries from 2 products'
    """


@readable
@dataclass(frozen=True)
class Krylov:
    """Solve iteratively, with products of the Jacobian instead of the Jacobian itself.

    Forwards this is an inexact Newton method: each linear system is solved to ``rtol`` only, and Newton's own
    test sees most of the error that is left. Where a preconditioner is weak or missing, GMRES leaves smooth
    errors of small residuals that the test does not see. Take a smaller ``rtol`` there, such as 1e-3. The
    transposed systems of the backward pass are solved to ``adjoint_rtol``, which bounds the error of the
    gradient, by the same method with the same preconditioner, transposed.

    Parameters
    ----------
    method : str
        PETSc's name of a Krylov method (``KSPType``), such as ``"bcgs"``, ``"tfqmr"``, ``"cg"``. Its further
        settings go through ``options``, as in ``{"ksp_bcgsl_ell": 4}``.
    preconditioner : Assembled, PointBlock or an object of your own, optional
        An approximate inverse of shift·M − J. Default: none.
    rtol : float, optional
        Relative residual (preconditioned) at which a forward solve stops. Default 1e-2, and 1e-3 for steps
        without error control, whose Newton iterations are longer. Rosenbrock methods and linear implicit
        parts have no Newton iteration that would correct the error: for them 1e-3 times the tolerance of the
        steps, 1e-10 without error control.
    adjoint_rtol : float
        The same for the backward pass and for steps that are taken again. Default 1e-9.
    max_iterations : int
        The number of iterations after which a solve has failed. Default 200.

    Raises
    ------
    ValueError
        For numbers out of range.

    Examples
    --------
    >>> sol = stiffml.solve(func, y0, t, linear=stiffml.Krylov("bcgs"))
    >>> sol.y[-1, 0], sol.stats.krylov_iterations > 0
    (tensor(0.3679, dtype=torch.float64), True)
    """

    method: str
    preconditioner: Preconditioner | None = None
    rtol: float | None = None
    adjoint_rtol: float = 1e-9
    max_iterations: int = 200

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.method, str) or self.method in ("", "none", "preonly"):
            raise ValueError(f"{name}: method must be the name of an iteration, not {described(self.method)}")
        for tolerance in ("rtol", "adjoint_rtol"):
            value = getattr(self, tolerance)
            if value is not None or tolerance == "adjoint_rtol":
                value = number(f"{name}: {tolerance}", value, above=0, below=1)
                object.__setattr__(self, tolerance, value)
        limit = whole(f"{name}: max_iterations", self.max_iterations, most=2**31 - 1)
        object.__setattr__(self, "max_iterations", limit)


@readable
@dataclass(frozen=True)
class GMRES(Krylov):
    """:class:`Krylov` with GMRES (Saad & Schultz, SIAM J. Sci. Stat. Comput. 7 (1986)).

    Parameters
    ----------
    restart : int
        Vectors kept before the iteration starts afresh; they bound its memory. Default 30.
    preconditioner, rtol, adjoint_rtol, max_iterations
        As of :class:`Krylov`.

    Examples
    --------
    >>> sol = stiffml.solve(func, y0, t, linear=stiffml.GMRES(stiffml.PointBlock()))
    >>> sol.stats.linear
    'gmres, matrix-free, point-block Jacobi'
    """

    method: str = field(default="gmres", init=False)
    restart: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "restart", whole("GMRES: restart", self.restart, most=2**31 - 1))
