"""How the Jacobian in a Rosenbrock step changes with the state: the second-derivative term of its adjoint.

A Rosenbrock row contains D = J(u₀) y + τ ∂f/∂s(u₀), the derivative of f at the old state in the direction
(y, τ). Its own derivative contributes to dL/du₀, dL/dθ and dL/ds₀, and to the tangent of y. Second
derivatives of L contain the second derivative of D, a third one of f.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW, WORTH_REPLICATING
from stiffml.system.derivatives.products import Derivative, added, derivative


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
    dynamics : Dynamics
    s, u : Tensor
    blocks : dict of int to ndarray, or None
        For every Rosenbrock row ∂D/∂u₀, (K, samples, width, width), where these are small.
    """

    def __init__(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, directions: dict[int, np.ndarray], tau: np.ndarray
    ) -> None:
        self.dynamics, self.s, self.u = dynamics, s, u
        self._directions, self._tau = directions, tau
        self.blocks: dict[int, np.ndarray] | None = None
        self._large = dynamics.is_large
        narrow = dynamics.layout.width <= NARROW and not dynamics.space.is_distributed
        if narrow and not self._large:  # as one matrix, for all steps at once
            self.blocks = {}
            # All rows in one call where calls cost more than arithmetic.
            rows, width = list(directions), dynamics.layout.width
            together = len(rows) if u.numel() * width * len(rows) <= WORTH_REPLICATING else 1
            for begin in range(0, len(rows), together):
                self.blocks |= self._blocks_of(rows[begin : begin + together])

    def _blocks_of(self, rows: list[int]) -> dict[int, np.ndarray]:
        count = len(rows)
        y = torch.from_numpy(np.concatenate([self._directions[row] for row in rows]))
        tau = torch.from_numpy(np.concatenate([self._tau[:, row] for row in rows]))
        found = self.dynamics.directional_blocks(self.s.repeat(count), self.u.repeat(count, 1), y, tau)
        return dict(zip(rows, found.numpy().reshape(count, len(self.s), *found.shape[1:]), strict=True))

    @property
    def rows(self) -> list[int]:
        """The Rosenbrock rows."""
        return list(self._directions)

    def direction(self, row: int) -> tuple[Tensor, Tensor]:
        """y (K, size) and τ (K,) of a row."""
        return torch.from_numpy(self._directions[row]), torch.from_numpy(self._tau[:, row])

    def apply_transpose(self, k: int, multipliers: dict[int, np.ndarray]) -> np.ndarray:
        """Σ over rows of (∂D/∂u₀)ᵀ μ for step k."""
        if self.blocks is not None:
            layout = self.dynamics.layout
            rows = sum(
                mu.reshape(layout.samples, 1, layout.width) @ self.blocks[row][k]
                for row, mu in multipliers.items()
            )
            return np.reshape(rows, -1)
        parts = self._parts({row: mu[None] for row, mu in multipliers.items()})
        return sum(self._gradients(np.array([k]), part, False)[0][0].numpy() for part in parts)

    def apply(self, k: int, tangents: np.ndarray) -> dict[int, np.ndarray]:
        """∂D/∂u₀ u̇₀ (P, size) for each row in step k, from u̇₀ (P, size)."""
        if self.blocks is not None:
            layout = self.dynamics.layout
            columns = tangents.reshape(-1, layout.samples, layout.width, 1)
            return {row: (blocks[k] @ columns).reshape(tangents.shape) for row, blocks in self.blocks.items()}
        steps = np.array([k])
        many = [tangents] if not self._large else np.split(tangents, len(tangents))
        return {
            row: np.concatenate([self._moved_states(row, steps.repeat(len(part)), part) for part in many])
            for row in self._directions
        }

    def through_parameters(
        self, directions: Sequence[Sequence[Tensor | None]], rows: Sequence[int] | None = None
    ) -> dict[int, np.ndarray]:
        """∂D/∂θ θ̇ (P, K, size) of some rows, by default all, along P directions given by parameter."""
        found, steps = {}, np.arange(len(self.s))
        for row in self._directions if rows is None else rows:
            with torch.enable_grad():
                along = Derivative(self._bracket(row, steps)[2], self.dynamics.parameters)
                found[row] = np.stack([along(direction).numpy() for direction in directions])
        return found

    def second_gradients(
        self,
        multipliers: np.ndarray,
        tangents: np.ndarray,
        moved: Mapping[int, np.ndarray],
        direction: Sequence[Tensor | None],
    ) -> tuple[np.ndarray, dict[int, np.ndarray], list[Tensor | None]]:
        """The derivatives of the gradient Σ ∂⟨μ, D⟩ along a direction, with the multipliers μ held constant.

        Parameters
        ----------
        multipliers : ndarray
            (rows, K, size) the μ of all rows.
        tangents : ndarray
            (K, size) u̇₀ of the old states.
        moved : mapping of int to ndarray
            For every Rosenbrock row ẏ, (K, size).
        direction : sequence of Tensor or None
            θ̇ by parameter.

        Returns
        -------
        Those of the gradients by u₀ (K, size), by the y of each row (K, size), and by θ.
        """
        along_u, by_row = np.zeros(self.u.shape), {}
        found: list[Sequence[Tensor | None]] = []
        steps, parameters = np.arange(len(self.s)), self.dynamics.parameters
        for row, along_y in moved.items():
            with torch.enable_grad():
                u, y, bracket = self._bracket(row, steps)
                given = [(u, torch.from_numpy(tangents)), (y, torch.from_numpy(along_y))]
                given += [(p, v) for p, v in zip(parameters, direction, strict=True) if v is not None]
                change = (
                    derivative(bracket, *zip(*given, strict=True)) * torch.from_numpy(multipliers[row])
                ).sum()
                by_row[row] = np.zeros(self.u.shape)
                if not change.requires_grad:
                    continue
                wrt_u, wrt_y, *rest = torch.autograd.grad(change, [u, y, *parameters], allow_unused=True)
            found.append(rest)
            along_u += 0.0 if wrt_u is None else wrt_u.numpy()
            by_row[row] += 0.0 if wrt_y is None else wrt_y.numpy()
        none: list[Tensor | None] = [None] * len(parameters)
        return along_u, by_row, [added(parts) for parts in zip(*found, strict=True)] if found else none

    def _bracket(self, row: int, steps: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """u₀ and y as leaves, and D of one row with its graph, in some steps, all (N, size)."""
        u = self.u[steps].detach().clone().requires_grad_()
        s = self.s[steps].detach().clone().requires_grad_()
        y = torch.from_numpy(self._directions[row][steps]).clone().requires_grad_()
        tau = torch.from_numpy(self._tau[steps, row])
        return u, y, derivative(self.dynamics.evaluate_differentiably(s, u), [u, s], [y, tau])

    def _moved_states(self, row: int, steps: np.ndarray, tangents: np.ndarray) -> np.ndarray:
        """∂D/∂u₀ u̇₀ of one row in some steps, (N, size)."""
        with torch.enable_grad():
            u, _, bracket = self._bracket(row, steps)
            moved = torch.from_numpy(np.ascontiguousarray(tangents))
            return derivative(bracket, [u], [moved]).detach().numpy()

    def gradients(self, multipliers: np.ndarray) -> tuple[list[Tensor | None], np.ndarray, np.ndarray]:
        """dL/dθ, dL/ds₀ (K,) and dL/dτ (K, rows) from the multipliers (rows, K, size) of all steps."""
        parts = self._parts({row: multipliers[row] for row in self._directions})
        steps = np.arange(len(self.s))
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
        s, u = self.s[steps].repeat(count), self.u[steps].repeat(count, 1)
        y = torch.from_numpy(np.concatenate([self._directions[row][steps] for row in rows]))
        tau = torch.from_numpy(np.concatenate([self._tau[steps, row] for row in rows]))
        mu = torch.from_numpy(np.concatenate([multipliers[row] for row in rows]))
        wrt_u, parameters, wrt_s, wrt_tau = self.dynamics.directional_vjp(s, u, y, tau, mu, others)
        all_tau = torch.zeros(len(steps), self._tau.shape[1], dtype=tau.dtype)
        all_tau[:, rows] = wrt_tau.view(count, -1).T
        return wrt_u.view(count, len(steps), -1).sum(0), parameters, wrt_s.view(count, -1).sum(0), all_tau
