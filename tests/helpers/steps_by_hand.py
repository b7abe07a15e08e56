"""Steps of every method by their textbook formulas, in a few lines of numpy each.

Nothing of the package comes in but the coefficients of the tableaux, which ``test_tableaux.py`` checks:
neither PETSc, nor the equations that the adjoint is made from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import expm
from torch import Tensor

from stiffml.methods import ARKIMEX, BDF, DIRK, ETD, SDIRK3, Method, Rosenbrock, RungeKutta, Theta
from stiffml.methods.tableaux import ROSENBROCK, Butcher


class NotConvergedError(ArithmeticError):
    """Newton's iteration for a stage did not."""


def extrapolation_degree(method: Method) -> int:
    """Of the polynomial in time that f is extrapolated with, for methods with stages outside their steps: the
    least odd one that keeps the order, when it is used in the first and last steps only. Otherwise 0."""
    return 0 if method.within_step else max(q for q in (1, 3, 5, 7) if q <= method.order)


@dataclass
class System:
    """M u' = f(t, u) + g(t, u) in double precision; g, which is explicit, may be None.

    ``between``: the times between which f and g exist. Beyond them they are extrapolated in time with a
    polynomial of ``degree``; with degree 0 they stay what they are at the end.
    """

    f: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor, Tensor], Tensor] | None
    mass: np.ndarray
    between: tuple[float, float] = (-math.inf, math.inf)
    degree: int = 0

    def slope(self, t: float, u: np.ndarray, explicit: bool = False) -> np.ndarray:
        func = self.g if explicit else self.f
        assert func is not None
        with torch.no_grad():
            return sum(w * func(time, torch.from_numpy(u)).numpy() for w, time in self._times(t))

    def jacobian(self, t: float, u: np.ndarray) -> np.ndarray:
        """From one call with a row for every component; f takes (…, size)."""
        rows = torch.from_numpy(u).expand(len(u), len(u)).clone().requires_grad_()
        found = sum(w * self.f(time, rows) for w, time in self._times(t))
        return torch.autograd.grad(found, rows, torch.eye(len(u), dtype=rows.dtype))[0].numpy()

    def wrt_t(self, t: float, u: np.ndarray) -> np.ndarray:
        """At the start of a step, which lies inside."""
        state = torch.from_numpy(u)
        ((_, time),) = self._times(min(max(t, self.between[0]), self.between[1]))
        return torch.autograd.functional.jacobian(lambda s: self.f(s, state), time).numpy()

    def _times(self, t: float) -> list[tuple[float, Tensor]]:
        """Weights and times inside, which f at a time is the sum of.

        The polynomial takes the values of f at the end and at ``degree`` times further in, each as far from
        the next as t is from the end: Lagrange's formula. Where there is no room for them, t is drawn nearer.
        """
        low, high = self.between
        end = min(max(t, low), high)
        if t == end or self.degree == 0:
            return [(1.0, torch.tensor(end, dtype=torch.float64))]
        beyond, room = t - end, (high - low) / self.degree
        beyond /= (1 + (beyond / room) ** 16) ** (1 / 16)
        nodes = [-float(j) for j in range(self.degree + 1)]
        weights = [math.prod((1 - y) / (x - y) for y in nodes if y != x) for x in nodes]
        times = [min(max(end + x * beyond, low), high) for x in nodes]
        return [(w, torch.tensor(s, dtype=torch.float64)) for w, s in zip(weights, times, strict=True)]

    def implicit(self, t: float, scale: float, weight: float, known: np.ndarray, guess: np.ndarray):
        """The u of weight·M u − scale·f(t, u) = known, by Newton's iteration to rounding."""
        u, before = guess.copy(), math.inf
        for _ in range(60):
            residual = weight * (self.mass @ u) - scale * self.slope(t, u) - known
            change = np.linalg.solve(weight * self.mass - scale * self.jacobian(t, u), residual)
            u = u - change
            size = np.abs(change).max() / (1e-3 + np.abs(u).max())
            if size < 1e-15 or (size < 1e-11 and size >= before):
                return u
            before = size
        raise NotConvergedError(f"at t = {t}")


def steps_from(method: Method, system: System, times: np.ndarray, u0: np.ndarray) -> np.ndarray:
    """(len(times), size) the states that the steps between ``times`` lead to, from u0 at times[0]."""
    if isinstance(method, BDF):
        return _bdf(method.order, system, times, u0)
    states = [u0]
    for begin, end in itertools.pairwise(times):
        states.append(_one_step(method, system, float(begin), float(end - begin), states[-1]))
    return np.array(states)


def _one_step(method: Method, system: System, t: float, h: float, u: np.ndarray) -> np.ndarray:
    if isinstance(method, Theta):
        known = system.mass @ u
        if method.theta < 1:
            known = known + h * (1 - method.theta) * system.slope(t, u)
        return system.implicit(t + h, h * method.theta, 1.0, known, u)
    if isinstance(method, Rosenbrock):
        return _rosenbrock(method.name, system, t, h, u)
    if isinstance(method, RungeKutta):
        return _runge_kutta(method.tableau.explicit, None, system, t, h, u)
    if isinstance(method, ARKIMEX | DIRK | SDIRK3):
        explicit = method.table.explicit if system.g is not None else None
        return _runge_kutta(method.table.implicit, explicit, system, t, h, u)
    if isinstance(method, ETD):
        return _exponential(method.order, system, t, h, u)
    raise NotImplementedError(f"no formula by hand for {method}; add one to steps_by_hand.py")


