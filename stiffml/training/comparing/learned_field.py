"""How stiff a learned right-hand side is along a solution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

WIDEST, STATES = 300, 32
"""Components up to which eigenvalues are found; states at which."""

REACH = 3.3
"""The interval of stability of dopri5 on the negative real axis."""


def stiffness_along(
    func: Callable[[Tensor, Tensor], Tensor],
    times: np.ndarray,
    states: np.ndarray,
    mass: Tensor | None = None,
) -> tuple[float, float]:
    """The fastest decay times the span, and how many steps stability asks of dopri5 along the solution.

    From the eigenvalues of ∂f/∂y, or of the pencil with the mass matrix, at up to 32 states. NaN for more
    than 300 components, or where a Jacobian is not finite.

    Parameters
    ----------
    func : callable
        func(t, y) -> dy/dt, y of shape (n,).
    times, states : ndarray
        (m,) and (m, n).
    mass : Tensor, optional
        (n, n) or the diagonal (n,).
    """
    if states.shape[1] > WIDEST or len(times) < 2:
        return float("nan"), float("nan")
    chosen = np.unique(np.linspace(0, len(times) - 1, STATES).round().astype(int))
    matrix = None if mass is None else mass.detach().double().numpy()
    if matrix is not None and matrix.ndim == 1:
        matrix = np.diag(matrix)
    fastest, size = [], []
    for k in chosen:
        t, y = torch.tensor(times[k]), torch.from_numpy(states[k].copy())
        found = torch.autograd.functional.jacobian(lambda y, t=t: func(t, y), y).numpy()
        if not np.isfinite(found).all():
            return float("nan"), float("nan")
        values = scipy.linalg.eigvals(found, matrix)
        decaying = values[np.isfinite(values) & (values.real < 0)]
        fastest.append(float(-decaying.real.min(initial=0.0)))
        size.append(float(np.abs(decaying).max(initial=0.0)))
    at = times[chosen]
    steps = float((np.diff(at) * (np.array(size)[1:] + np.array(size)[:-1]) / 2).sum()) / REACH
    return max(fastest) * float(times[-1] - times[0]), steps
