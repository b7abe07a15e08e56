"""Sums and decisions over all parts of a state, which may be spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor


class Space:
    """A state that is whole in this process.

    A space of several processes overrides all methods. Each is then a collective call, so that all
    processes come to the same decisions.

    Attributes
    ----------
    is_distributed : bool
        Whether other processes hold further parts of the state.
    communicator : object or None
        The communicator of PETSc objects for such a state; None for this process alone.
    """

    is_distributed = False
    communicator: object | None = None

    def sum(self, value: float) -> float:
        """The sum of a number over all parts."""
        return value

    def max(self, value: float) -> float:
        """The largest of a number over all parts; NaN if one of them is."""
        return value

    def every(self, condition: bool) -> bool:
        """Whether a condition holds in all parts."""
        return bool(condition)

    def sum_array(self, values: np.ndarray) -> np.ndarray:
        """The sum of an array over all parts."""
        return values

    def sum_tensor(self, values: Tensor) -> Tensor:
        """The same for a tensor, without a gradient."""
        return values


@runtime_checkable
class HasSpace(Protocol):
    """A field: states of a shape, spread over processes."""

    space: Space
    part_shape: tuple[int, ...]


def field_of(func: object) -> object | None:
    """The ``field`` of a right-hand side of one. Modules of other kinds may have such an attribute too."""
    return getattr(func, "field", None)


_SOLVED_ON: ContextVar[Space | None] = ContextVar("space of the solve under way", default=None)


@contextmanager
def solving_on(space: Space) -> Iterator[None]:
    """While this is open, a solve with states of this space is under way."""
    token = _SOLVED_ON.set(space)
    try:
        yield
    finally:
        _SOLVED_ON.reset(token)


def is_solved_alone() -> bool:
    """Whether a solve is under way in which every process takes its state for whole."""
    space = _SOLVED_ON.get()
    return space is not None and not space.is_distributed
