"""How a caller says how linear systems are solved: ``linear=`` and ``jacobian=``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, issparse
from torch import Tensor

from stiffml.checks import described, number, whole
from stiffml.linear.preconditioners import Preconditioner

JACOBIANS = ("auto", "dense", "coloured", "matrix-free")


@dataclass(frozen=True)
class LU:
    """Factorise the Jacobian.

    Densely, or one dense block a sample where ``batch_dims`` is given; sparsely where ``jacobian`` is
    ``"coloured"`` or a :class:`Sparsity` (SuperLU, with partial pivoting).
    """


@dataclass(frozen=True)
class Krylov:
    """Solve iteratively, with products of the Jacobian instead of the Jacobian itself.

    Forwards this is an inexact Newton method: each linear system is solved to ``rtol`` only, and Newton's own
    test sees most of what is left; not all of it where a preconditioner is weak or missing, since GMRES then
    leaves smooth errors of small residuals. Take a smaller ``rtol``, such as 1e-3, there. The transposed
    systems of the backward pass are solved to ``adjoint_rtol``, which bounds the error of the gradient, by
    the same method with the same preconditioner, transposed.

    Parameters
    ----------
    method : str
        PETSc's name of a Krylov method (``KSPType``), such as ``"bcgs"``, ``"tfqmr"``, ``"cg"``. Further
        settings of it go through ``options``, as in ``{"ksp_bcgsl_ell": 4}``.
    preconditioner : Assembled, PointBlock or an object of your own, optional
        An approximate inverse of shift·M − J. Default: none.
    rtol : float, optional
        Relative residual (preconditioned) at which an iteration stops, forwards. Default 1e-2, and 1e-3 for
        steps without error control, whose Newton iterations go on for longer. Rosenbrock methods and linear
        implicit parts have no Newton iteration that would correct it: 1e-3 times the tolerance of the steps
        for them, 1e-10 without.
    adjoint_rtol : float
        The same for the backward pass and for steps that are taken again. Default 1e-9.
    max_iterations : int
        After which a solve has failed. Default 200.

    Raises
    ------
    ValueError
        For numbers out of range.
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


@dataclass(frozen=True)
class GMRES(Krylov):
    """:class:`Krylov` with GMRES (Saad & Schultz, SIAM J. Sci. Stat. Comput. 7 (1986)).

    Parameters
    ----------
    restart : int
        Vectors kept before it starts afresh: what its memory grows to. Default 30.
    """

    method: str = field(default="gmres", init=False)
    restart: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "restart", whole("GMRES: restart", self.restart, most=2**31 - 1))


def coordinates(matrix: Any, what: str) -> coo_array:
    """A sparse or dense matrix, of scipy, numpy or torch, by its entries."""
    if isinstance(matrix, Tensor):
        if matrix.device.type == "meta" or matrix.is_complex():
            raise TypeError(f"{what} must be a matrix of real numbers, not {described(matrix)}")
        matrix = matrix.detach().cpu().resolve_neg()
        if matrix.layout is not torch.strided:
            entries = matrix.to_sparse_coo().coalesce()
            places = tuple(entries.indices().numpy())
            return coo_array((entries.values().numpy(), places), shape=tuple(entries.shape))
        matrix = matrix.numpy()
    if not issparse(matrix) and not isinstance(matrix, np.ndarray | list | tuple):
        raise TypeError(f"{what} must be a sparse or dense matrix, not {described(matrix)}")
    if issparse(matrix):
        return coo_array(matrix)
    try:
        values = np.atleast_1d(np.asarray(matrix))
    except Exception:  # rows of different lengths
        values = np.empty((1,), dtype=object)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{what} must be a matrix of real numbers, not {described(matrix)}")
    return coo_array(values)


class Sparsity:
    """Where the Jacobian may have entries.

    A missing entry is noticed when the Jacobian is evaluated, and is an error.

    Parameters
    ----------
    pattern : sparse array, ndarray or Tensor
        (n, n) over the flat state, or over that of one sample; entries that are not zero count.

    Raises
    ------
    ValueError
        Unless it is a square matrix.
    """

    def __init__(self, pattern: Any) -> None:
        found = coordinates(pattern, "Sparsity: the pattern")
        if found.ndim != 2 or found.shape[0] != found.shape[1]:
            raise ValueError(f"Sparsity: the pattern must be a square matrix, not of shape {found.shape}")
        found.eliminate_zeros()
        self.pattern = csr_array((np.ones(found.nnz, dtype=bool), (found.row, found.col)), shape=found.shape)

    def __repr__(self) -> str:
        return f"Sparsity({self.pattern.shape[0]} × {self.pattern.shape[1]}, {self.pattern.nnz} entries)"
