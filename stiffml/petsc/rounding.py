"""What rounding of the equations makes of Newton's updates."""

from __future__ import annotations

import numpy as np

from stiffml.petsc.formulation import Formulation
from stiffml.petsc.matrix import ShiftedMatrix
from stiffml.petsc.sharing import shared


def rounding_of_updates(
    snes, problem: Formulation, matrix: ShiftedMatrix, linearised: tuple[float, float], shares_vectors: bool
) -> np.ndarray:
    """(size,) what rounding of the equations makes of an update: about |W⁻¹| times that of a row.

    The rounding of a row is seen by moving the state by its own, and its sum over the columns of W⁻¹ by
    giving the rows random signs. For stalled iterations only: it takes a few calls of ``func``.
    ``linearised``: time and shift of W.
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
    """The largest |W⁻¹ v|, by component."""
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
