"""The Jacobian J = ∂f/∂u at a set of states, as the reverse sweep needs it: Jᵀv and (shift·I − J)⁻ᵀv."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from stiffml.dynamics import Dynamics


class Linearization(ABC):
    """J at K states; ``k`` below is the position of a state among them, vectors are (size,) arrays."""

    @abstractmethod
    def apply_transpose(self, k: int, v: np.ndarray) -> np.ndarray:
        """J_kᵀ v."""

    @abstractmethod
    def solve_transpose(self, k: int, shift: float, v: np.ndarray) -> np.ndarray:
        """The x of (shift·I − J_k)ᵀ x = v."""


class DenseBlocks(Linearization):
    """One dense block a sample, all evaluated in one call and factorised when first solved with."""

    def __init__(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> None:
        self._blocks = dynamics.jacobian_blocks(s, u).contiguous().numpy()  # (K, samples, width, width)
        self._samples, self._width = self._blocks.shape[1:3]
        self._eye = np.eye(self._width)

    def apply_transpose(self, k: int, v: np.ndarray) -> np.ndarray:
        if self._samples == 1:
            return v @ self._blocks[k, 0]
        rows = v.reshape(self._samples, 1, self._width) @ self._blocks[k]
        return rows.reshape(-1)

    def solve_transpose(self, k: int, shift: float, v: np.ndarray) -> np.ndarray:
        if self._samples == 1:
            # LAPACK directly: for a few unknowns, checks and wrappers would cost more than the solve.
            factors, pivots, info = lapack.dgetrf(shift * self._eye - self._blocks[k, 0])
            if info > 0:
                raise np.linalg.LinAlgError("the matrix shift·I − J of the adjoint solve is singular")
            x, _ = lapack.dgetrs(factors, pivots, v, trans=1)
            return x
        matrices = torch.from_numpy(shift * self._eye - self._blocks[k])
        rhs = torch.from_numpy(v).view(self._samples, self._width, 1)
        return torch.linalg.solve(matrices.mT, rhs).reshape(-1).numpy()


class Products(Linearization):
    """Jᵀv by one reverse pass a product: for explicit methods, whose adjoint solves nothing."""

    def __init__(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> None:
        self._dynamics, self._s, self._u = dynamics, s, u

    def apply_transpose(self, k: int, v: np.ndarray) -> np.ndarray:
        at = slice(k, k + 1)
        return self._dynamics.state_vjp(self._s[at], self._u[at], torch.from_numpy(v)[None])[0].numpy()

    def solve_transpose(self, k: int, shift: float, v: np.ndarray) -> np.ndarray:
        raise NotImplementedError("an explicit method's adjoint has no linear system to solve")
