"""Operations that reduce dimensions, or multiply matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import numpy as np
import torch

from stiffml.compiled.arrays import Array, along, boxed, dot, elementwise, largest, product, smallest, total
from stiffml.compiled.refusal import NotCompilableError

aten = torch.ops.aten


def _reduced(reduction: Callable[[Array], Any]) -> Callable[..., Array]:
    def apply(x: Any, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
        return along(reduction, boxed(x), dims, keepdim)

    return apply


def _sum(values: Array) -> Any:
    return total(list(values))


def _product(values: Array) -> Any:
    result = values[0] if len(values) else 1.0
    for value in values[1:]:
        result = result * value
    return result


def _log_sum_exp(values: Array) -> Any:
    top = largest(values)
    return top + ca.log(total([ca.exp(v - top) for v in values]))


def _norm(x: Any, order: float = 2, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    if order != 2:
        raise NotCompilableError(f"it takes a norm of order {order}")
    return along(lambda v: ca.sqrt(total([a * a for a in v])), boxed(x), dims, keepdim)


def _softmax(x: Any, dim: int, half_to_float: bool = False) -> Array:
    x = boxed(x)
    powers = elementwise(lambda a, top: ca.exp(a - top))(x, along(largest, x, dim, True))
    return elementwise(lambda a, b: a / b)(powers, along(_sum, powers, dim, True))


def _log_softmax(x: Any, dim: int, half_to_float: bool = False) -> Array:
    x = boxed(x)
    return elementwise(lambda a, b: a - b)(x, along(_log_sum_exp, x, dim, True))


def _mean(values: Array) -> Any:
    return _sum(values) / len(values)


def _variance(x: Any, dims: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Array:
    degrees = 1.0 if correction is None else float(correction)

    def reduction(values: Array) -> Any:
        mean = _mean(values)
        return total([(v - mean) * (v - mean) for v in values]) / (len(values) - degrees)

    return along(reduction, boxed(x), dims, keepdim)


def _layer_norm(x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> list[Array]:
    x = boxed(x)
    dims = list(range(x.ndim - len(shape), x.ndim))
    mean, variance = along(_mean, x, dims, True), _variance(x, dims, correction=0, keepdim=True)
    scale = elementwise(lambda v: 1 / ca.sqrt(v + eps))(variance)
    found = elementwise(lambda v, m, s: (v - m) * s)(x, mean, scale)
    if weight is not None:
        found = elementwise(lambda v, w: v * w)(found, weight)
    if bias is not None:
        found = elementwise(lambda v, b: v + b)(found, bias)
    return [found, mean, scale]


def _running(combine: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    def apply(x: Any, dim: int, dtype: Any = None) -> Array:
        x = boxed(x).copy()
        parts = np.moveaxis(x, dim, 0) if x.ndim else x[None]
        for i in range(1, len(parts)):
            parts[i] = elementwise(combine)(parts[i - 1], parts[i])
        return x

    return apply


def _matrix(a: Any, b: Any) -> Array:
    return product(boxed(a), boxed(b))


def _added(c: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Array:
    return elementwise(lambda x, y: beta * x + alpha * y)(c, _matrix(a, b))


def _added_vector(c: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Array:
    return elementwise(lambda x, y: beta * x + alpha * y)(c, _matrix(a, boxed(b)[:, None])[:, 0])


REDUCING: dict[Any, Callable[..., Any]] = {
    aten.sum.default: _reduced(_sum),
    aten.sum.dim_IntList: _reduced(_sum),
    aten.mean.default: _reduced(_mean),
    aten.mean.dim: _reduced(_mean),
    aten.prod.default: _reduced(_product),
    aten.prod.dim_int: _reduced(_product),
    aten.amax.default: _reduced(largest),
    aten.amin.default: _reduced(smallest),
    aten.max.default: _reduced(largest),
    aten.min.default: _reduced(smallest),
    aten.logsumexp.default: _reduced(_log_sum_exp),
    aten.linalg_vector_norm.default: _norm,
    aten.var.correction: _variance,
    aten.native_layer_norm.default: _layer_norm,
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _log_softmax,
    aten.cumsum.default: _running(lambda a, b: a + b),
    aten.cumprod.default: _running(lambda a, b: a * b),
    aten.dot.default: lambda a, b: boxed(dot(boxed(a), boxed(b))),
    aten.mv.default: lambda a, b: _matrix(a, boxed(b)[:, None])[:, 0],
    aten.mm.default: _matrix,
    aten.bmm.default: _matrix,
    aten.addmm.default: _added,
    aten.baddbmm.default: _added,
    aten.addmv.default: _added_vector,
}
"""As in ``elementwise.py``."""
