"""f or g at many vectors at once, with its Jacobians, and whether these are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from stiffml.system.derivatives.changes import At, is_explained
from stiffml.system.derivatives.dynamics import Dynamics


class Slopes(NamedTuple):
    """Values of f or g: the positions of the vectors (M,), and the values there (M, size)."""

    at: np.ndarray
    values: np.ndarray

    def of(self, position: int) -> np.ndarray | None:
        """The value (size,) at one vector, if it is among them."""
        k = int(np.searchsorted(self.at, position))
        return self.values[k] if k < len(self.at) and self.at[k] == position else None


@dataclass
class Evaluation:
    """f or g with the M vectors at which it is evaluated, and its values there.

    Attributes
    ----------
    dynamics : Dynamics
    at : ndarray
        (M,) int, positions of the vectors.
    s : Tensor
        (M,) their times.
    node : ndarray
        (count,) int, from positions to rows of ``values`` and ``blocks``.
    values : ndarray
        (M, size) f or g at the vectors.
    blocks : ndarray
        (M, samples, width, width) the Jacobians there.
    """

    dynamics: Dynamics
    at: np.ndarray
    s: torch.Tensor
    node: np.ndarray
    values: np.ndarray
    blocks: np.ndarray
    _here: np.ndarray | None = None
    _before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def evaluate(self, x: np.ndarray) -> None:
        """Evaluate f and its Jacobians at the vectors ``x`` (count, size)."""
        if len(self.at):
            if self._here is not None:
                self._before = self._here, self.values, self.blocks
            self._here = x[self.at]
            values, blocks = self.dynamics.values_and_blocks(self.s, torch.from_numpy(self._here))
            self.values, self.blocks = values.numpy(), blocks.numpy()

    def values_only(self, x: np.ndarray) -> np.ndarray:
        """(M, size) f at vectors ``x`` (count, size), without its Jacobians."""
        if not len(self.at):
            return self.values
        return self.dynamics.evaluate_many(self.s, torch.from_numpy(x[self.at])).numpy()

    def values_at(self, x: np.ndarray) -> np.ndarray:
        """(M, size) f at vectors ``x`` (count, size) near those of the last evaluation."""
        if self._here is None:
            return self.values
        moved = self.blocks @ (x[self.at] - self._here).reshape(*self.blocks.shape[:3], 1)
        return self.values + moved.reshape(self.values.shape)

    def is_jacobian_right(self) -> bool | None:
        """Whether the Jacobians explain how f has changed last; None if they cannot be seen to."""
        if not len(self.at):
            return True
        if self._before is None or self._here is None:
            return None
        here = At(self._here, self.values, self.blocks)
        return is_explained(At(*self._before), here, self.dynamics.eps)
