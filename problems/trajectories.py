"""Reference trajectories by integrators of scipy, which share nothing with stiffml."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp

from problems.checking import compare
from problems.definition import Definition
from problems.spectrum import flat_jacobian

RTOL = 1e-13
RTOL_FIELD = 1e-11
AGREEMENT = 1e-10


class ReferenceError(RuntimeError):
    """A computed trajectory misses a published value."""


def reference_trajectory(
    problem: Definition, times: np.ndarray, method: str | None = None, *, checked: bool = True
) -> np.ndarray:
    """States (len(times), \\*shape), times increasing from the start, by an integrator of scipy.

    Parameters
    ----------
    method : str
        A method of ``solve_ivp``. By default LSODA, to a relative error of about 1e-10; for problems on a
        grid Radau with their sparsity, to about 1e-9.
    checked : bool
        Whether the integration continues to the times of published values, and is checked there. Default
        True. Such times may be far: Robertson's, at 1e11 s, take six times as long as 100 s.

    The algebraic variables of a differential-algebraic problem are eliminated.

    Raises
    ------
    ReferenceError
        If the integration fails, or differs from a reference by more than 1e-10 and the error of that.
    """
    ode = _Differential(problem)
    times = np.asarray(times, dtype=float)
    references = [r for r in problem.references if checked and r.t > times[0]]
    wanted = np.unique(np.concatenate([times, [r.t for r in references]]))
    if method is None:
        method = "LSODA" if problem.kind != "pde" else "Radau"
    states = _integrate(problem, ode, wanted, method)
    for reference in references:
        comparison = compare(problem, reference, states[np.searchsorted(wanted, reference.t)])
        if not comparison.error <= max(AGREEMENT, reference.rtol_valid):
            raise ReferenceError(
                f"{problem.name}: relative difference {comparison.error:.1e} in {comparison.component} "
                f"from {reference.source} at t = {reference.t:g}"
            )
    return states[np.searchsorted(wanted, times)]


def _integrate(problem: Definition, ode: _Differential, wanted: np.ndarray, method: str) -> np.ndarray:
    """From breakpoint to breakpoint; (len(wanted), *shape)."""
    rtol, atol = RTOL, 1e-20 * ode.scale
    extra: dict[str, Any] = {"jac": ode.jacobian}
    if problem.kind == "pde":
        rtol, atol = RTOL_FIELD, RTOL_FIELD * ode.scale
        extra = {"jac_sparsity": None if problem.sparsity is None else problem.sparsity()}
    if method in ("DOP853", "RK45", "RK23"):
        extra = {}
    jumps = [b for b in problem.breakpoints if wanted[0] < b < wanted[-1]]
    state = problem.y0.ravel()[ode.kept]
    found = {wanted[0]: ode.complete(wanted[0], state)}
    for first, last in itertools.pairwise([wanted[0], *jumps, wanted[-1]]):
        ode.stay_within(first, last)
        inside = wanted[(wanted > first) & (wanted <= last)]
        stops = np.unique(np.concatenate([inside, [last]]))
        result = solve_ivp(
            ode.slope, (first, last), state, method=method, t_eval=stops, rtol=rtol, atol=atol, **extra
        )
        if not result.success:
            raise ReferenceError(f"{problem.name}: {result.message}")
        state = result.y[:, -1]
        found.update((t, ode.complete(t, x)) for t, x in zip(stops, result.y.T, strict=True))
    return np.array([found[t] for t in wanted]).reshape(-1, *problem.y0.shape)


class _Differential:
    """The differential equations x' = f(t, (x, z(x)))/m of a problem, with 0 = g(t, (x, z)) solved for z.

    Attributes
    ----------
    kept : ndarray
        (n,) bool, which unknowns are x: all, unless the problem has a singular mass matrix.
    scale : ndarray
        Typical magnitudes of x.
    """

    def __init__(self, problem: Definition) -> None:
        self._mass = np.ones(problem.size) if problem.mass is None else problem.mass
        self.kept = self._mass != 0
        scale = problem.per_component(1.0 if problem.scale is None else problem.scale)
        self.scale = np.broadcast_to(scale, problem.y0.shape).ravel()[self.kept]
        self._func = problem.func()
        self._shape = problem.y0.shape
        self._y = problem.y0.ravel().copy()  # its z is where the next Newton iteration starts
        self._low, self._high = -math.inf, math.inf

    def stay_within(self, first: float, last: float) -> None:
        """Evaluate rhs strictly inside (first, last), since it may jump at the ends."""
        self._low, self._high = math.nextafter(first, last), math.nextafter(last, first)

    def slope(self, t: float, x: np.ndarray) -> np.ndarray:
        return (self._value(t, self.complete(t, x)) / np.where(self.kept, self._mass, 1))[self.kept]

    def jacobian(self, t: float, x: np.ndarray) -> np.ndarray:
        kept, y = self.kept, self.complete(t, x)
        full = self._derivative(t, y)
        through = np.linalg.solve(full[~kept][:, ~kept], full[~kept][:, kept])
        return (full[kept][:, kept] - full[kept][:, ~kept] @ through) / self._mass[kept, None]

    def complete(self, t: float, x: np.ndarray) -> np.ndarray:
        """The whole state (n,) for given x: z is found by Newton's iteration."""
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
            return self._func(*self._tensors(t, y)).reshape(-1).numpy()

    def _derivative(self, t: float, y: np.ndarray) -> np.ndarray:
        return flat_jacobian(self._func, *self._tensors(t, y))

    def _tensors(self, t: float, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        t = min(max(t, self._low), self._high)
        return torch.tensor(t, dtype=torch.float64), torch.from_numpy(np.ascontiguousarray(y)).reshape(
            self._shape
        )
