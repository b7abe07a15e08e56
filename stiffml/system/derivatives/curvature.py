"""How the Jacobian in a Rosenbrock step changes with the state: the second-derivative term of its adjoint.

A Rosenbrock row contains D = J(u₀) y + τ ∂f/∂s(u₀), the derivative of f at the old state in the direction
(y, τ). Its own derivative contributes to dL/du₀, dL/dθ and dL/ds₀.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.derivatives.products import added


class Curvature:
    """∂D/∂u₀ for the Rosenbrock rows of a block of steps.

    Parameters
    ----------
    dynamics : Dynamics
    s, u : Tensor
        (K,), (K, size) the old states.
    directions : dict of int to ndarray
        For every Rosenbrock row its y, (K, size).
    tau : ndarray
        (K, rows)

    Attributes
    ----------
    blocks : dict of int to ndarray, or None
        For every Rosenbrock row ∂D/∂u₀, (K, samples, width, width), where these are small.
    """

    def __init__(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, directions: dict[int, np.ndarray], tau: np.ndarray
    ) -> None:
        self._dynamics, self._s, self._u = dynamics, s, u
        self._directions, self._tau = directions, tau
        self.blocks: dict[int, np.ndarray] | None = None
        self._large = dynamics.is_large
        narrow = dynamics.layout.width <= NARROW and not dynamics.space.is_distributed
        if narrow and not self._large:  # as one matrix, for all steps at once
            self.blocks = {
                row: dynamics.directional_blocks(
                    s, u, torch.from_numpy(y), torch.from_numpy(tau[:, row])
                ).numpy()
                for row, y in directions.items()
            }

    def apply_transpose(self, k: int, multipliers: dict[int, np.ndarray]) -> np.ndarray:
        """Σ over rows of (∂D/∂u₀)ᵀ μ for step k."""
        if self.blocks is not None:
            layout = self._dynamics.layout
            rows = sum(
                mu.reshape(layout.samples, 1, layout.width) @ self.blocks[row][k]
                for row, mu in multipliers.items()
            )
            return np.reshape(rows, -1)
        parts = self._parts({row: mu[None] for row, mu in multipliers.items()})
        return sum(self._gradients(np.array([k]), part, False)[0][0].numpy() for part in parts)

    def gradients(self, multipliers: np.ndarray) -> tuple[list[Tensor | None], np.ndarray, np.ndarray]:
        """dL/dθ, dL/ds₀ (K,) and dL/dτ (K, rows) from the multipliers (rows, K, size) of all steps."""
        parts = self._parts({row: multipliers[row] for row in self._directions})
        steps = np.arange(len(self._s))
        found = [self._gradients(steps, part, True)[1:] for part in parts]
        parameters, times, taus = zip(*found, strict=True)
        return (
            [added(parts) for parts in zip(*parameters, strict=True)],
            sum(times).numpy(),
            sum(taus).numpy(),
        )

    def _parts(self, multipliers: dict[int, np.ndarray]) -> list[dict[int, np.ndarray]]:
        """The rows that share one double backward pass: all, or for a large state each by itself."""
        if not self._large:
            return [multipliers]
        return [{row: mu} for row, mu in multipliers.items()]

    def _gradients(self, steps: np.ndarray, multipliers: dict[int, np.ndarray], others: bool):
        """One double backward pass through the given rows, at the old states of all steps at once."""
        rows = list(multipliers)
        count = len(rows)
        s, u = self._s[steps].repeat(count), self._u[steps].repeat(count, 1)
        y = torch.from_numpy(np.concatenate([self._directions[row][steps] for row in rows]))
        tau = torch.from_numpy(np.concatenate([self._tau[steps, row] for row in rows]))
        mu = torch.from_numpy(np.concatenate([multipliers[row] for row in rows]))
        wrt_u, parameters, wrt_s, wrt_tau = self._dynamics.directional_vjp(s, u, y, tau, mu, others)
        all_tau = torch.zeros(len(steps), self._tau.shape[1], dtype=tau.dtype)
        all_tau[:, rows] = wrt_tau.view(count, -1).T
        return wrt_u.view(count, len(steps), -1).sum(0), parameters, wrt_s.view(count, -1).sum(0), all_tau
