"""Solving by factorising the Jacobian as one dense matrix, or one dense block a sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from stiffml.linear.dense.blocks import BlockLU, shift_
from stiffml.linear.dense.constant import SINGULAR, ConstantBlocks, ConstantJacobian, ConstantMatrix
from stiffml.linear.dense.matrices import dense_matrix
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.matrix import PETScSolver, ShiftedMatrix
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.derivatives.linearization import Factors, Linearization
from stiffml.system.mass import Mass
from stiffml.system.state import Layout


class DenseLU(PETScSolver):
    """LU factors of dense blocks.

    Parameters
    ----------
    layout : Layout
    constant : bool
        Whether the Jacobian is the same at all states. Default False.
    """

    def __init__(self, layout: Layout, constant: bool = False) -> None:
        self._layout = layout
        # Narrow ones have sweeps over many steps at once, for which they are blocks.
        self._is_held = constant and layout.samples > 1 and layout.width > NARROW
        self.uses_blocks = not self._is_held
        self._held: ConstantJacobian | None = None

    @property
    def description(self) -> str:
        samples, width = self._layout.samples, self._layout.width
        what = "the Jacobian" if samples == 1 else f"{samples} blocks of the Jacobian"
        if self._held is not None and self._held.is_shared:
            what = "the Jacobian of all samples"
        return f"LU of {what}, dense, {width} × {width}"

    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        if not self._is_held:
            return dense_matrix(problem)
        return ConstantMatrix(problem, self._hold)

    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> Linearization:
        if constant and self._is_held:
            first = float(s[0]), u[0].numpy()
            return ConstantBlocks(self._hold(lambda: dynamics.constant_blocks(*first)))
        return DenseBlocks(dynamics, s, u, mass, constant)

    def _hold(self, evaluate: Callable[[], np.ndarray]) -> ConstantJacobian:
        """The constant Jacobian, for forward and backward solves alike."""
        if self._held is None:
            self._held = ConstantJacobian(self._layout.samples, evaluate)
        return self._held

    @property
    def numbers_per_jacobian(self) -> int:
        return 1 if self._is_held else self._layout.width


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
        self._factors: dict[tuple[int, float, float], _OneFactors | _BatchFactors] = {}

    @classmethod
    def of(cls, block: np.ndarray) -> DenseBlocks:
        """The same Jacobian (1, samples, width, width) at all states, for products with it."""
        found = cls.__new__(cls)
        found._blocks, found._constant = block, True
        found._samples, found._width = block.shape[1:3]
        return found

    def at(self, states: np.ndarray) -> np.ndarray:
        """J at some of the states, (N,) -> (N, samples, width, width)."""
        return self._blocks[np.zeros_like(states) if self._constant else states]

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        block = self._blocks[0 if self._constant else k]
        if self._samples == 1:
            return v @ (block[0] if transpose else block[0].T)
        rows = v.reshape(-1, self._samples, 1, self._width) @ (block if transpose else block.swapaxes(1, 2))
        return rows.reshape(v.shape)

    def factorise(self, a: np.ndarray, b: np.ndarray) -> Factors:
        a_, b_ = (torch.from_numpy(numbers)[:, :, None, None] for numbers in (a, b))
        blocks, self._blocks = self._blocks, np.empty(0)
        return _AllFactors(BlockLU(shift_(torch.from_numpy(blocks), a_, self._mass, b_)), blocks.shape[1:3])

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        key = (0 if self._constant else k, a, b)
        factors = self._factors.get(key)
        if factors is None:
            # The stages of a step share one matrix; a constant Jacobian has one for each step size.
            if not self._constant or len(self._factors) > 20:
                self._factors.clear()
            block = self._blocks[key[0]]
            factors = (
                _OneFactors(a, self._mass, b, block)
                if self._samples == 1
                else _BatchFactors(a, self._mass, b, block)
            )
            self._factors[key] = factors
        return factors.solve(v, transpose)


class _AllFactors(Factors):
    """LU factors at all states, which replace the Jacobians in memory."""

    def __init__(self, lu: BlockLU, shape: tuple[int, ...]) -> None:
        self._lu, self._shape = lu, shape

    def solve(self, v: np.ndarray) -> np.ndarray:
        columns = torch.from_numpy(v).view(len(v), *self._shape, 1)
        return self._lu.solve(columns).reshape(v.shape).numpy()


class _OneFactors:
    """LU factors of one matrix. LAPACK directly: for a few unknowns, wrappers would cost more."""

    def __init__(self, a: float, mass: np.ndarray | None, b: float, block: np.ndarray) -> None:
        matrix = (a * np.eye(block.shape[-1]) if mass is None else a * mass[0]) - b * block[0]
        self._lu, self._pivots, info = lapack.dgetrf(matrix)
        if info > 0:
            raise np.linalg.LinAlgError(SINGULAR)

    def solve(self, v: np.ndarray, transpose: bool) -> np.ndarray:
        x, _ = lapack.dgetrs(self._lu, self._pivots, v.T, trans=int(transpose))
        return x.T


class _BatchFactors:
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
