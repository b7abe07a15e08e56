"""Dense output by a method's own interpolant: outputs inside a step as extra equations of that step.

An output at t₀ + θh is one more row of the step. The row is explicit in the stages and states of the step.
So replay, adjoint, tangent and time gradient treat it like any other row and need no code for outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Numbers, Pattern, Scheme


@dataclass(frozen=True, eq=False)
class Dense:
    """The interpolant u(t₀ + θh) = u₀ − Σ_c α_c(θ) x_c + h Σ_c β_c(θ) f(x_c) + h Σ_c ε_c(θ) g(x_c).

    α_c, β_c and ε_c are polynomials in θ without constant term. C is the number of columns of a step.

    Attributes
    ----------
    alpha, beta, epsilon : ndarray
        (p, C) coefficients of θ, …, θᵖ.
    """

    alpha: np.ndarray
    beta: np.ndarray
    epsilon: np.ndarray


def with_outputs(scheme: Scheme, dense: Dense, count: int) -> Scheme:
    """The scheme with ``count`` output rows added to each step.

    The ``times`` that its numbers take are those of the states, followed by those of the outputs.
    """
    base = scheme.pattern
    fixed = np.zeros(base.columns)
    fixed[base.base] = -1

    def extended(of_steps: np.ndarray, of_output: Any) -> np.ndarray:
        return np.concatenate([of_steps, np.tile(of_output, (count, 1))])

    pattern = Pattern(
        base.history,
        extended(base.alpha, dense.alpha.any(axis=0) | (fixed != 0)),
        extended(base.beta, dense.beta.any(axis=0)),
        extended(base.epsilon, dense.epsilon.any(axis=0)),
        weighted=[*(row.weighted for row in base.rows), *[False] * count],
        rosenbrock=[*(row.rosenbrock for row in base.rows), *[False] * count],
        keeps_half=base.keeps_half,
        outputs=count,
        phi=base.phi,
    )
    parts = [torch.from_numpy(values) for values in (dense.alpha, dense.beta, dense.epsilon)]
    known = torch.from_numpy(fixed)

    def numbers(times: Tensor) -> Numbers:
        states = base.history + 1
        inner = scheme.numbers(times[:, :states])
        begin, end = times[:, base.history - 1 : base.history], times[:, base.history : states]
        h = end - begin
        theta = (times[:, states:] - begin) / h
        powers = torch.stack([theta**j for j in range(1, len(dense.alpha) + 1)], dim=-1)
        alpha, beta, epsilon = (powers @ values for values in parts)  # (K, count, C)
        size = h[:, :, None]

        return Numbers(
            torch.cat([inner.alpha, known + alpha], dim=1),
            torch.cat([inner.beta, size * beta], dim=1),
            torch.cat([inner.epsilon, size * epsilon], dim=1),
            inner.s_f,
            inner.s_g,
            torch.cat([inner.tau, inner.tau.new_zeros(len(times), count)], dim=1),
        )

    return Scheme(pattern, numbers)


class Queries:
    """Output times inside steps, grouped by the step that each lies in.

    Parameters
    ----------
    s : ndarray
        (Q,) in solver time, in any order.
    steps : ndarray
        (Q,) int, the step that each lies in.
    numbers : ndarray
        (Q,) int, the numbers of the outputs.

    Attributes
    ----------
    by_step : dict of int to list of (int, float)
        The numbers and times of the outputs in each step; steps without outputs are missing.
    """

    def __init__(self, s: np.ndarray, steps: np.ndarray, numbers: np.ndarray) -> None:
        self.by_step: dict[int, list[tuple[int, float]]] = {}
        for number, step, time in zip(numbers.tolist(), steps.tolist(), s.tolist(), strict=True):
            self.by_step.setdefault(step, []).append((number, time))

    @classmethod
    def at(cls, s: np.ndarray, times: np.ndarray, numbers: np.ndarray | None = None) -> Queries:
        """Those at ``s`` (Q,) between the start and the ends of steps, ``times`` (n_steps + 1,).

        By default their ``numbers`` are 0 … Q − 1.
        """
        steps = np.clip(np.searchsorted(times, s) - 1, 0, max(len(times) - 2, 0))
        return cls(s, steps, np.arange(len(s)) if numbers is None else numbers)

    def counts(self, which: np.ndarray) -> list[int]:
        """The number of outputs in each of the steps ``which`` (K,)."""
        return [len(self.by_step.get(step, ())) for step in which.tolist()]