def _runge_kutta(
    of_f: Butcher | None, of_g: Butcher | None, system: System, t: float, h: float, u: np.ndarray
) -> np.ndarray:
    """Hairer, Nørsett & Wanner, Solving ODEs I, eq. II.7.7, with an explicit part beside it."""
    assert of_f is not None
    stages: list[np.ndarray] = []
    slopes: list[np.ndarray] = []
    explicit: list[np.ndarray] = []
    for i in range(of_f.stages):
        known = system.mass @ u
        for j in range(i):
            known = known + h * of_f.a[i, j] * slopes[j]
            if of_g is not None:
                known = known + h * of_g.a[i, j] * explicit[j]
        at = t + of_f.c[i] * h
        if of_f.a[i, i] != 0:
            stages.append(system.implicit(at, h * of_f.a[i, i], 1.0, known, u))
        else:
            stages.append(u if i == 0 else np.linalg.solve(system.mass, known))
        slopes.append(system.slope(at, stages[i]))
        if of_g is not None:
            explicit.append(system.slope(t + of_g.c[i] * h, stages[i], explicit=True))
    if of_f.stiffly_accurate and (of_g is None or of_g.stiffly_accurate):
        return stages[-1]
    change = h * sum(b * slope for b, slope in zip(of_f.b, slopes, strict=True))
    if of_g is not None:
        change = change + h * sum(b * slope for b, slope in zip(of_g.b, explicit, strict=True))
    return u + np.linalg.solve(system.mass, change)


def _rosenbrock(name: str, system: System, t: float, h: float, u: np.ndarray) -> np.ndarray:
    """Hairer & Wanner, Solving ODEs II, eq. IV.7.4 for problems that depend on time, with a mass matrix."""
    table = ROSENBROCK[name]
    jacobian, wrt_t = system.jacobian(t, u), system.wrt_t(t, u)
    k: list[np.ndarray] = []
    for i in range(table.stages):
        state = u + sum((table.a[i, j] * k[j] for j in range(i)), np.zeros_like(u))
        inner = sum((table.gamma[i, j] * k[j] for j in range(i)), np.zeros_like(u))
        known = h * system.slope(t + table.a_sum[i] * h, state)
        known = known + h * jacobian @ inner + table.gamma_sum[i] * h**2 * wrt_t
        k.append(np.linalg.solve(system.mass - h * table.gamma[i, i] * jacobian, known))
    return u + sum(b * slope for b, slope in zip(table.b, k, strict=True))


def phi_by_expm(z: np.ndarray, highest: int) -> list[np.ndarray]:
    """φ₀(z) … from one exponential: Sidje, ACM Trans. Math. Software 24 (1998), theorem 1."""
    n = len(z)
    whole = np.zeros(((highest + 1) * n, (highest + 1) * n))
    whole[:n, :n] = z
    whole[: highest * n, n:] += np.eye(highest * n)
    return [expm(whole)[:n, k * n : (k + 1) * n] for k in range(highest + 1)]


def _exponential(order: int, system: System, t: float, h: float, u: np.ndarray) -> np.ndarray:
    """Cox & Matthews, J. Comput. Phys. 176 (2002), eqs. 20 to 25; what f has besides J u is explicit."""
    jacobian = system.jacobian(t, u)

    def rest(s: float, x: np.ndarray) -> np.ndarray:
        return system.slope(s, x) - jacobian @ x + system.slope(s, x, explicit=True)

    e, one, two, three = phi_by_expm(h * jacobian, 3)
    first = rest(t, u)
    if order == 2:
        a = e @ u + h * one @ first
        return a + h * two @ (rest(t + h, a) - first)
    half, one_half, _ = phi_by_expm(h / 2 * jacobian, 2)
    a = half @ u + h / 2 * one_half @ first
    second = rest(t + h / 2, a)
    b = e @ u + h * one @ (2 * second - first)
    third = rest(t + h, b)
    weights = (one - 3 * two + 4 * three, 4 * two - 8 * three, 4 * three - two)
    return e @ u + h * sum(w @ g for w, g in zip(weights, (first, second, third), strict=True))


def _bdf(order: int, system: System, times: np.ndarray, u0: np.ndarray) -> np.ndarray:
    """Hairer, Nørsett & Wanner, Solving ODEs I, eq. III.5.7, on variable steps.

    A half step of backward Euler comes first where the order is above 1. It counts as the oldest state.
    """
    states, history = [u0], [(float(times[0]), u0)]
    if order > 1:
        half = float(times[1] - times[0]) / 2
        middle = float(times[0]) + half
        u = system.implicit(middle, half, 1.0, system.mass @ u0, u0)
        history.insert(0, (middle, u))
    for end in times[1:]:
        nearest = history[-order:]
        h = float(end) - nearest[-1][0]
        # Σ wᵢ p(Tᵢ) = h p'(t) for all polynomials p of this degree.
        scaled = np.array([(T - float(end)) / h for T, _ in nearest] + [0.0])
        powers = np.arange(len(scaled))
        weights = np.linalg.solve(scaled[None, :] ** powers[:, None], (powers == 1).astype(float))
        past = sum(w * u for w, (_, u) in zip(weights[:-1], nearest, strict=True))
        u = system.implicit(float(end), h, float(weights[-1]), -system.mass @ past, nearest[-1][1])
        history.append((float(end), u))
        states.append(u)
    return np.array(states)
