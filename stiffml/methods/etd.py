"""Exponential time differencing: the linear part of a split right-hand side exactly, the rest explicitly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described
from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form, Numbers, Pattern, Scheme
from stiffml.discretization.row import Phi
from stiffml.methods.base import OneStep, stage_times


@dataclass(frozen=True)
class ETD(OneStep):
    """Exponential Runge-Kutta steps for y' = J y + g(t, y), of order 2 or 3; J y is solved exactly.

    With F = J u₀ + g(t₀, u₀), g₀ = g(t₀, u₀), gₓ = g at the stage x and φ_k = φ_k(hJ)::

        order 2:  a = u₀ + h φ₁ F,  u₁ = a + h φ₂ (gₐ − g₀)
        order 3:  a = u₀ + h/2 φ₁(hJ/2) F,  b = u₀ + h φ₁ (F + 2gₐ − 2g₀),
                  u₁ = u₀ + h φ₁ F + h φ₂ (−3g₀ + 4gₐ − g_b) + 4h φ₃ (g₀ − 2gₐ + g_b)

    The right-hand side is ``Split(implicit=f, explicit=g, linear=True)``, f linear in y and without t, which
    is tried out. A step takes ``order`` evaluations of g and no linear system; the φ_k are dense matrices,
    computed once for each step size and kept. Decaying modes of J vanish as in the differential equation,
    however fast (L-stable); where g is zero, steps of any size are exact. g itself must not be stiff. Errors
    of adaptive steps are differences to a result of one order less: a for order 2; u₀ + h φ₁ F + 2h φ₂ (gₐ −
    g₀) for order 3.

    The adjoint of a step multiplies by the transposed φ_k. Parameters of f get exact gradients through the
    derivative of the φ_k; sensitivities and second derivatives are for f without parameters.

    Parameters
    ----------
    order : int
        2 or 3. Default 3.

    Raises
    ------
    ValueError
        For another order.

    Examples
    --------
    >>> import torch, stiffml
    >>> split = stiffml.Split(lambda t, y: -1e4 * y, lambda t, y: 1e4 * torch.cos(t) + 0 * y, linear=True)
    >>> t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> y0, steps = torch.ones(1, dtype=torch.float64), stiffml.Fixed(0.1)
    >>> y = stiffml.odeint(split, y0, t, method="etd3", steps=steps)
    >>> round(float(y[-1]), 4)
    0.5404

    References
    ----------
    Cox & Matthews, J. Comput. Phys. 176 (2002), eqs. 20 to 25: ETD2RK and ETD3RK. Stiff orders:
    Hochbruck & Ostermann, Acta Numerica 19 (2010), section 2.
    """

    order: int = 3  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if type(self.order) is not int or self.order not in _TABLEAUX:
            raise ValueError(f"ETD: order must be 2 or 3, not {described(self.order)}")

    implicit = True
    newton = False
    adaptive = True
    split = True
    whole = False
    exponential = True
    mass = False
    stepper = "native"

    def evaluates_end(self, form: Form) -> bool:
        return False

    def scheme(self, form: Form) -> Scheme:
        return _rows(self.order)[0]

    def embedded(self, form: Form) -> Dense | None:
        return _rows(self.order)[1]


class _Stage(NamedTuple):
    """x = u₀ + ch φ₁(chJ) F + ch Σ_k φ_k(chJ) Σ_j weights[k][j] g_j, with g_j at u₀ and the stages before."""

    c: float
    weights: Mapping[int, tuple[float, ...]]


class _Tableau(NamedTuple):
    """All stages, the one that the embedded solution is, and the new state."""

    stages: tuple[_Stage, ...]
    embedded: int
    new: _Stage


_TABLEAUX = {
    2: _Tableau((_Stage(1, {}),), 0, _Stage(1, {2: (-1, 1)})),
    3: _Tableau(
        (_Stage(1 / 2, {}), _Stage(1, {1: (-2, 2)}), _Stage(1, {2: (-2, 2)})),
        2,
        _Stage(1, {2: (-3, 4, -1), 3: (4, -8, 4)}),
    ),
}


@cache
def _rows(order: int) -> tuple[Scheme, Dense]:
    """The rows of a step and the embedded solution.

    A combination of slopes has a column v of its own, which one or more φ-functions then multiply.
    """
    tableau = _TABLEAUX[order]
    every = [*tableau.stages, tableau.new]
    combinations: dict[tuple[bool, tuple[float, ...]], int] = {}  # with F or without, and weights: its column
    states, column, abscissae = [0], 0, [0.0]
    rows: list[dict[str, dict[int, float]]] = []
    phi: dict[tuple[int, int], Phi] = {}
    for stage in every:
        sums = [(k, (k == 1, stage.weights.get(k, ()))) for k in sorted({1, *stage.weights})]
        for _, (with_slope, weights) in sums:
            if (with_slope, weights) in combinations:
                continue
            column += 1
            combinations[with_slope, weights] = column
            abscissae.append(0.0)
            of_g = {0: float(with_slope)}
            for j, weight in zip(states, weights, strict=False):
                of_g[j] = of_g.get(j, 0.0) + weight
            rows.append({"alpha": {column: 1.0}, "beta": {0: float(with_slope)}, "epsilon": of_g})
        column += 1
        abscissae.append(stage.c)
        row: dict[str, dict[int, float]] = {"alpha": {0: -1.0, column: 1.0}, "per_h": {}}
        for k, key in sums:
            row["per_h"][combinations[key]] = -stage.c
            phi[len(rows), combinations[key]] = Phi(k, stage.c)
        rows.append(row)
        states.append(column)

    def dense(name: str) -> np.ndarray:
        found = np.zeros((len(rows), column + 1))
        for r, row in enumerate(rows):
            for c, value in row.get(name, {}).items():
                found[r, c] = value
        return found

    parts = [dense(name) for name in ("alpha", "per_h", "beta", "epsilon")]
    pattern = Pattern(1, (parts[0] != 0) | (parts[1] != 0), parts[2], parts[3], weighted=False, phi=phi)
    constant, per_h, beta, epsilon = map(torch.from_numpy, parts)
    times_of = stage_times(np.array(abscissae))

    def numbers(times: Tensor) -> Numbers:
        begin, end = times[:, :1], times[:, 1:]
        count, h, s = len(times), (end - begin)[:, :, None], times_of(begin, end)
        return Numbers(
            constant + h * per_h,
            beta.expand(count, *beta.shape),
            epsilon.expand(count, *beta.shape),
            s,
            s,
            h.new_zeros(count, len(rows)),
        )

    of_embedded = np.zeros((1, column + 1))
    of_embedded[0, [0, states[1 + tableau.embedded]]] = 1, -1
    none = np.zeros_like(of_embedded)
    return Scheme(pattern, numbers), Dense(of_embedded, none, none)
