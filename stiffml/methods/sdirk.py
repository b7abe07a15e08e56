"""Alexander's singly diagonally implicit Runge-Kutta method of order 3, stepped by stiffml itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form, Scheme
from stiffml.methods.dirk import DiagonallyImplicit
from stiffml.methods.runge_kutta_rows import kept_stages, stage_embedded, stage_scheme
from stiffml.methods.tableaux import Butcher, Tableau

GAMMA = 0.435866521508458999416019
"""The root of γ³ − 3γ² + 3γ/2 − 1/6 in (1/6, 1/2), which makes the method L-stable."""


@dataclass(frozen=True)
class SDIRK3(DiagonallyImplicit):
    """M(Yᵢ − u₀) = h Σ_{j≤i} aᵢⱼ f(t₀ + cⱼh, Yⱼ), u₁ = Y₃: three stages, order 3, L-stable.

    It is stiffly accurate, with γ on the whole diagonal. The embedded solution of order 2 leaves out the
    last stage. PETSc does not have this method.

    References
    ----------
    Alexander, SIAM J. Numer. Anal. 14 (1977), theorem 5. Adjoint: Hager, Numer. Math. 87 (2000),
    eq. 10.

    Examples
    --------
    >>> y = stiffml.odeint(func, y0, t, method=stiffml.SDIRK3(), steps=stiffml.Fixed(0.05))  # or "sdirk3"
    >>> y[-1, 0], bool(y[-1, 1].abs() < 1e-12)  # the fast component has gone
    (tensor(0.3679, dtype=torch.float64), True)
    """

    stepper = "native"

    @property
    def table(self) -> Tableau:
        return _TABLEAU

    def scheme(self, form: Form) -> Scheme:
        return _scheme(form.mass)

    def kept_stages(self, form: Form) -> range:
        return kept_stages(self.implicit_part)

    def embedded(self, form: Form) -> Dense | None:
        return _embedded(form.mass)


def _tableau() -> Tableau:
    g = GAMMA
    c = np.array([g, (1 + g) / 2, 1.0])
    b = np.array([-(6 * g * g - 16 * g + 1) / 4, (6 * g * g - 20 * g + 5) / 4, g])
    a = np.array([[g, 0, 0], [c[1] - g, g, 0], b])
    # The weights b̂ of the embedded solution, without the last stage: Σ b̂ = 1 and Σ b̂ c = 1/2.
    second = (1 - 2 * g) / (1 - g)
    embedded = np.array([1 - second, second, 0.0])
    return Tableau("", 3, 3, Butcher(a, b, c), None, embedded, None)


_TABLEAU = _tableau()


@cache
def _scheme(mass: bool) -> Scheme:
    assert _TABLEAU.implicit is not None
    return stage_scheme(_TABLEAU.implicit, mass=mass)


@cache
def _embedded(mass: bool) -> Dense | None:
    assert _TABLEAU.implicit is not None
    return stage_embedded(_TABLEAU.implicit, None, mass, _TABLEAU.embedded)
