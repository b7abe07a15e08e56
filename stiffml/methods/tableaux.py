"""The tableaux of PETSc's Runge-Kutta, additive and Rosenbrock-W methods, from ``tableaux.json``, and others.

PETSc's coefficients are PETSc's to the last bit, including misprints, so that the equations are exactly those
that PETSc solves. ``tests/methods/test_tableaux.py`` lists methods that do not have the order PETSc states.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from stiffml.methods.published import PUBLISHED, Published


@dataclass(frozen=True, eq=False)
class Butcher:
    """The tableau of one part of a Runge-Kutta method with s stages.

    ``a`` (s, s) is lower triangular, ``b`` (s,) are the weights, ``c`` (s,) the row sums of a.
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def explicit_first_stage(self) -> bool:
        """Whether the first stage is the state that the step starts from."""
        return not self.a[0].any()

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is the new state."""
        return bool((self.b == self.a[-1]).all())

    @cached_property
    def r_infinity(self) -> float:
        """The stability function at infinity; ``inf`` if it is unbounded."""
        return _stability_at_infinity(self.a, self.b)

    @cached_property
    def damps_slopes(self) -> bool:
        """Whether an error in the slope at the start of a step decays over the following steps.

        It matters for algebraic variables z. An explicit first stage takes its slope z' from the last stage
        of the previous step. The algebraic equations fix the stages Zᵢ = z₀ + h Σⱼ aᵢⱼ z'ⱼ. So an error e of
        the first slope causes errors −A₂₂⁻¹ a₂₁ e in the other slopes, with A₂₂ the tableau without its first
        row and column, and a₂₁ the rest of its first column. If the last of these is as large as e, as for
        the trapezoidal rule, the error never decays. An error estimate from slopes is then only proportional
        to h.
        """
        if not self.explicit_first_stage:
            return True
        made = np.linalg.solve(self.a[1:, 1:], self.a[1:, 0])
        return bool(abs(made[-1]) < 0.99)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The weights B (s, p) of the slopes in PETSc's dense output, for the parts that the method has.

    PETSc computes, at t + τh for 0 ≤ τ ≤ 1,

        Y₁ + h Σᵢ (Σⱼ τʲ Bᵢⱼ) kᵢ,  j = 1 … p.

    For ``rk``, kᵢ = f(Yᵢ). For ``arkimex`` there is one such sum for each part. In the implicit one the
    slopes are kᵢ = (Yᵢ − Zᵢ) / (h âᵢᵢ), with Zᵢ the known part of the equation of stage i.

    The sum starts from the first stage Y₁, which is the old state only if the first stage is explicit. Some
    weights do not give the new state at τ = 1.
    """

    implicit: np.ndarray | None
    explicit: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Tableau:
    """An explicit, diagonally implicit or additive Runge-Kutta method.

    ``estimate_order`` is the power of h that PETSc takes its error estimate to be proportional to.
    ``implicit`` and ``explicit`` are its parts; None for a part it does not have. ``embedded`` (s,) are the
    weights of the embedded solution, whose distance from the result estimates the error, the same for both
    parts; None if there is none. ``interpolation`` is None if PETSc has no dense output, or only a straight
    line from the first stage.
    """

    petsc_name: str
    order: int
    estimate_order: int
    implicit: Butcher | None
    explicit: Butcher | None
    embedded: np.ndarray | None
    interpolation: Interpolation | None


