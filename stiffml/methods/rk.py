"""Explicit Runge-Kutta methods, for comparison and for problems that are not stiff."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stiffml.dynamics import Dynamics
from stiffml.linearization import Linearization
from stiffml.methods.base import AtNodes, Method, Nodes, Pending, Sweep
from stiffml.methods.tableaux import EXPLICIT
from stiffml.trajectory import Segment


@dataclass(frozen=True)
class RungeKutta(Method):
    """Yᵢ = u₀ + h Σ aᵢⱼ kⱼ, kᵢ = f(t₀ + cᵢh, Yᵢ), u₁ = u₀ + h Σ bᵢ kᵢ; explicit.

    The adjoint of a step goes through the stages backwards: kᵢ has the cotangent
    qᵢ = h bᵢ λ₁ + h Σ_{m>i} a_mi V_m with V_m = J_mᵀ q_m, and λ₀ = λ₁ + Σ Vᵢ.

    Parameters
    ----------
    name : str
        ``euler`` (order 1), ``midpoint`` (2), ``bosh3`` (Bogacki-Shampine, 3), ``rk4`` (4),
        ``dopri5`` (Dormand-Prince, 5). Only ``bosh3`` and ``dopri5`` have an error estimate.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, tables II.1.1, II.1.2, II.5.2; Bogacki & Shampine,
    Appl. Math. Lett. 2 (1989). Adjoint: Hager, Numer. Math. 87 (2000), eq. 10.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in EXPLICIT:
            raise ValueError(f"RungeKutta: name must be one of {', '.join(EXPLICIT)}, not {self.name!r}")

    implicit = False

    @property
    def tableau(self):
        return EXPLICIT[self.name]

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def adaptive(self) -> bool:
        return self.tableau.embedded

    def petsc_options(self) -> dict[str, object]:
        return {"ts_type": "rk", "ts_rk_type": self.tableau.petsc_name}

    def nodes(self, segment: Segment, dynamics: Dynamics) -> Nodes:
        """The stages of all steps of the segment, recomputed together: stage by stage, step by step."""
        u0, h = segment.states[:-1], torch.from_numpy(segment.sizes)[:, None]
        times: list[torch.Tensor] = []
        states: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for i, row in enumerate(self.tableau.a):
            stage = u0 + h * sum((a * k for a, k in zip(row, slopes, strict=False) if a), torch.zeros(()))
            times.append(torch.from_numpy(segment.times[:-1] + self.tableau.c[i] * segment.sizes))
            states.append(stage)
            if i + 1 < len(self.tableau.a):
                slopes.append(dynamics.evaluate_many(times[-1], stage))
        return Nodes(torch.cat(times), torch.cat(states))

    def sweep(self, segment: Segment, jacobian: Linearization, pending: Pending) -> Sweep:
        tableau, steps = self.tableau, segment.steps
        stages = len(tableau.b)
        q = np.zeros((stages, steps, segment.states.shape[1]))
        for k in reversed(range(steps)):
            h = segment.sizes[k]
            cotangent = pending.pop(segment.first + k + 1)
            v: dict[int, np.ndarray] = {}
            for i in reversed(range(stages)):
                q[i, k] = h * tableau.b[i] * cotangent
                for m, value in v.items():
                    q[i, k] += h * tableau.a[m, i] * value
                if tableau.b[i] or tableau.a[:, i].any():
                    v[i] = jacobian.apply_transpose(i * steps + k, q[i, k])
            pending.add(segment.first + k, cotangent + sum(v.values()))
        return Sweep(q.reshape(stages * steps, -1), q)

    def time_gradient(
        self, segment: Segment, sweep: Sweep, at_nodes: AtNodes, boundaries: np.ndarray
    ) -> None:
        q = sweep.multipliers
        # Every kᵢ enters multiplied by h, so dL/dh = Σ qᵢ·kᵢ / h; stage times move with both ends.
        wrt_size = np.einsum("iks,iks->k", q, at_nodes.slopes.reshape(q.shape)) / segment.sizes
        at_stages = at_nodes.time_gradient.reshape(q.shape[:2])
        c = self.tableau.c[:, None]
        boundaries[segment.first + 1 : segment.last + 1] += wrt_size + (c * at_stages).sum(axis=0)
        boundaries[segment.first : segment.last] += -wrt_size + ((1 - c) * at_stages).sum(axis=0)
