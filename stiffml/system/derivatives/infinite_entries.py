"""Where the derivative of the user's function is not finite."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.finite import first_not_finite, is_finite

SMALL = 1_000_000
"""Numbers in the Jacobian blocks up to which these are searched; beyond, products with J are."""


def infinite_derivative(dynamics: Dynamics, s: float, u: np.ndarray) -> tuple[int, int] | None:
    """Row and column (flat components) of an entry of ∂f/∂u that is not finite, if f is finite at the state.

    In reverse mode an infinite entry turns its whole column into NaN, since 0 · inf is NaN. So the row is
    looked for with torch's forward mode, where func allows that.
    """
    if not is_finite(dynamics.evaluate_anew(s, u)):
        return None
    found = _in_blocks(dynamics, s, u) if u.size * dynamics.layout.width <= SMALL else None
    if found is None:
        found = _in_products(dynamics, s, u)
    if found is None:
        return None
    row, column = found
    along = _forward_product(dynamics, s, u, column)
    first = None if along is None else first_not_finite(along)
    return (row if first is None else first), column


def _in_blocks(dynamics: Dynamics, s: float, u: np.ndarray) -> tuple[int, int] | None:
    width = dynamics.layout.width
    at = first_not_finite(dynamics.jacobian_at(s, u.copy()))
    if at is None:
        return None
    sample, entry = divmod(at, width * width)
    row, column = divmod(entry, width)
    return sample * width + row, sample * width + column


def _in_products(dynamics: Dynamics, s: float, u: np.ndarray) -> tuple[int, int] | None:
    time, state = torch.tensor([s], dtype=torch.float64), torch.from_numpy(u.copy())[None]
    column = first_not_finite(dynamics.state_vjp(time, state, torch.ones_like(state))[0].numpy())
    if column is None:
        return None
    row = first_not_finite(dynamics.state_jvp(time, state, torch.ones_like(state))[0].numpy())
    return (column if row is None else row), column


def _forward_product(dynamics: Dynamics, s: float, u: np.ndarray, column: int) -> np.ndarray | None:
    """One column of ∂f/∂u by forward mode; None where func does not allow it."""
    layout = dynamics.layout
    t = torch.tensor(dynamics.direction * s, dtype=layout.dtype, device=layout.device)

    def flat(y: Tensor) -> Tensor:
        return layout.flatten(dynamics.func(t, layout.unflatten(y)))

    state = torch.from_numpy(u.copy()).to(layout.device, layout.dtype)
    direction = torch.zeros_like(state)
    direction[column] = 1
    try:
        return torch.func.jvp(flat, (state,), (direction,))[1].detach().double().cpu().numpy()
    except Exception:  # the message does without it
        return None


def describe_derivative(dynamics: Dynamics, s: float, where: tuple[int, int]) -> str:
    """A sentence that says which entry of ∂f/∂y is not finite."""
    row, column = (list(dynamics.layout.component(index)) for index in where)
    return (
        f"func is finite at t = {dynamics.direction * s:.10g}, but its derivative ∂f/∂y there is infinite or "
        f"NaN, in row {row} and column {column}: a root or norm of zero, say, has none"
    )
