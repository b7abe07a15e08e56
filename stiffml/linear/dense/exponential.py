"""φ-functions of h·J for a Jacobian J that is the same at all states, kept by step size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stiffml.linear.dense.constant import ConstantBlocks, ConstantJacobian
from stiffml.linear.dense.phi import doubled, halvings_of, phi_functions
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.mass import Mass
from stiffml.system.state import Layout

HIGHEST = 3
"""The highest order of a φ-function that methods have."""

KEPT_NUMBERS = 2**24
"""Float64 values of φ-functions that are kept (128 MB), but always those of two step sizes."""

Cotangents = Mapping[tuple[str, int], np.ndarray]
"""dL/dφ_k(size·J), (samples, n, n), by step size as :func:`key_of` has it, and order k."""


def key_of(size: float) -> str:
    """The same for sizes that differ by rounding."""
    return f"{size:.13e}"


class Exponentials(LinearSolver):
    """Has the φ-functions of a constant Jacobian, as dense matrices, in place of solutions of linear systems.

    Parameters
    ----------
    layout : Layout

    Attributes
    ----------
    evaluated_at : float
        The time at which the Jacobian has been evaluated.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout, self.evaluated_at = layout, 0.0
        self._held: PhiMatrices | None = None

    @property
    def description(self) -> str:
        samples, width = self._layout.samples, self._layout.width
        what = "the Jacobian" if samples == 1 else f"{samples} blocks of the Jacobian"
        if samples > 1 and self._held is not None and self._held.jacobian.is_shared:
            what = "the Jacobian of all samples"
        return f"exponential of {what}, dense, {width} × {width}"

    @property
    def numbers_per_jacobian(self) -> int:
        return 1  # for all states together

    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> PhiBlocks:
        assert constant, "exponential methods take a linear part"
        if self._held is None:
            self.evaluated_at = float(s[0])
            at = self.evaluated_at, u[0].numpy()
            evaluate = dynamics.jacobian_at if self._layout.samples == 1 else dynamics.constant_blocks
            self._held = PhiMatrices(ConstantJacobian(self._layout.samples, lambda: evaluate(*at)))
        return PhiBlocks(self._held)

    def wrt_jacobian(self, cotangents: Cotangents) -> np.ndarray:
        """dL/dJ (samples, n, n)."""
        assert self._held is not None
        return self._held.wrt_jacobian(cotangents)


class PhiMatrices:
    """The φ-functions of a constant Jacobian by step size.

    Attributes
    ----------
    jacobian : ConstantJacobian
    """

    def __init__(self, jacobian: ConstantJacobian) -> None:
        self.jacobian = jacobian
        self._blocks = torch.from_numpy(jacobian.blocks)
        self._found: dict[str, Tensor] = {}
        self._kept = max(2, KEPT_NUMBERS // ((HIGHEST + 1) * jacobian.blocks.size))

    def at(self, size: float) -> Tensor:
        """φ₀(size·J) … as (orders, 1 or samples, n, n).

        Raises
        ------
        numpy.linalg.LinAlgError
            If J is not finite.
        """
        key = key_of(size)
        found = self._found.get(key)
        if found is None:
            z = size * self._blocks
            if not bool(torch.isfinite(z).all()):
                raise np.linalg.LinAlgError("the Jacobian of the linear part is not finite")
            half = self._found.get(key_of(size / 2))
            # Of half the size they have been computed on the way, to the last digit.
            found = phi_functions(z, HIGHEST) if half is None or halvings_of(z) < 1 else doubled(half)
            if len(self._found) >= self._kept:
                self._found.clear()
            self._found[key] = found
        return found

    def apply(self, order: int, size: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """φ_order(size·J) v, or its transpose times v, for vectors (…, size of a state)."""
        blocks = self.at(size)[order].numpy()
        shared, width = self.jacobian.is_shared, blocks.shape[-1]
        rows = v.reshape((-1, width) if shared else (-1, self.jacobian.samples, 1, width))
        blocks = blocks[0] if shared else blocks
        with np.errstate(invalid="ignore", over="ignore"):  # growing modes may overflow, which ends the step
            return (rows @ _turned(blocks, transpose)).reshape(v.shape)

    def wrt_jacobian(self, cotangents: Cotangents) -> np.ndarray:
        """dL/dJ (samples, n, n), by the derivative of what computes the φ-functions."""
        total = torch.zeros(self.jacobian.samples, *self._blocks.shape[1:], dtype=self._blocks.dtype)
        for key in dict.fromkeys(key for key, _ in cotangents):
            with torch.enable_grad():
                blocks = self._blocks.expand_as(total).clone().requires_grad_()
                found = phi_functions(float(key) * blocks, HIGHEST)
                parts = {order: w for (other, order), w in cotangents.items() if other == key}
                given = [torch.from_numpy(w) for w in parts.values()]
                total += torch.autograd.grad([found[order] for order in parts], blocks, given)[0]
        return total.numpy()


def _turned(blocks: np.ndarray, transpose: bool) -> np.ndarray:
    """What rows are multiplied with from the right, for a product with ``blocks`` or their transpose."""
    return blocks if transpose else blocks.swapaxes(-1, -2)


class PhiBlocks(ConstantBlocks):
    """The constant J at all states, and its φ-functions."""

    def __init__(self, matrices: PhiMatrices) -> None:
        super().__init__(matrices.jacobian)
        self._matrices = matrices

    def phi(self, order: int, size: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        return self._matrices.apply(order, size, v, transpose)
