"""How many scalar operations an operation on arrays takes, known before they are made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from stiffml.compiled.scalars import is_symbol

aten = torch.ops.aten

PRODUCTS = {
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.mv.default: 0,
    aten.dot.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
    aten.addmv.default: 1,
}
"""Products of matrices and vectors, and the position of their left factor."""

LOOKUPS = frozenset(
    (
        aten.index.Tensor,
        aten.index_select.default,
        aten.gather.default,
        aten.searchsorted.Tensor,
        aten.searchsorted.Scalar,
        aten.bucketize.Tensor,
    )
)
"""Which compare an index that depends on the state with every place."""


def scalar_operations(node: Node, args: tuple) -> int:
    """About how many there are; products with zeros that are known do not count."""
    value = node.meta.get("val")
    parts = value if isinstance(value, list | tuple) else (value,)
    size = sum(part.numel() for part in parts if isinstance(part, Tensor))
    arrays = [arg for arg in args if isinstance(arg, Tensor | np.ndarray)]
    if node.target in PRODUCTS:
        left, right = args[PRODUCTS[node.target] :][:2]
        terms = size * left.shape[-1]
        return min(terms, _nonzero(left) * _columns(right), _nonzero(right) * _rows(left))
    if node.target in LOOKUPS:
        indices = [i for arg in args[1:] for i in (arg if isinstance(arg, list | tuple) else (arg,))]
        if node.target in (aten.searchsorted.Scalar, aten.bucketize.Tensor) or any(map(_moves, indices)):
            return size * max(math.prod(array.shape) for array in arrays)
        return 0
    return max([size, *(math.prod(array.shape) for array in arrays)])


def _moves(index: Any) -> bool:
    return isinstance(index, np.ndarray) and any(is_symbol(i) for i in index.ravel())


def _nonzero(matrix: Any) -> int:
    return int(torch.count_nonzero(matrix)) if isinstance(matrix, Tensor) else math.prod(matrix.shape)


def _columns(matrix: Any) -> int:
    return matrix.shape[-1] if matrix.ndim > 1 else 1


def _rows(matrix: Any) -> int:
    return matrix.shape[-2] if matrix.ndim > 1 else 1
