"""Explicit Runge-Kutta methods, for comparison and for problems that are not stiff."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stiffml.checks import described
from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form
from stiffml.methods.base import are_within_step
from stiffml.methods.explicit import ByTableau
from stiffml.methods.runge_kutta_rows import stage_interpolant
from stiffml.methods.tableaux import EXPLICIT, Butcher, Interpolation, Tableau

_REAL_STABILITY = {
    **{"bosh3": 2.45, "dopri5": 3.25, "tsit5": 3.44, "bosh5": 3.9},
    **{"verner6": 4.24, "verner7": 4.54, "verner8": 4.72, "dopri8": 5.06},
}
"""Slightly less than the ends of these intervals: 2.51, 3.31, 3.51, 3.99; 4.32, 4.64, 4.82, 5.17."""


CUBIC = 3
"""The order of Hermite's interpolant, which would spoil that of methods of a higher one."""


@dataclass(frozen=True)
class RungeKutta(ByTableau):
    """Explicit methods Yᵢ = u₀ + h Σ_{j<i} aᵢⱼ kⱼ, kᵢ = f(t₀ + cᵢh, Yᵢ), u₁ = u₀ + h Σ bᵢ kᵢ.

    The adjoint of a step goes through the stages backwards. The cotangent of kᵢ is
    qᵢ = h bᵢ λ₁ + h Σ_{m>i} a_mi V_m with V_m = J_mᵀ q_m, and λ₀ = λ₁ + Σ Vᵢ.

    Parameters
    ----------
    name : str
        Without an error estimate: ``euler`` (order 1), ``midpoint`` (2), ``rk4`` (4). With one: ``bosh3``
        (Bogacki-Shampine, 3), ``dopri5`` (Dormand-Prince, 5), ``bosh5`` (Bogacki-Shampine, 5), ``verner6``,
        ``verner7`` and ``verner8``, and two that PETSc does not have: ``tsit5`` (Tsitouras, 5), ``dopri8``
        (Prince-Dormand, 8). ``bosh3``, ``dopri5`` and ``tsit5`` have interpolants as accurate as their steps,
        ``dopri8`` has one of order 5.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.

    References
    ----------
    Hairer, Nørsett & Wanner, Solving ODEs I, tables II.1.1, II.1.2, II.5.2; Bogacki & Shampine,
    Appl. Math. Lett. 2 (1989), Comput. Math. Appl. 32 (1996); Verner, Numer. Algorithms 53 (2010);
    Tsitouras, Comput. Math. Appl. 62 (2011); Prince & Dormand, J. Comput. Appl. Math. 7 (1981).
    Adjoint: Hager, Numer. Math. 87 (2000), eq. 10.

    Examples
    --------
    >>> harmless = lambda t, y: -y  # an explicit method is for what is not stiff
    >>> stiffml.odeint(harmless, y0, t, method=stiffml.RungeKutta("dopri5"))[-1, 0]  # or "dopri5"
    tensor(0.3679, dtype=torch.float64)
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in EXPLICIT:
            known = ", ".join(EXPLICIT)
            raise ValueError(f"RungeKutta: name must be one of {known}, not {described(self.name)}")

    stepper = "explicit"

    @property
    def tableau(self) -> Tableau:
        return EXPLICIT[self.name]

    @property
    def within_step(self) -> bool:
        return are_within_step(self.abscissae)

    def evaluates_end(self, form: Form) -> bool:
        return self.butcher.stiffly_accurate

    @property
    def real_stability(self) -> float:
        return _REAL_STABILITY.get(self.name, 0.0)

    @property
    def in_petsc(self) -> bool:
        return bool(self.tableau.petsc_name)

    def petsc_options(self) -> dict[str, object]:
        if not self.in_petsc:
            return super().petsc_options()
        return {"ts_type": "rk", "ts_rk_type": self.tableau.petsc_name}

    def dense(self, form: Form) -> Dense | None:
        weights = self.tableau.interpolation
        if weights is None and self.order == CUBIC and self.adaptive and self.butcher.stiffly_accurate:
            weights = _hermite(self.butcher)
        return stage_interpolant(self.butcher, None, False, weights)

    @property
    def interpolates_outputs(self) -> bool:
        dense = self.dense(Form()) if self.adaptive else None
        return dense is not None and len(dense.beta) >= self.order - 1  # the degree, which bounds the order


def _hermite(tableau: Butcher) -> Interpolation:
    """The cubic with the states and slopes at both ends of a step, of order 3.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.6, eq. 6.7.
    """
    weights = np.outer(tableau.b, [0.0, 3.0, -2.0])
    weights[0] += [1.0, -2.0, 1.0]
    weights[-1] += [0.0, -1.0, 1.0]
    return Interpolation(None, weights)
