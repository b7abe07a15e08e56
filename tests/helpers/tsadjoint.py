"""What the comparisons with PETSc's own discrete adjoint, TSAdjoint, share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import stiffml  # noqa: F401 - before petsc4py: it initialises PETSc

# isort: split
from petsc4py import PETSc

AGREEMENT = 1e-10
"""Relative, in the 2-norm. Both sides differentiate the same discrete equations, so only rounding and
what Newton leaves may differ: 1e-15 is seen with explicit methods, 2e-14 with implicit ones. One Jacobian
taken at the wrong end of each step moves these gradients by 2e-3."""
SAME_STATE = 1e-11
"""Relative; gradients are compared along the same trajectory or not at all."""
NEWTON_RESIDUAL = 1e-12
"""Where PETSc's Newton stops: the norm of y' − f. Rounding y alone moves it by ε|y|/h, some 1e-13, so much
less cannot be met; it leaves about h times as much, 1e-14, in the state of each step."""

STEPS, END = 64, 0.5
H = END / STEPS  # a power of two: all step times are exact on both sides
Y0 = np.array([2.0, 0.0])
C = np.array([1.0, -0.7])  # the loss is C·y(END)


class Gradients(NamedTuple):
    """With the final state they were taken at."""

    final: np.ndarray
    wrt_y0: np.ndarray
    wrt_p: np.ndarray


def fill(mat: PETSc.Mat, values: np.ndarray) -> None:
    mat.setValues(range(values.shape[0]), range(values.shape[1]), values)
    mat.assemble()


def vector(values: np.ndarray) -> PETSc.Vec:
    return PETSc.Vec().createWithArray(values.copy(), comm=PETSc.COMM_SELF)


def matrix(columns: int) -> PETSc.Mat:
    return PETSc.Mat().createDense((Y0.size, columns), comm=PETSc.COMM_SELF).setUp()
