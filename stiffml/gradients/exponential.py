"""The gradient through φ-functions of h·J, to the parameters of the linear part with Jacobian J.

A row x = − Σ_c α_c φ_k(chJ) x_c + … with the multiplier w has dL/dφ_k = −Σ α_c w x_cᵀ, summed over all steps
of equal size. The derivative of what computes the φ_k then leads to dL/dJ, once for each step size of a run.
As f is linear, J e_i = f(e_i) − f(0): f at unit vectors leads from there to its parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Equations
from stiffml.gradients.directions import Directions
from stiffml.linear.dense.exponential import Exponentials, key_of
from stiffml.native.replay import Replay
from stiffml.system.system import System


def linear_part_has_parameters(system: System) -> bool:
    """Whether the linear part depends on parameters that gradients are wanted for."""
    return bool(system.f.parameters) and (system.used is None or bool(system.used[0]))


NO_SECOND = (
    "second derivatives of exponential methods are not available where the linear part has parameters; use "
    "an arkimex-… method, or keep these parameters out with requires_grad_(False)"
)


def require_linear_part_held(replay: Replay, directions: Directions) -> None:
    """Raise NotImplementedError if a direction moves a parameter of the linear part."""
    system = replay.system
    used = range(len(system.f.parameters)) if system.used is None else system.used[0]
    if any(directions.moves(position) for position in used):
        raise NotImplementedError(
            "forward sensitivities by parameters of the linear part of an exponential method are not "
            "available; use backward(), or an arkimex-… method"
        )


class LinearPart:
    """dL/dθ through the φ-functions of a run, accumulated segment by segment."""

    def __init__(self, replay: Replay) -> None:
        assert isinstance(replay.solver, Exponentials)
        self._solver, self._system = replay.solver, replay.system
        self._wrt_phi: dict[tuple[str, int], np.ndarray] = {}

    def add(self, equations: Equations, number: int, multipliers: np.ndarray) -> None:
        """Add the steps of a block with the ``multipliers`` (rows, steps, size) of its rows."""
        block, layout = equations.blocks[number], self._system.layout
        shape, alpha = (-1, layout.samples, layout.width), block.numbers.alpha.numpy()
        for row in block.pattern.rows:
            for c, phi in row.phi.items():
                w = (-alpha[:, row.index, c, None] * multipliers[row.index]).reshape(shape)
                x = equations.column(block, c).reshape(shape)
                keys = np.array([key_of(size) for size in (phi.fraction * block.sizes).tolist()])
                for key in dict.fromkeys(keys.tolist()):
                    where, held = keys == key, self._wrt_phi.get((key, phi.order), 0.0)
                    self._wrt_phi[key, phi.order] = held + np.einsum("ksi,ksj->sij", w[where], x[where])

    def parameters(self) -> list[Tensor | None]:
        """dL/dθ for each of the parameters of f."""
        f, layout = self._system.f, self._system.layout
        if not self._wrt_phi:
            return [None] * len(f.parameters)
        by_unit = self._solver.wrt_jacobian(self._wrt_phi).transpose(2, 0, 1)  # (n, samples, n)
        weights = np.concatenate([by_unit, -by_unit.sum(axis=0, keepdims=True)]).reshape(-1, layout.size)
        at = np.zeros((layout.width + 1, layout.samples, layout.width))
        at[range(layout.width), :, range(layout.width)] = 1.0
        s = torch.full((len(at),), self._solver.evaluated_at, dtype=torch.float64)
        u = torch.from_numpy(at.reshape(-1, layout.size))
        return f.vjp(s, u, torch.from_numpy(weights), False)[1]
