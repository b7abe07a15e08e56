"""Sparsity patterns as a caller gives them, and a caller's matrices by their entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, issparse
from torch import Tensor

from stiffml.checks import described


class Sparsity:
    """The sparsity pattern of the Jacobian.

    An entry that is missing from it is noticed when the Jacobian is evaluated, and is an error.

    Parameters
    ----------
    pattern : sparse array, ndarray or Tensor
        (n, n) over the flat state, or over that of one sample. Its entries that are not zero are the pattern.

    Raises
    ------
    ValueError
        Unless it is a square matrix.

    Examples
    --------
    >>> pattern = stiffml.Sparsity(np.eye(2))  # component i depends on itself only
    >>> stiffml.solve(func, y0, t, jacobian=pattern).y[-1, 0]
    tensor(0.3679, dtype=torch.float64)
    """

    def __init__(self, pattern: Any) -> None:
        found = coordinates(pattern, "Sparsity: the pattern")
        if found.ndim != 2 or found.shape[0] != found.shape[1]:
            raise ValueError(f"Sparsity: the pattern must be a square matrix, not of shape {found.shape}")
        found.eliminate_zeros()
        self.pattern = csr_array((np.ones(found.nnz, dtype=bool), (found.row, found.col)), shape=found.shape)

    def __repr__(self) -> str:
        return f"Sparsity({self.pattern.shape[0]} × {self.pattern.shape[1]}, {self.pattern.nnz} entries)"


def coordinates(matrix: Any, what: str) -> coo_array:
    """A sparse or dense matrix of scipy, numpy or torch as its entries; ``what`` names it in messages.

    Raises
    ------
    TypeError
        For anything else than a matrix of real numbers.
    """
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