@dataclass(frozen=True, eq=False)
class Rosenbrock:
    """A Rosenbrock-W method, kᵢ = h f(u₀ + Σ aᵢⱼ kⱼ) + h J Σ γᵢⱼ kⱼ and u₁ = u₀ + Σ bᵢ kᵢ.

    PETSc solves for yᵢ = Σ γᵢⱼ kⱼ instead of kᵢ; the properties are coefficients of that form. A stage with
    γᵢᵢ = 0 is explicit, and there yᵢ means kᵢ + Σ_{j<i} γᵢⱼ kⱼ.

    Attributes
    ----------
    a : ndarray
        (s, s) strictly lower triangular; α in the literature.
    gamma : ndarray
        (s, s) lower triangular.
    b : ndarray
        (s,) weights.
    embedded : ndarray or None
        (s,) weights b̂ of the embedded solution, whose distance from the result estimates the error.
    interpolation : ndarray or None
        (s, p) weights B of dense output: PETSc computes u₀ + Σᵢ (Σⱼ τʲ Bᵢⱼ) kᵢ at t + τh, j = 1 … p, with h
        contained in kᵢ. Some weights do not give the new state at τ = 1. None if PETSc has no dense output,
        or only a straight line.
    """

    petsc_name: str
    order: int
    a: np.ndarray
    gamma: np.ndarray
    b: np.ndarray
    embedded: np.ndarray | None
    interpolation: np.ndarray | None

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def a_sum(self) -> np.ndarray:
        """(s,) the abscissae: PETSc evaluates f of stage i at t + h times this."""
        return self.a.sum(axis=1)

    @property
    def gamma_sum(self) -> np.ndarray:
        """(s,) the weights of ∂f/∂t; PETSc does not use them, since it omits that term."""
        return self.gamma.sum(axis=1)

    @property
    def constant_gamma(self) -> bool:
        """Whether all stages have the same γᵢᵢ, so that one factorisation serves all."""
        diagonal = np.diag(self.gamma)
        return bool(diagonal[0] != 0 and (diagonal == diagonal[0]).all())

    @cached_property
    def gamma_inverse(self) -> np.ndarray:
        """(s, s) the matrix from y to k: the inverse of Γ, with ones in place of zeros on its diagonal."""
        diagonal = np.diag(self.gamma)
        filled = self.gamma + np.diag(np.where(diagonal == 0, 1.0, 0.0))
        return solve_triangular(filled, np.eye(self.stages), lower=True)

    @cached_property
    def at(self) -> np.ndarray:
        """(s, s) coefficients of the y: stage i is evaluated at u₀ + Σ atᵢⱼ yⱼ."""
        return self.a @ self.gamma_inverse

    @cached_property
    def bt(self) -> np.ndarray:
        """(s,) weights of the y: u₁ = u₀ + Σ btᵢ yᵢ."""
        return self.b @ self.gamma_inverse

    @cached_property
    def embedded_t(self) -> np.ndarray | None:
        """(s,) weights of the y in the embedded solution; None if there is none."""
        return None if self.embedded is None else self.embedded @ self.gamma_inverse

    @cached_property
    def explicit_correction(self) -> np.ndarray:
        """(s, s) Γ · ``gamma_inverse``: its row of an explicit stage has the weights of h J yⱼ there.

        Other rows are those of the identity.
        """
        return self.gamma @ self.gamma_inverse

    @cached_property
    def transformed_interpolation(self) -> np.ndarray | None:
        """(s, p) weights B̃ of the y in the interpolant u₀ + Σᵢ (Σⱼ τʲ B̃ᵢⱼ) yᵢ; None if there is none."""
        return None if self.interpolation is None else self.gamma_inverse.T @ self.interpolation

    @cached_property
    def r_infinity(self) -> float:
        """The stability function at infinity, with the exact Jacobian; ``inf`` if it is unbounded."""
        return _stability_at_infinity(self.a + self.gamma, self.b)

    @cached_property
    def estimates_linear(self) -> bool:
        """Whether the error estimate is not zero on linear problems y' = λ y.

        With z = hλ it is R(z) − R̂(z) = (b − b̂)ᵀ Σ zⁿ⁺¹ (A + Γ)ⁿ 1 times the state. If all coefficients of
        this series are zero, no step of a linear problem is ever rejected.
        """
        if self.embedded is None:
            return False
        terms, coefficients = np.ones(self.stages), []
        for _ in range(self.stages):
            coefficients.append((self.b - self.embedded) @ terms)
            terms = (self.a + self.gamma) @ terms
        return bool(np.abs(coefficients).max() > 1e-9)

    @cached_property
    def estimates_algebraic(self) -> bool:
        """Whether the error estimate detects errors in algebraic variables.

        For the equation 0 = φ(t) − z, a step turns an error r into R∞ r + (1 − bᵀω) h²φ''/2 + …. R∞ is the
        stability function at infinity, ω = (A + Γ)⁻¹ c², and cᵢ = Σⱼ aᵢⱼ. With constant steps the error
        becomes r = (1 − bᵀω)/(1 − R∞) · h²φ''/2. If this is not zero but equal for b and b̂, both results have
        the same error and the estimate is zero. The steps then grow until an error exceeds the tolerance,
        and shorter steps do not remove it.

        Source: Hairer & Wanner, Solving ODEs II, section VI.4.
        """
        if self.embedded is None:
            return False
        weights = np.linalg.solve(self.a + self.gamma, np.stack([self.a_sum**2, np.ones(self.stages)], 1))

        def left(b: np.ndarray) -> tuple[float, float]:  # (1 − bᵀω, 1 − R∞)
            made, kept = 1 - b @ weights  # kept is R∞
            return float(made), float(1 - kept)

        (made, lost), (other, lost_by_other) = left(self.b), left(self.embedded)
        return bool(abs(made) < 1e-9 or abs(made * lost_by_other - other * lost) > 1e-9)


