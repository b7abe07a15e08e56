"""Approximate inverses of shift·M − J, and when they are made anew."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt

LONGER = 1.8
"""The factor by which the shift may change before a preconditioner is made anew."""

MORE = 1.5
"""The factor by which iterations may grow before a preconditioner that depends on the state is made anew."""


class ApproximateInverse(ABC):
    """An approximate inverse of shift·M − J: what a preconditioner does.

    ``depends_on_state`` says whether it depends on the state, besides the shift.
    """

    depends_on_state = True

    @abstractmethod
    def renew(self, s: float, u: np.ndarray, shift: float, jacobian: JacobianAt) -> None:
        """Make it anew at a state and a shift."""

    @abstractmethod
    def solve(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """The x of (shift·M − J) x ≈ v, or of the transposed system, for v (size,)."""

    def solve_vector(self, v: Any, into: Any, transpose: bool = False) -> None:
        """The same for PETSc vectors."""
        into.setArray(self.solve(v.array_r, transpose))

    def is_too_weak(self, iterations: int) -> bool:
        """Whether it becomes another, stronger one because the last solve took so many iterations."""
        return False

    def close(self) -> None:  # noqa: B027 (some hold nothing)
        """Free what PETSc holds."""


class Upkeep:
    """Makes an approximate inverse anew when it has become a bad one, or ``always``."""

    def __init__(self, inverse: ApproximateInverse, always: bool = False) -> None:
        self.inverse = inverse
        self._always = always
        self._shift = math.nan
        self._first: int | None = None  # iterations of the first solve with it
        self._last = 0  # and of the last one

    def at(self, s: float, u: Array, shift: float, jacobian: JacobianAt) -> None:
        """The next systems have this state and shift."""
        near = abs(math.log(shift / self._shift)) < math.log(LONGER) if shift * self._shift > 0 else False
        slow = self._first is not None and self._last > MORE * self._first + 3
        if near and not self._always and not (slow and self.inverse.depends_on_state):
            return
        state = u.cpu().numpy() if isinstance(u, torch.Tensor) else u
        self.inverse.renew(s, state, shift, jacobian)
        self._shift, self._first = shift, None

    def took(self, iterations: int) -> bool:
        """The last solve took so many iterations; whether the next one has another approximate inverse."""
        self._last = iterations
        if self._first is None:
            self._first = iterations
        if not self.inverse.is_too_weak(iterations):
            return False
        self._shift = math.nan
        return True
