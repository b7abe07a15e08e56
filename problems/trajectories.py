"""Reference trajectories, computed by an integrator that stiffml has no part in."""

from __future__ import annotations

import numpy as np
import torch
from scipy.integrate import solve_ivp

from problems.problem import Problem, Reference

RTOL = 1e-13


class ReferenceError(RuntimeError):
    """A computed trajectory misses a published value."""


def reference_trajectory(problem: Problem, times: np.ndarray) -> np.ndarray:
    """States (len(times), n) to a relative error of about 1e-10, by LSODA.

    Where the problem has published values, the integration goes on to them and is checked.

    Raises
    ------
    ReferenceError
        If a published value is missed by more than 1e-10.
    """
    func = problem.func()
    scale = np.abs(problem.y0).max() if problem.scale is None else problem.scale

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return func(torch.tensor(t), torch.from_numpy(y)).numpy()

    def jacobian(t: float, y: np.ndarray) -> np.ndarray:
        return torch.func.jacrev(func, argnums=1)(torch.tensor(t), torch.from_numpy(y)).detach().numpy()

    times = np.asarray(times, dtype=float)
    wanted = np.unique(np.concatenate([times, [reference.t for reference in problem.references]]))
    result = solve_ivp(
        rhs,
        (times[0], wanted[-1]),
        problem.y0,
        method="LSODA",
        t_eval=wanted,
        rtol=RTOL,
        atol=1e-20 * scale,
        jac=jacobian,
    )
    if not result.success:
        raise ReferenceError(f"{problem.name}: {result.message}")
    states = result.y.T
    for reference in problem.references:
        _compare(problem, reference, states[np.searchsorted(wanted, reference.t)])
    return states[np.searchsorted(wanted, times)]


def _compare(problem: Problem, reference: Reference, y: np.ndarray) -> None:
    mask = np.ones(len(y), dtype=bool) if reference.mask is None else reference.mask
    error = np.abs(y / reference.y - 1)[mask].max()
    if not error <= 1e-10:
        raise ReferenceError(
            f"{problem.name}: relative difference {error:.1e} from {reference.source} at t = {reference.t:g}"
        )