def _stability_at_infinity(a: np.ndarray, b: np.ndarray) -> float:
    """The limit for z → ∞ of R(z) = 1 + z bᵀ(I − za)⁻¹ 1; ``inf`` if R is unbounded.

    a (s, s) is lower triangular and may be singular. The limit is computed stage by stage, with zYᵢ as a
    truncated Laurent series in z. An explicit stage raises its highest power by one.
    """
    highest = int((np.diag(a) == 0).sum())
    length = 2 * highest + 1  # powers highest … −highest: each multiplication by z loses the lowest one
    one = np.zeros(length)
    one[highest] = 1
    slopes = np.zeros((len(b), length))
    for i, row in enumerate(a):
        known = one + row[:i] @ slopes[:i]
        if row[i] == 0:
            slopes[i, :-1] = known[1:]
        else:
            for m in range(length):  # z / (1 − za) = −(1/a) Σ (za)⁻ᵐ
                slopes[i, m:] -= known[: length - m] / row[i] ** (m + 1)
    result = one + b @ slopes
    grows = np.abs(result[:highest]).max(initial=0) > 1e-9
    return float("inf") if grows else float(result[highest])


def _matrix(values: list | None) -> np.ndarray | None:
    return None if values is None else np.array(values, dtype=np.float64)


def _butcher(entry: dict[str, Any] | None) -> Butcher | None:
    return None if entry is None else Butcher(*(np.array(entry[key], dtype=np.float64) for key in "abc"))


_ACTUAL_ORDERS = {"bpr3": 1, "1bee": 1}
"""Orders of ``arkimex`` methods whose order is not the one that PETSc states.

``bpr3`` has 3/5 instead of 3/4 in its last explicit stage; its implicit part alone has order 3. ``1bee`` is
two half steps of backward Euler.
"""


def _tableau(name: str, entry: dict[str, Any]) -> Tableau:
    weights = entry["interpolation"]
    interpolation = None
    if weights is not None:
        interpolation = Interpolation(_matrix(weights.get("implicit")), _matrix(weights.get("explicit")))
    return Tableau(
        petsc_name=name,
        order=_ACTUAL_ORDERS.get(name, entry["order"]),
        estimate_order=entry["order"],
        implicit=_butcher(entry.get("implicit")),
        explicit=_butcher(entry.get("explicit")),
        embedded=_matrix(entry["embedded"]),
        interpolation=interpolation,
    )


def _rosenbrock(name: str, entry: dict[str, Any]) -> Rosenbrock:
    a, gamma, b = (np.array(entry[key], dtype=np.float64) for key in ("a", "gamma", "b"))
    embedded, interpolation = _matrix(entry["embedded"]), _matrix(entry["interpolation"])
    return Rosenbrock(name, entry["order"], a, gamma, b, embedded, interpolation)


_DATA = json.loads(files("stiffml.methods").joinpath("tableaux.json").read_text(encoding="utf-8"))


def _published(method: Published) -> Tableau:
    a = np.zeros((len(method.b), len(method.b)))
    for i, row in enumerate(method.rows, start=1):
        a[i, : len(row)] = row
    part = Butcher(a, np.array(method.b), a.sum(axis=1))
    interpolation = Interpolation(None, method.interpolation)
    return Tableau("", method.order, method.order, None, part, np.array(method.embedded), interpolation)


_IN_PETSC = {
    "euler": "1fe",
    "midpoint": "2b",
    "bosh3": "3bs",
    "rk4": "4",
    "dopri5": "5dp",
    "bosh5": "5bs",
    "verner6": "6vr",
    "verner7": "7vr",
    "verner8": "8vr",
}

EXPLICIT = {
    **{name: _tableau(petsc_name, _DATA["rk"][petsc_name]) for name, petsc_name in _IN_PETSC.items()},
    **{name: _published(method) for name, method in PUBLISHED.items()},
}
"""The explicit methods, by their names in stiffml. Those that PETSc does not have have no name there."""

DIRK = {name: _tableau(name, entry) for name, entry in _DATA["dirk"].items()}
ARKIMEX = {name: _tableau(name, entry) for name, entry in _DATA["arkimex"].items()}
ROSENBROCK = {name: _rosenbrock(name, entry) for name, entry in _DATA["rosw"].items()}
