"""Matrices a·M − b·J of one dense block a sample: formed and factorised in place, all in one call."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def shift_(jacobian: Tensor, a: float | Tensor, mass: np.ndarray | None, b: float | Tensor) -> Tensor:
    """a·M − b·J, which overwrites J (…, samples, w, w).

    ``mass`` is (samples or 1, w, w), or None for the identity; ``a`` and ``b`` are numbers, or broadcast
    against J.
    """
    jacobian *= -b
    if mass is None:
        jacobian.diagonal(dim1=-2, dim2=-1).add_(a[..., 0] if isinstance(a, Tensor) else a)
    else:
        jacobian += a * torch.from_numpy(mass)
    return jacobian


class BlockLU:
    """LU factors of matrices (…, w, w), which they overwrite if these are stored by columns.

    Attributes
    ----------
    info : Tensor
        (…,) not zero where a matrix is singular; solutions are then inf or NaN.
    """

    def __init__(self, matrices: Tensor) -> None:
        if not matrices.mT.is_contiguous():
            matrices = matrices.mT.contiguous().mT
        shape = matrices.shape
        self._lu = matrices
        self._pivots = torch.empty(shape[:-1], dtype=torch.int32)
        self.info = torch.empty(shape[:-2], dtype=torch.int32)
        torch.linalg.lu_factor_ex(matrices, out=(self._lu, self._pivots, self.info))

    def spoil_singular(self) -> None:
        """Let solutions with singular matrices be NaN in all components."""
        if self.info.any():
            self._lu[self.info != 0] = torch.nan

    def solve(self, v: Tensor, transpose: bool = False) -> Tensor:
        """The x of A x = v, or of Aᵀ x = v, for columns v (…, w, n)."""
        return torch.linalg.lu_solve(self._lu, self._pivots, v, adjoint=transpose)

    def at(self, position: int | np.ndarray, v: Tensor, transpose: bool = False) -> Tensor:
        """The same for one, or some, of K sets of matrices, (K, …, w, w)."""
        return torch.linalg.lu_solve(self._lu[position], self._pivots[position], v, adjoint=transpose)

    def replace(self, positions: np.ndarray, others: BlockLU) -> None:
        """Put the factors of other matrices in the place of some of K sets, (K, …, w, w)."""
        self._lu[positions], self._pivots[positions] = others._lu, others._pivots
        self.info[positions] = others.info
