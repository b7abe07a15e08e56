"""Estimates how large Newton updates are that come from rounding errors of the equations."""

from __future__ import annotations

import numpy as np

from stiffml.petsc.formulation import Formulation
from stiffml.petsc.matrix import ShiftedMatrix
from stiffml.petsc.sharing import shared


def rounding_of_updates(
    snes, problem: Formulation, matrix: ShiftedMatrix, linearised: tuple[float, float], shares_vectors: bool
) -> np.ndarray:
    """The estimated size (size,) of updates that are rounding errors of the equations.

    With W = shift·M − J, rounding errors r of the residual change an update by W⁻¹ r. The size of r is
    estimated by perturbing the state by its own rounding errors. W⁻¹ is then applied to r with random signs.
    This takes a few calls of ``func``, so it is for stalled iterations only.

    Parameters
    ----------
    snes : SNES
    problem : Formulation
    matrix : ShiftedMatrix
    linearised : tuple of float
        Time and shift of W.
    shares_vectors : bool
        Whether vectors are read as torch tensors.
    """
    s, shift = linearised
    x = snes.getSolution()
    u = shared(x).cpu().numpy() if shares_vectors else x.array_r.copy()
    signs = np.random.default_rng(0)

    def sign() -> np.ndarray:
        return signs.choice((-1.0, 1.0), u.size)

    unit = problem.eps
    slope = problem.slope(s, u, False)
    moves = [problem.slope(s, u * (1 + unit * sign()), False) - slope for _ in range(2)]
    rows = np.abs(shift * problem.weigh(np.abs(u))) + np.abs(slope)
    rows = np.finfo(float).eps * rows + np.max(np.abs(moves), axis=0)
    return _solved_with(snes, matrix, [rows * sign() for _ in range(2)])


def _solved_with(snes, matrix: ShiftedMatrix, sides: list[np.ndarray]) -> np.ndarray:
    """The largest |W⁻¹ v| over the right-hand sides v (size,), for each component."""
    ksp, x = snes.getKSP(), snes.getSolution().duplicate()
    b = x.duplicate()
    failures = matrix.failures, matrix.last_failure
    found = np.zeros(len(sides[0]))
    for side in sides:
        b.setArray(side)
        ksp.solve(b, x)
        np.maximum(found, np.abs(x.array_r), out=found)
    matrix.failures, matrix.last_failure = failures
    b.destroy()
    x.destroy()
    return found
