"""The tableaux of PETSc's Runge-Kutta, additive and Rosenbrock-W methods, from ``tableaux.json``.

The coefficients are PETSc's to the last bit, misprints included, so that equations written with them are
those PETSc solves. Where they do not have the order PETSc states, ``tests/methods/test_tableaux.py`` says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular


@dataclass(frozen=True, eq=False)
class Butcher:
    """One part of a Runge-Kutta method: a (s, s) lower triangular, b (s,), c (s,) the row sums of a."""

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
        """Stability function at infinity; ``inf`` where it grows."""
        return _stability_at_infinity(self.a, self.b)

    @cached_property
    def damps_slopes(self) -> bool:
        """Whether an error of the slope that a step starts with fades in the steps after it.

        An explicit first stage takes its slope z' of an algebraic variable from the last stage of the step
        before. Algebraic equations fix the stages Zᵢ = z₀ + h Σⱼ aᵢⱼ z'ⱼ, so that an error e of the first
        slope makes one of −A₂₂⁻¹ a₂₁ e in the others (A without its first row and column, and the rest of its
        first column). Where the last of these is as large as e, as with the trapezoidal rule, it stays for
        good, and an error estimate from slopes shrinks with h only.
        """
        if not self.explicit_first_stage:
            return True
        made = np.linalg.solve(self.a[1:, 1:], self.a[1:, 0])
        return bool(abs(made[-1]) < 0.99)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Weights (s, p) of the stages' slopes for dense output, of the parts that the method has.

    PETSc computes, at t + τh for 0 ≤ τ ≤ 1,

        Y₁ + h Σᵢ (Σⱼ τʲ Bᵢⱼ) kᵢ,  j = 1 … p,

    for ``rk`` with kᵢ = f(Yᵢ); for ``arkimex`` with one such sum for the implicit part, over the slopes
    kᵢ = (Yᵢ − Zᵢ) / (h âᵢᵢ) that the stages imply (Zᵢ: what was known of a stage before it was solved), and
    one for the explicit part. The base is the first stage Y₁, not the old state: the two are the same only
    if the first stage is explicit. Nor do all weights give the new state at τ = 1.
    """

    implicit: np.ndarray | None
    explicit: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Tableau:
    """An explicit, a diagonally implicit or an additive Runge-Kutta method: the parts it has.

    ``embedded`` says whether it has an error estimate; ``interpolation`` is
    None where PETSc has no dense output or only a straight line from the first stage.
    """

    petsc_name: str
    order: int
    implicit: Butcher | None
    explicit: Butcher | None
    embedded: bool
    interpolation: Interpolation | None


