"""The Runge-Kutta methods of torchdiffeq that stiffml does not have under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from stiffml.discretization.equations import Form, Scheme
from stiffml.methods.dirk import DiagonallyImplicit
from stiffml.methods.explicit import ByTableau
from stiffml.methods.runge_kutta_rows import kept_stages, stage_scheme
from stiffml.methods.tableaux import Butcher, Tableau


@dataclass(frozen=True)
class Explicit(ByTableau):
    """An explicit Runge-Kutta method by its tableau; steps are taken by stiffml itself.

    Parameters
    ----------
    name : str
        ``heun2``, ``adaptive_heun`` (order 2, the same with an estimate by Euler's method), ``fehlberg2``
        (Fehlberg's 1(2), order 2), ``heun3`` (3), ``rk4`` (the 3/8 rule, 4).

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, tables II.1.1 and II.1.2 (the methods of Heun, the 3/8
    rule); Fehlberg, Computing 6 (1970), table 1.
    """

    name: str

    stepper = "native"

    @property
    def tableau(self) -> Tableau:
        return TABLEAUX[self.name]

    def evaluates_end(self, form: Form) -> bool:
        return False

    @property
    def real_stability(self) -> float:
        return 1.95  # slightly less than 2, the end of the interval of Heun's methods of order 2


@dataclass(frozen=True)
class ImplicitMidpoint(DiagonallyImplicit):
    """M(Y − u₀) = h/2 f(t₀ + h/2, Y), u₁ = u₀ + h M⁻¹ f(t₀ + h/2, Y); order 2, A-stable.

    Source: Hairer & Wanner, Solving ODEs II, table IV.5.1 (Gauss' method of order 2).
    """

    stepper = "native"

    @property
    def table(self) -> Tableau:
        half = np.array([0.5])
        return Tableau("", 2, 2, Butcher(half[None], np.ones(1), half), None, None, None)

    def scheme(self, form: Form) -> Scheme:
        return _midpoint(form.mass)

    def kept_stages(self, form: Form) -> range:
        return kept_stages(self.implicit_part)


@cache
def _midpoint(mass: bool) -> Scheme:
    return stage_scheme(ImplicitMidpoint().implicit_part, mass=mass)


def _tableau(
    order: int, rows: list[list[float]], b: list[float], embedded: list[float] | None = None
) -> Tableau:
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(rows, start=1):
        a[i, : len(row)] = row
    weights = None if embedded is None else np.array(embedded)
    return Tableau("", order, order, None, Butcher(a, np.array(b), a.sum(axis=1)), weights, None)


TABLEAUX = {
    "heun2": _tableau(2, [[1]], [1 / 2, 1 / 2]),
    "adaptive_heun": _tableau(2, [[1]], [1 / 2, 1 / 2], [1, 0]),
    "fehlberg2": _tableau(
        2, [[1 / 2], [1 / 256, 255 / 256]], [1 / 512, 255 / 256, 1 / 512], [1 / 256, 255 / 256, 0]
    ),
    "heun3": _tableau(3, [[1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4]),
    "rk4": _tableau(4, [[1 / 3], [-1 / 3, 1], [1, -1, 1]], [1 / 8, 3 / 8, 3 / 8, 1 / 8]),
}
