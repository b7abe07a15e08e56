"""Sums and decisions over all parts of a state: over the processes that hold them, or within this one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor


class Space:
    """A state that is whole in this process.

    A state that is spread over processes overrides all of these; each is then a collective call, so that all
    processes come to the same decisions.

    Attributes
    ----------
    is_distributed : bool
        Whether other processes hold further parts of the state.
    communicator : object or None
        What PETSc objects of such a state are created on; None for a process of its own.
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
    """Something whose states are spread over processes."""

    space: Space