@dataclass(frozen=True, eq=False)
class Rosenbrock:
    """A Rosenbrock-W method, kᵢ = h f(u₀ + Σ aᵢⱼ kⱼ) + h J Σ γᵢⱼ kⱼ and u₁ = u₀ + Σ bᵢ kᵢ.

    ``a`` (s, s) strictly lower triangular (α in the literature), ``gamma`` (s, s) lower triangular, ``b``
    (s,); ``embedded`` (s,) the weights b̂ in place of ``b`` of a second result, whose distance from the first
    estimates the error, or None where there is none. PETSc solves for yᵢ = Σ γᵢⱼ kⱼ instead of kᵢ; the
    properties after the fields are for that form.
    A stage with γᵢᵢ = 0 is explicit, and there yᵢ stands for kᵢ + Σ_{j<i} γᵢⱼ kⱼ.

    ``interpolation`` (s, p) is None where PETSc has no dense output or only a straight line. With it PETSc
    computes u₀ + Σᵢ (Σⱼ τʲ Bᵢⱼ) kᵢ at t + τh, j = 1 … p. The base is the state the step started from, and
    no h appears because kᵢ has it. Not all weights give the new state at τ = 1.
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
        """(s,) PETSc evaluates stage i at t + h times this."""
        return self.a.sum(axis=1)

    @property
    def gamma_sum(self) -> np.ndarray:
        """(s,) weights of ∂f/∂t; PETSc has them, but leaves that term out: t counts as a constant in J."""
        return self.gamma.sum(axis=1)

    @property
    def constant_gamma(self) -> bool:
        """Whether one factorised matrix serves all stages."""
        diagonal = np.diag(self.gamma)
        return bool(diagonal[0] != 0 and (diagonal == diagonal[0]).all())

    @cached_property
    def gamma_inverse(self) -> np.ndarray:
        """(s, s) k in terms of y; inverse of Γ with ones in place of zeros on its diagonal."""
        diagonal = np.diag(self.gamma)
        filled = self.gamma + np.diag(np.where(diagonal == 0, 1.0, 0.0))
        return solve_triangular(filled, np.eye(self.stages), lower=True)

    @cached_property
    def at(self) -> np.ndarray:
        """(s, s) stage i is evaluated at u₀ + Σ atᵢⱼ yⱼ."""
        return self.a @ self.gamma_inverse

    @cached_property
    def bt(self) -> np.ndarray:
        """(s,) u₁ = u₀ + Σ btᵢ yᵢ."""
        return self.b @ self.gamma_inverse

    @cached_property
    def explicit_correction(self) -> np.ndarray:
        """(s, s) weights of h J yⱼ in an explicit stage, its row of ΓΓ⁻¹; rows of the identity elsewhere."""
        return self.gamma @ self.gamma_inverse

    @cached_property
    def transformed_interpolation(self) -> np.ndarray | None:
        """(s, p) the interpolation is u₀ + Σᵢ (Σⱼ τʲ B̃ᵢⱼ) yᵢ."""
        return None if self.interpolation is None else self.gamma_inverse.T @ self.interpolation

    @cached_property
    def r_infinity(self) -> float:
        """Stability function at infinity, with the exact Jacobian; ``inf`` where it grows."""
        return _stability_at_infinity(self.a + self.gamma, self.b)

    @cached_property
    def estimates_linear(self) -> bool:
        """Whether the two results of a step of y' = λ y differ: R(z) − R̂(z) = (b − b̂)ᵀ Σ zⁿ⁺¹ (A + Γ)ⁿ 1.

        If that is zero, so are all its coefficients, and steps of linear problems are never too long.
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
        """Whether the error estimate sees what steps leave of an algebraic equation 0 = φ(t) − z.

        A step makes of a remainder r of that equation R∞ r + (1 − bᵀω) h²φ''/2 + …, where R∞ is the stability
        function at infinity and ω = (A + Γ)⁻¹ c² with cᵢ = Σⱼ aᵢⱼ (Hairer & Wanner, Solving ODEs II, section
        VI.4). So steps of one length leave r = (1 − bᵀω)/(1 − R∞) of h²φ''/2. If that is not zero, and is the
        same with b̂, both results are as wrong and their distance is zero. Steps grow then, until one leaves
        more than the tolerance; and what is left is there however short the next step is.
        """
        if self.embedded is None:
            return False
        weights = np.linalg.solve(self.a + self.gamma, np.stack([self.a_sum**2, np.ones(self.stages)], 1))

        def left(b: np.ndarray) -> tuple[float, float]:
            made, kept = 1 - b @ weights  # kept is R∞
            return float(made), float(1 - kept)

        (made, lost), (other, lost_by_other) = left(self.b), left(self.embedded)
        return bool(abs(made) < 1e-9 or abs(made * lost_by_other - other * lost) > 1e-9)


def _stability_at_infinity(a: np.ndarray, b: np.ndarray) -> float:
    """lim R(z) for z → ∞ of R(z) = 1 + z bᵀ(I − za)⁻¹ 1, with a (s, s) lower triangular, perhaps singular.

    Stage by stage, with zYᵢ as a Laurent series: an explicit stage raises its highest power by one.
    """
    highest = int((np.diag(a) == 0).sum())
    length = 2 * highest + 1  # powers highest … −highest: as many as one loses by multiplying with z
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


_MISSED = {"bpr3": 1, "1bee": 1}
"""Orders of ``arkimex`` tables that do not have the one PETSc states: ``bpr3`` has 3/5 where 3/4 belongs
in its last explicit stage (its implicit part alone has order 3), ``1bee`` is two half steps of backward
Euler."""


def _tableau(name: str, entry: dict[str, Any]) -> Tableau:
    weights = entry["interpolation"]
    interpolation = None
    if weights is not None:
        interpolation = Interpolation(_matrix(weights.get("implicit")), _matrix(weights.get("explicit")))
    return Tableau(
        petsc_name=name,
        order=_MISSED.get(name, entry["order"]),
        implicit=_butcher(entry.get("implicit")),
        explicit=_butcher(entry.get("explicit")),
        embedded=entry["embedded"],
        interpolation=interpolation,
    )


def _rosenbrock(name: str, entry: dict[str, Any]) -> Rosenbrock:
    a, gamma, b = (np.array(entry[key], dtype=np.float64) for key in ("a", "gamma", "b"))
    embedded, interpolation = _matrix(entry["embedded"]), _matrix(entry["interpolation"])
    return Rosenbrock(name, entry["order"], a, gamma, b, embedded, interpolation)


_DATA = json.loads(files("stiffml.methods").joinpath("tableaux.json").read_text(encoding="utf-8"))

EXPLICIT = {
    name: _tableau(petsc_name, _DATA["rk"][petsc_name])
    for name, petsc_name in (
        ("euler", "1fe"),
        ("midpoint", "2b"),
        ("bosh3", "3bs"),
        ("rk4", "4"),
        ("dopri5", "5dp"),
    )
}
"""Explicit methods by stiffml's names."""

DIRK = {name: _tableau(name, entry) for name, entry in _DATA["dirk"].items()}
ARKIMEX = {name: _tableau(name, entry) for name, entry in _DATA["arkimex"].items()}
ROSENBROCK = {name: _rosenbrock(name, entry) for name, entry in _DATA["rosw"].items()}
