"""Products with the φ-functions in the rows of many steps."""

from __future__ import annotations

import numpy as np

from stiffml.discretization.equations import Block
from stiffml.discretization.row import Phi
from stiffml.system.derivatives.linearization import Linearization


def multiplied(jacobian: Linearization, block: Block, phi: Phi, x: np.ndarray) -> np.ndarray:
    """φ x in each step of a block, (steps, size)."""
    sizes = phi.fraction * block.sizes
    if len(sizes) == 1:
        return jacobian.phi(phi.order, float(sizes[0]), x)
    found = np.empty_like(x)
    for size in np.unique(sizes).tolist():
        steps = sizes == size
        found[steps] = jacobian.phi(phi.order, size, x[steps])
    return found


def moved_by_size(jacobian: Linearization, block: Block, phi: Phi, x: np.ndarray) -> np.ndarray:
    """dφ/dh x likewise, where φ = φ_k(chJ): (φ_{k−1} − k φ_k)/h, or for k = 0 c J φ₀.

    As z φ_k'(z) = φ_{k−1}(z) − k φ_k(z), which follows from the integral that defines φ_k, by parts.
    """
    same = multiplied(jacobian, block, phi, x)
    if phi.order == 0:
        return phi.fraction * np.stack([jacobian.apply(0, value) for value in same])
    lower = multiplied(jacobian, block, Phi(phi.order - 1, phi.fraction), x)
    return (lower - phi.order * same) / block.sizes[:, None]
