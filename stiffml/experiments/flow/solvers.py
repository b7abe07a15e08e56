"""The solvers that are compared, with the same method and the same tolerance or the same steps."""

from __future__ import annotations

from functools import partial

import torchdiffeq

import stiffml
from stiffml.experiments.flow.model import Solve

OURS, TAPE, CONTINUOUS = SOLVERS = ("stiffml", "odeint", "odeint_adjoint")
STEP = 0.25
"""Of rk4."""


def solver(name: str, method: str, rtol: float) -> Solve:
    """dopri5 at a relative and absolute tolerance, or rk4 by its steps."""
    if name == OURS:
        if method == "rk4":
            return partial(stiffml.odeint, method=method, steps=stiffml.Fixed(STEP))
        return partial(stiffml.odeint, method=method, rtol=rtol, atol=rtol)
    other = torchdiffeq.odeint if name == TAPE else torchdiffeq.odeint_adjoint
    if method == "rk4":
        return partial(other, method=method, options={"step_size": STEP})
    return partial(other, method=method, rtol=rtol, atol=rtol)
