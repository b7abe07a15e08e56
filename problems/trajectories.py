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

    Where the problem has published values, the integration goes on to them and is checked. Of a
    differential-algebraic problem the algebraic variables are eliminated.

    Raises
    ------
    ReferenceError
        If a published value is missed by more than 1e-10.
    """
    ode = _Differential(problem)
    scale = np.abs(problem.y0).max() if problem.scale is None else problem.scale
    scale = np.broadcast_to(scale, len(problem.y0))[ode.kept]
    times = np.asarray(times, dtype=float)
    wanted = np.unique(np.concatenate([times, [reference.t for reference in problem.references]]))
    result = solve_ivp(
        ode.slope,
        (times[0], wanted[-1]),
        np.asarray(problem.y0)[ode.kept],
        method="LSODA",
        t_eval=wanted,
        rtol=RTOL,
        atol=1e-20 * scale,
        jac=ode.jacobian,
    )
    if not result.success:
        raise ReferenceError(f"{problem.name}: {result.message}")
    states = np.array([ode.complete(t, x) for t, x in zip(wanted, result.y.T, strict=True)])
    for reference in problem.references:
        _compare(problem, reference, states[np.searchsorted(wanted, reference.t)])
    return states[np.searchsorted(wanted, times)]


class _Differential:
    """The differential equations x' = f(t, (x, z(x)))/m of a problem, with 0 = g(t, (x, z)) solved for z.

    Attributes
    ----------
    kept : ndarray
        (n,) bool, which components are x: all, unless the problem has a singular mass matrix.
    """

    def __init__(self, problem: Problem) -> None:
        mass = problem.mass_matrix()
        self._mass = np.ones(len(problem.y0)) if mass is None else mass.numpy()
        self.kept = self._mass != 0
        self._func = problem.func()
        self._y = np.array(problem.y0, dtype=float)  # the next Newton iteration starts from its z

    def slope(self, t: float, x: np.ndarray) -> np.ndarray:
        return (self._value(t, self.complete(t, x)) / np.where(self.kept, self._mass, 1))[self.kept]

    def jacobian(self, t: float, x: np.ndarray) -> np.ndarray:
        kept, y = self.kept, self.complete(t, x)
        full = self._derivative(t, y)
        through = np.linalg.solve(full[~kept][:, ~kept], full[~kept][:, kept])
        return (full[kept][:, kept] - full[kept][:, ~kept] @ through) / self._mass[kept, None]

    def complete(self, t: float, x: np.ndarray) -> np.ndarray:
        """(n,) x with the z that belongs to it, by Newton's iteration."""
        kept, y = self.kept, self._y.copy()
        y[kept] = x
        if not kept.all():
            for _ in range(20):
                update = np.linalg.solve(self._derivative(t, y)[~kept][:, ~kept], self._value(t, y)[~kept])
                y[~kept] -= update
                if np.all(np.abs(update) <= 1e-15 * np.abs(y[~kept])):
                    break
        self._y = y
        return y

    def _value(self, t: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._func(torch.tensor(t), torch.from_numpy(y)).numpy()

    def _derivative(self, t: float, y: np.ndarray) -> np.ndarray:
        derivative = torch.func.jacrev(self._func, argnums=1)
        return derivative(torch.tensor(t), torch.from_numpy(y)).detach().numpy()


def _compare(problem: Problem, reference: Reference, y: np.ndarray) -> None:
    mask = np.ones(len(y), dtype=bool) if reference.mask is None else reference.mask
    error = np.abs(y / reference.y - 1)[mask].max()
    if not error <= 1e-10:
        raise ReferenceError(
            f"{problem.name}: relative difference {error:.1e} from {reference.source} at t = {reference.t:g}"
        )
