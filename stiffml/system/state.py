"""The shape of the user's state, and its conversion to and from one flat vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

State = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Layout:
    """How a tensor, or a tuple of tensors, lies in a flat vector of ``size`` numbers.

    ``batch`` leading dimensions are independent samples: the flat vector is then ``samples`` rows of
    ``width`` numbers, and the Jacobian is block-diagonal.
    """

    shapes: tuple[torch.Size, ...]
    is_tuple: bool
    dtype: torch.dtype
    batch: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, y0: State, batch_dims: int) -> Layout:
        parts = y0 if isinstance(y0, tuple) else (y0,)
        shapes = tuple(part.shape for part in parts)
        return cls(
            shapes, isinstance(y0, tuple), parts[0].dtype, tuple(shapes[0][:batch_dims]), parts[0].device
        )

    @cached_property
    def samples(self) -> int:
        return math.prod(self.batch)

    @cached_property
    def width(self) -> int:
        return sum(math.prod(shape[len(self.batch) :]) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        return self.samples * self.width

    @cached_property
    def _is_flat(self) -> bool:
        """Whether a state is a flat vector: small functions are called too often for idle views."""
        return not self.is_tuple and self.shapes[0] == (self.size,)

    def flatten(self, y: State) -> Tensor:
        """State with any leading dimensions -> (..., size), in the state's dtype."""
        if isinstance(y, Tensor):
            if self._is_flat and not y.is_neg():
                return y
            # A view whose sign is still to be applied has no numbers that numpy could read.
            return y.resolve_neg().reshape(*y.shape[: y.dim() - len(self.shapes[0])], self.size)
        n_batch = len(self.batch)
        rows = []
        for part, shape in zip(y, self.shapes, strict=True):
            lead = part.shape[: part.dim() - len(shape)]
            rows.append(part.resolve_neg().reshape(*lead, self.samples, math.prod(shape[n_batch:])))
        joined = rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)
        return joined.reshape(*joined.shape[:-2], self.size)

    def unflatten(self, u: Tensor) -> State:
        """(..., size) -> the state, with the same leading dimensions."""
        if self._is_flat:
            return u
        lead = u.shape[:-1]
        if not self.is_tuple:
            return u.reshape((*lead, *self.shapes[0]))
        rows = u.reshape(*lead, self.samples, self.width)
        n_batch = len(self.batch)
        widths = [math.prod(shape[n_batch:]) for shape in self.shapes]
        parts = torch.split(rows, widths, dim=-1)
        return tuple(part.reshape((*lead, *shape)) for part, shape in zip(parts, self.shapes, strict=True))

    def component(self, index: int) -> tuple[int, ...]:
        """The index into the user's state of flat component ``index``."""
        n_batch = len(self.batch)
        sample, offset = divmod(index, self.width)
        for position, shape in enumerate(self.shapes):
            inner = math.prod(shape[n_batch:])
            if offset < inner:
                flat = sample * inner + offset
                where = []
                for extent in reversed(shape):
                    flat, at = divmod(flat, extent)
                    where.append(at)
                return ((position,) if self.is_tuple else ()) + tuple(reversed(where))
            offset -= inner
        raise IndexError(index)
