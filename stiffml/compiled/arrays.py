"""Arrays of CasADi scalars: numpy's, with elements that are floats or SX of one element."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import casadi as ca
import numpy as np
from torch import Tensor

from stiffml.compiled.scalars import Scalar, both, is_symbol, pick

Array = np.ndarray
"""Of dtype object."""


def boxed(x: Any) -> Array:
    """A tensor, a number or a scalar as an array; arrays as they are."""
    if isinstance(x, np.ndarray):
        return x
    result = np.empty((), dtype=object)
    if isinstance(x, Tensor):
        result = np.empty(tuple(x.shape), dtype=object)
        result[...] = np.array(x.detach().cpu().resolve_neg().tolist(), dtype=object)
    else:
        result[()] = x
    return result


def symbols(name: str, shape: tuple[int, ...]) -> tuple[ca.SX, Array]:
    """A vector of new symbols, and its elements as an array of a shape."""
    vector = ca.SX.sym(name, int(np.prod(shape, dtype=int)))
    elements = np.empty(vector.numel(), dtype=object)
    for i in range(vector.numel()):
        elements[i] = vector[i]
    return vector, elements.reshape(shape)


def column(values: Array) -> ca.SX:
    """The elements as one dense vector."""
    return ca.vertcat(*[ca.densify(ca.SX(value)) for value in values.ravel()])


def elementwise(function: Callable[..., Scalar]) -> Callable[..., Array]:
    """The function of arrays that applies a function of scalars to their elements, broadcast."""

    def apply(*arguments: Any, **settings: Any) -> Array:
        arrays = [boxed(a) for a in arguments]
        bound = (lambda *scalars: function(*scalars, **settings)) if settings else function
        return boxed(np.frompyfunc(bound, len(arrays), 1)(*arrays))

    return apply


def product(a: Array, b: Array) -> Array:
    """A matrix product without terms of exact zeros, of arrays (…, n, k) and (…, k, m)."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (a, b))
    result = np.empty((*lead, a.shape[-2], b.shape[-1]), dtype=object)
    for at in np.ndindex(lead):
        for i, row in enumerate(a[at]):
            for j, col in enumerate(b[at].T):
                result[(*at, i, j)] = dot(row, col)
    return result


def dot(a: Array, b: Array) -> Scalar:
    return total([x * y for x, y in zip(a, b, strict=True) if not (_is_zero(x) or _is_zero(y))])


def total(terms: list[Scalar]) -> Scalar:
    return reduce(lambda x, y: x + y, terms) if terms else 0.0


def _is_zero(x: Scalar) -> bool:
    return x.is_zero() if is_symbol(x) else x == 0


def along(reduction: Callable[[Array], Scalar], x: Array, dims: Any, keepdim: bool) -> Array:
    """Reduce some dimensions (None or empty: all), each time from an array of one dimension."""
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        dims = range(x.ndim)
    chosen = sorted({d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)}) if x.ndim else []
    rest = [d for d in range(x.ndim) if d not in chosen]
    moved = np.transpose(x, [*rest, *chosen]).reshape(*(x.shape[d] for d in rest), -1)
    result = np.empty(moved.shape[:-1], dtype=object)
    for at in np.ndindex(result.shape):
        result[at] = reduction(moved[at])
    return np.expand_dims(result, tuple(chosen)) if keepdim else result


def largest(values: Array) -> Scalar:
    """The maximum; elements that are equal to it share its derivative evenly, as torch has it."""
    return _extreme(values, lambda a, b: a > b)


def smallest(values: Array) -> Scalar:
    return _extreme(values, lambda a, b: a < b)


def _extreme(values: Array, beats: Callable[[Scalar, Scalar], Scalar]) -> Scalar:
    best = reduce(lambda a, b: pick(beats(a, b), a, pick(beats(b, a), b, (a + b) / 2)), values)
    equal = [pick(v == best, 1.0, 0.0) for v in values]
    return total([pick(e, v, 0.0) for e, v in zip(equal, values, strict=True)]) / total(equal)


def chosen(x: Array, axis: int, index: Scalar) -> Array:
    """The part of an array at an index that is a scalar; NaN beyond the end, where torch raises."""
    parts = np.moveaxis(x, axis, 0)
    if not is_symbol(index):
        return boxed(parts[int(index)])
    place = pick(index < 0, index + len(parts), index)
    masks = [place == j for j in range(len(parts))]
    valid = pick(both(place >= 0, place < len(parts)), 0.0, float("nan"))
    result = np.empty(parts.shape[1:], dtype=object)
    for at in np.ndindex(result.shape):
        result[at] = (
            total([pick(mask, boxed(part)[at], 0.0) for mask, part in zip(masks, parts, strict=True)]) + valid
        )
    return result
