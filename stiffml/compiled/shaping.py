"""Operations that move elements, look them up, or make new arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.compiled.arrays import (
    Array,
    boxed,
    chosen,
    total,
)
from stiffml.compiled.refusal import NotCompilableError
from stiffml.compiled.scalars import is_symbol, pick

aten = torch.ops.aten


def _expanded(x: Any, shape: Sequence[int], implicit: bool = False) -> Array:
    x, new = boxed(x), len(shape) - boxed(x).ndim
    return np.broadcast_to(x, [x.shape[i - new] if n == -1 else n for i, n in enumerate(shape)])


def _squeezed(x: Any, dims: Any = None) -> Array:
    x = boxed(x)
    dims = range(x.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    return np.squeeze(x, tuple(d % x.ndim for d in dims if x.ndim and x.shape[d] == 1))


def _part(x: Array, dim: int, start: int | None, end: int | None, step: int) -> tuple[Any, ...]:
    return (*[slice(None)] * (dim % x.ndim), slice(start, end, step))


def _slice(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    x = boxed(x)
    return x[_part(x, dim, start, end, step)]


def _slice_scatter(
    x: Any, part: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    x = boxed(x).copy()
    x[_part(x, dim, start, end, step)] = boxed(part)
    return x


def _select_scatter(x: Any, part: Any, dim: int, index: int) -> Array:
    x = boxed(x).copy()
    np.moveaxis(x, dim, 0)[index] = boxed(part)
    return x


def _split(x: Any, sizes: int | Sequence[int], dim: int = 0) -> list[Array]:
    x = boxed(x)
    ends = range(sizes, x.shape[dim], sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return np.split(x, ends, dim)


def _joined(parts: Sequence[Any], dim: int = 0) -> Array:
    arrays = [boxed(part) for part in parts]
    return np.concatenate([array for array in arrays if array.shape != (0,)], dim)


def _repeat(x: Any, counts: Sequence[int]) -> Array:
    return np.tile(boxed(x), counts)


def _roll(x: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Array:
    x = boxed(x)
    if not dims:
        return np.roll(x.ravel(), tuple(shifts)).reshape(x.shape)
    return np.roll(x, tuple(shifts), tuple(dims))


def _padded(x: Any, pad: Sequence[int], value: float = 0.0) -> Array:
    x = boxed(x)
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    if any(n < 0 for n in pad):
        raise NotCompilableError("it pads by a negative number")
    return np.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs, constant_values=value)


def _triangle(keep: Callable[..., np.ndarray]) -> Callable[..., Array]:
    def apply(x: Any, diagonal: int = 0) -> Array:
        x = boxed(x)
        mask = keep(np.ones(x.shape[-2:], dtype=bool), diagonal)
        return np.where(mask, x, 0.0)

    return apply


def _diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    return np.diagonal(boxed(x), offset, dim1, dim2)


def _filled(value: float) -> Callable[..., Tensor]:
    return lambda x, **_: torch.full(boxed(x).shape, value, dtype=torch.float64)


def _numbers(index: Any) -> np.ndarray:
    """An index whose values are known."""
    array = boxed(index)
    if any(is_symbol(i) for i in array.ravel()):
        raise NotCompilableError("it writes, or reads several dimensions, at places that depend on the state")
    return array.astype(bool if array.size and isinstance(array.flat[0], bool) else int)


def _index(x: Any, indices: Sequence[Any]) -> Array:
    x = boxed(x)
    given = [(d, boxed(i)) for d, i in enumerate(indices) if i is not None]
    if len(given) == 1 and any(is_symbol(i) for i in given[0][1].ravel()):
        return _index_select(x, *given[0])
    return boxed(x[tuple(slice(None) if i is None else _numbers(i) for i in indices)])


def _index_select(x: Any, dim: int, index: Any) -> Array:
    x, index = boxed(x), boxed(index)
    dim %= x.ndim
    parts = [chosen(x, dim, i) for i in index.ravel()]
    stacked = np.stack(parts).reshape(*index.shape, *parts[0].shape)
    places = range(dim, dim + index.ndim)
    return np.moveaxis(stacked, range(index.ndim), places)


def _gather(x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Array:
    x, index = boxed(x), boxed(index)
    result = np.empty(index.shape, dtype=object)
    for at in np.ndindex(index.shape):
        line = x[(*at[:dim], slice(None), *at[dim % x.ndim + 1 :])] if x.ndim else x[None]
        result[at] = chosen(line, 0, index[at])[()]
    return result


def _index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Array:
    x = boxed(x).copy()
    where: Any = tuple(slice(None) if i is None else _numbers(i) for i in indices)
    if accumulate:
        np.add.at(x, where, boxed(values))
    else:
        x[where] = boxed(values)
    return x


def _index_add(x: Any, dim: int, index: Any, source: Any, alpha: float = 1) -> Array:
    x = boxed(x).copy()
    np.add.at(np.moveaxis(x, dim, 0), _numbers(index), np.moveaxis(boxed(source) * alpha, dim, 0))
    return x


def _scatter_add(x: Any, dim: int, index: Any, source: Any) -> Array:
    x, places, source = boxed(x).copy(), _numbers(index), boxed(source)
    for at in np.ndindex(places.shape):
        where = list(at)
        where[dim] = places[at]
        x[tuple(where)] = x[tuple(where)] + source[at]
    return x


def _search(boundaries: Any, values: Any, right: bool = False, side: str | None = None) -> Array:
    """How many of the sorted boundaries (…, n) lie before each value (…, m)."""
    edges, values = boxed(boundaries), boxed(values)
    right = side == "right" or right
    result = np.empty(values.shape, dtype=object)
    for at in np.ndindex(values.shape):
        line = edges if edges.ndim == 1 else edges[at[:-1]]
        counts = [pick(e <= values[at] if right else e < values[at], 1, 0) for e in line]
        result[at] = total(counts)
    return result


def _searchsorted(
    edges: Any,
    values: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: Any = None,
    sorter: Any = None,
) -> Array:
    if sorter is not None:
        raise NotCompilableError("searchsorted has a sorter")
    return _search(edges, values, right, side)


def _bucketize(values: Any, edges: Any, *, out_int32: bool = False, right: bool = False) -> Array:
    return _search(edges, values, right)


SHAPING: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (
            aten.detach.default,
            aten.alias.default,
            aten.clone.default,
            aten.lift_fresh_copy.default,
            aten.contiguous.default,
        ),
        lambda x, **_: boxed(x),
    ),
    **dict.fromkeys(
        (aten.view.default, aten._unsafe_view.default, aten.reshape.default),
        lambda x, shape: boxed(x).reshape(shape),
    ),
    **dict.fromkeys(
        (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze_.dim), _squeezed
    ),
    aten.t.default: lambda x: boxed(x).T,
    aten.transpose.int: lambda x, i, j: np.swapaxes(boxed(x), i, j) if boxed(x).ndim else boxed(x),
    aten.permute.default: lambda x, dims: np.transpose(boxed(x), dims),
    aten.unsqueeze.default: lambda x, dim: np.expand_dims(boxed(x), dim),
    aten.expand.default: _expanded,
    aten.unbind.int: lambda x, dim=0: [boxed(v) for v in np.moveaxis(boxed(x), dim, 0)],
    aten.select.int: lambda x, dim, index: boxed(np.moveaxis(boxed(x), dim, 0)[index]),
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.cat.default: _joined,
    aten.stack.default: lambda parts, dim=0: np.stack([boxed(x) for x in parts], dim),
    aten.repeat.default: _repeat,
    aten.roll.default: _roll,
    aten.flip.default: lambda x, dims: np.flip(boxed(x), tuple(dims)),
    aten.constant_pad_nd.default: _padded,
    aten.tril.default: _triangle(np.tril),
    aten.triu.default: _triangle(np.triu),
    aten.diagonal.default: _diagonal,
    aten.copy.default: lambda x, source, *_: np.broadcast_to(boxed(source), boxed(x).shape),
    aten.zeros_like.default: _filled(0.0),
    aten.ones_like.default: _filled(1.0),
    aten.empty_like.default: _filled(float("nan")),
    aten.full_like.default: lambda x, value, **_: torch.full(boxed(x).shape, value),
    aten.new_zeros.default: lambda x, shape, **_: torch.zeros(shape, dtype=torch.float64),
    aten.new_ones.default: lambda x, shape, **_: torch.ones(shape, dtype=torch.float64),
    aten.new_empty.default: lambda x, shape, **_: torch.full(shape, torch.nan, dtype=torch.float64),
    aten.new_full.default: lambda x, shape, value, **_: torch.full(shape, value),
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.gather.default: _gather,
    aten.take.default: lambda x, index: _gather(boxed(x).ravel(), 0, index),
    aten.index_put.default: _index_put,
    aten.index_add.default: _index_add,
    aten.scatter_add.default: _scatter_add,
    aten.searchsorted.Tensor: _searchsorted,
    aten.searchsorted.Scalar: _searchsorted,
    aten.bucketize.Tensor: _bucketize,
    aten.bucketize.Scalar: _bucketize,
}
"""By operation: a function of arrays, tensors and numbers to an array, a tensor, or a list of arrays."""
