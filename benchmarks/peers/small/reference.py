"""Reference solutions and gradients of the small systems, by a code that is none of those compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from systems import System

MOVES = tuple(10 ** (-k / 2) for k in range(6, 13))
"""By how much inputs may be moved, relatively. For smooth solutions differences of fourth order are off by
1e-8 at the largest; where the solution has fronts, whose time depends on the inputs, it is far too large."""


@dataclass(frozen=True)
class Reference:
    """States at the outputs (outputs, n), and the gradient of the loss by y0 and p, (n + parameters,).

    The loss is the mean of the squares of the states at the outputs, each component divided by ``scale``
    (n,), the largest size it has there. ``sizes`` (n + parameters,) are those of the inputs, and of a y0
    that is zero its threshold. ``uncertain``: by how much two differences of the largest entry of the
    gradient differ, relatively.
    """

    states: np.ndarray
    scale: np.ndarray
    gradient: np.ndarray
    sizes: np.ndarray
    uncertain: float

    def error(self, states: np.ndarray) -> float:
        """The largest error of any component at any output, divided by its scale."""
        return float(np.max(np.abs(states - self.states) / self.scale))

    def gradient_error(self, gradient: np.ndarray) -> float:
        """The largest error of an entry, each times the size of its input, divided by the largest of them."""
        wanted = self.gradient * self.sizes
        return float(np.max(np.abs(gradient * self.sizes - wanted)) / np.max(np.abs(wanted)))


def reference_of(system: System) -> Reference:
    """By scipy's Radau at a tight tolerance; the gradient by differences."""
    n = len(system.y0)
    inputs = np.concatenate([system.y0, system.p])
    sizes = np.where(inputs != 0, np.abs(inputs), np.concatenate([system.threshold, np.ones(len(system.p))]))

    def states_of(moved: np.ndarray) -> np.ndarray:
        y0, p = moved[:n], moved[n:]
        solution = solve_ivp(
            lambda t, y: system.slopes(t, y, p),
            (system.t[0], system.t[-1]),
            y0,
            method="Radau",
            t_eval=system.t,
            rtol=system.reference_rtol,
            atol=system.reference_rtol * system.threshold,
            jac=lambda t, y: _jacobian(system, t, y, p),
        )
        if not solution.success:
            raise SystemExit(f"{system.name}: no reference solution: {solution.message}")
        return solution.y.T

    states = states_of(inputs)
    scale = np.abs(states).max(axis=0)
    scale = np.where(scale > 0, scale, 1.0)  # argon is not in the mixture

    def loss(i: int, by: float) -> float:
        moved = inputs.copy()
        moved[i] += by * sizes[i]
        return float(np.mean((states_of(moved) / scale) ** 2))

    def derivative(i: int, move: float) -> float:
        """By an input, times its size."""
        near, far = (loss(i, by * move) - loss(i, -by * move) for by in (1, 2))
        return (8 * near - far) / (12 * move)

    rough = [derivative(i, MOVES[len(MOVES) // 2]) for i in range(len(inputs))]
    leading = int(np.argmax(np.abs(rough)))
    # Truncation makes it worse on one side, rounding and tolerance on the other.
    tried = [derivative(leading, move) for move in MOVES]
    best = int(np.argmin(np.abs(np.diff(tried))))
    if best != len(MOVES) // 2:
        rough = [derivative(i, MOVES[best]) for i in range(len(inputs))]
    uncertain = abs(tried[best + 1] - tried[best]) / abs(tried[best])
    return Reference(states, scale, np.array(rough) / sizes, sizes, uncertain)


def _jacobian(system: System, t: float, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """By complex steps, which are exact here."""
    columns = []
    for i in range(len(y)):
        moved = y.astype(complex)
        moved[i] += 1e-30j
        columns.append(np.imag(system.slopes(t, moved, p)) / 1e-30)
    return np.array(columns).T
