"""Explicit Runge-Kutta methods, for comparison and for problems that are not stiff."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from stiffml.checks import described
from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form, Scheme
from stiffml.methods.base import OneStep, are_within_step
from stiffml.methods.runge_kutta_rows import stage_embedded, stage_interpolant, stage_scheme
from stiffml.methods.tableaux import EXPLICIT, Butcher, Interpolation

_REAL_STABILITY = {"bosh3": 2.45, "dopri5": 3.25}
"""Slightly less than the ends of the real stability intervals, 2.51 and 3.31."""


@dataclass(frozen=True)
class RungeKutta(OneStep):
    """Explicit methods Yᵢ = u₀ + h Σ_{j<i} aᵢⱼ kⱼ, kᵢ = f(t₀ + cᵢh, Yᵢ), u₁ = u₀ + h Σ bᵢ kᵢ.

    The adjoint of a step goes through the stages backwards. The cotangent of kᵢ is
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
        if not isinstance(self.name, str) or self.name not in EXPLICIT:
            known = ", ".join(EXPLICIT)
            raise ValueError(f"RungeKutta: name must be one of {known}, not {described(self.name)}")

    implicit = False
    stepper = "explicit"

    @property
    def tableau(self):
        return EXPLICIT[self.name]

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def adaptive(self) -> bool:
        return self.tableau.embedded is not None

    @property
    def within_step(self) -> bool:
        return are_within_step(self.abscissae)

    def evaluates_end(self, form: Form) -> bool:
        assert self.tableau.explicit is not None
        return self.tableau.explicit.stiffly_accurate

    @property
    def abscissae(self) -> np.ndarray:
        assert self.tableau.explicit is not None
        return self.tableau.explicit.c

    @property
    def real_stability(self) -> float:
        return _REAL_STABILITY.get(self.name, 0.0)

    def petsc_options(self) -> dict[str, object]:
        return {"ts_type": "rk", "ts_rk_type": self.tableau.petsc_name}

    def scheme(self, form: Form) -> Scheme:
        return _scheme(self.name)

    def embedded(self, form: Form) -> Dense | None:
        return _embedded(self.name)

    def dense(self, form: Form) -> Dense | None:
        assert self.tableau.explicit is not None
        weights = self.tableau.interpolation
        if weights is None and self.adaptive and self.tableau.explicit.stiffly_accurate:
            weights = _hermite(self.tableau.explicit)
        return stage_interpolant(self.tableau.explicit, None, False, weights)

    @property
    def interpolates_outputs(self) -> bool:
        return self.adaptive and self.dense(Form()) is not None


def _hermite(tableau: Butcher) -> Interpolation:
    """The cubic with the states and slopes at both ends of a step, of order 3.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.6, eq. 6.7.
    """
    weights = np.outer(tableau.b, [0.0, 3.0, -2.0])
    weights[0] += [1.0, -2.0, 1.0]
    weights[-1] += [0.0, -1.0, 1.0]
    return Interpolation(None, weights)


@cache
def _scheme(name: str) -> Scheme:
    tableau = EXPLICIT[name].explicit
    assert tableau is not None
    return stage_scheme(tableau)


@cache
def _embedded(name: str) -> Dense | None:
    tableau = EXPLICIT[name]
    assert tableau.explicit is not None
    return stage_embedded(tableau.explicit, None, False, tableau.embedded)
