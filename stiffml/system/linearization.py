"""The Jacobian J = ∂f/∂u at a set of states: products with it, and systems (a·M − b·J) x = v."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from stiffml.system.blocks import BlockLU, shift_
from stiffml.system.dynamics import Dynamics
from stiffml.system.mass import Mass


class Linearization(ABC):
    """J at K states.

    ``k`` is the position of a state among them; vectors are (size,) arrays, or (P, size) for P of them.
    """

    @abstractmethod
    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """J_k v or J_kᵀ v."""

    @abstractmethod
    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """The x of (a·M − b·J_k) x = v, or of the transposed system."""


class DenseBlocks(Linearization):
    """One dense block a sample, all evaluated in one call and factorised when first solved with.

    ``constant`` says that J is the same at all states: it is then evaluated at the first alone.
    """

    def __init__(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> None:
        if constant:
            s, u = s[:1], u[:1]
        self._constant = constant
        self._blocks = dynamics.jacobian_blocks(s, u).numpy()  # (K, samples, width, width)
        self._samples, self._width = self._blocks.shape[1:3]
        self._mass = None if mass is None else mass.blocks
        self._factors: dict[tuple[int, float, float], _One | _Many] = {}

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        block = self._blocks[0 if self._constant else k]
        if self._samples == 1:
            return v @ (block[0] if transpose else block[0].T)
        rows = v.reshape(-1, self._samples, 1, self._width) @ (block if transpose else block.swapaxes(1, 2))
        return rows.reshape(v.shape)

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        key = (0 if self._constant else k, a, b)
        factors = self._factors.get(key)
        if factors is None:
            # The stages of a step share one matrix; a constant Jacobian has one for each step size.
            if not self._constant or len(self._factors) > 20:
                self._factors.clear()
            block = self._blocks[key[0]]
            factors = _One(a, self._mass, b, block) if self._samples == 1 else _Many(a, self._mass, b, block)
            self._factors[key] = factors
        return factors.solve(v, transpose)


class _One:
    """LU factors of one matrix. LAPACK directly: for a few unknowns, wrappers would cost more."""

    def __init__(self, a: float, mass: np.ndarray | None, b: float, block: np.ndarray) -> None:
        matrix = (a * np.eye(block.shape[-1]) if mass is None else a * mass[0]) - b * block[0]
        self._lu, self._pivots, info = lapack.dgetrf(matrix)
        if info > 0:
            raise np.linalg.LinAlgError(SINGULAR)

    def solve(self, v: np.ndarray, transpose: bool) -> np.ndarray:
        x, _ = lapack.dgetrs(self._lu, self._pivots, v.T, trans=int(transpose))
        return x.T


class _Many:
    """LU factors of one matrix a sample."""

    def __init__(self, a: float, mass: np.ndarray | None, b: float, blocks: np.ndarray) -> None:
        self._shape = blocks.shape[:2]
        self._lu = BlockLU(shift_(torch.from_numpy(blocks).clone(), a, mass, b))
        if self._lu.info.any():
            raise np.linalg.LinAlgError(f"{SINGULAR} of sample {int(self._lu.info.argmax())}")

    def solve(self, v: np.ndarray, transpose: bool) -> np.ndarray:
        columns = torch.from_numpy(v).reshape(-1, *self._shape).permute(1, 2, 0)
        x = self._lu.solve(columns.contiguous(), transpose)
        return x.permute(2, 0, 1).reshape(v.shape).numpy()


SINGULAR = "the matrix a·M − b·∂f/∂y of a linear solve is singular"


class Products(Linearization):
    """J v and Jᵀ v by automatic differentiation: where nothing has to be solved."""

    def __init__(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> None:
        self._dynamics, self._s, self._u = dynamics, s, u

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        rows = torch.from_numpy(np.atleast_2d(v))
        s, u = self._s[k : k + 1].expand(len(rows)), self._u[k : k + 1].expand(len(rows), -1)
        product = self._dynamics.state_vjp(s, u, rows) if transpose else self._dynamics.state_jvp(s, u, rows)
        return product.numpy().reshape(v.shape)

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        raise NotImplementedError("an explicit method has no linear system to solve")
