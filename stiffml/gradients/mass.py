"""The gradient of a run by its mass matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from stiffml.discretization.equations import Block
from stiffml.system.system import System


def mass_gradient(
    block: Block, multipliers: np.ndarray, column: Callable[[int], np.ndarray], system: System
) -> Tensor:
    """dL/dM = −Σ w (Σ_c α_c x_c)ᵀ, summed over the steps and the rows with L = M.

    ``multipliers`` (rows, steps, size) are the w; ``column(c)`` returns x_c (steps, size).
    """
    assert system.mass is not None
    gradient = np.zeros(1)
    alpha = block.numbers.alpha.numpy()
    for row in block.pattern.rows:
        if row.weighted:
            combined = sum(alpha[:, row.index, c, None] * column(c) for c in (*row.alpha, row.column))
            gradient = gradient - system.mass.gradient(multipliers[row.index], np.asarray(combined))
    return system.mass.as_given(gradient)
