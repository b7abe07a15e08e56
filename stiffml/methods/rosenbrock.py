"""Rosenbrock-W methods: a step solves only linear systems, all with the Jacobian at its start."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described
from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form, Numbers, Pattern, Scheme
from stiffml.methods.base import OneStep, are_within_step, stage_times
from stiffml.methods.tableaux import ROSENBROCK
from stiffml.methods.tableaux import Rosenbrock as Tableau

VARYING = {name for name, tableau in ROSENBROCK.items() if not tableau.constant_gamma}
"""Methods of PETSc whose γᵢᵢ differ. PETSc overwrites J within a step, and diverges or reads unset memory."""


@dataclass(frozen=True)
class Rosenbrock(OneStep):
    """Linearly implicit stages: (M/(hγ) − J) yᵢ = f(t₀ + cᵢh, Zᵢ) − M Σ_{j<i} dᵢⱼ yⱼ/h + hγᵢ ∂f/∂t.

    Here Zᵢ = u₀ + Σ ãᵢⱼ yⱼ, and u₁ = u₀ + Σ b̃ᵢ yᵢ.

    J and ∂f/∂t are taken at (t₀, u₀), so one factorisation serves all stages, forward and transposed. γᵢ is
    the row sum of Γ. PETSc lacks the term with ∂f/∂t; treating t as an additional state adds it. The adjoint
    of a step goes through the stages backwards. It includes the derivatives of J yᵢ + hγᵢ ∂f/∂t with respect
    to u₀, θ and t₀.

    Parameters
    ----------
    name : str
        PETSc's name, such as ``ra34pw2`` or ``rodas3``.

    Raises
    ------
    ValueError
        For an unknown name, or a method that PETSc does not integrate correctly.

    References
    ----------
    Hairer & Wanner, Solving ODEs II, section IV.7, eqs. 7.4 and 7.25; Rang & Angermann, BIT 45 (2005)
    for ``ra3pw ra34pw2``; Sandu et al., Atmos. Environ. 31 (1997) for ``rodas3 sandu3``; Rang, J. Comput.
    Appl. Math. 286 (2015) for ``r34prw r3prl2 rodaspr rodaspr2``.

    Examples
    --------
    >>> sol = stiffml.solve(func, y0, t, method=stiffml.Rosenbrock("rodas3"))  # or "rosw-rodas3"
    >>> sol.y[-1, 0], sol.stats.newton_iterations  # linear systems only
    (tensor(0.3679, dtype=torch.float64), 0)
    """

    name: str

    def __post_init__(self) -> None:
        if isinstance(self.name, str) and self.name in VARYING:
            raise ValueError(
                f"Rosenbrock: {self.name!r} has stages with different γ; PETSc then loses the Jacobian "
                f"within a step. Use one of {', '.join(constant_gamma())}"
            )
        if not isinstance(self.name, str) or self.name not in ROSENBROCK:
            raise ValueError(
                f"Rosenbrock: name must be one of {', '.join(constant_gamma())}, not {described(self.name)}"
            )

    implicit = True
    newton = False
    time_is_state = True

    @property
    def order(self) -> int:
        return ROSENBROCK[self.name].order

    @property
    def adaptive(self) -> bool:
        # An error estimate that is zero on linear problems, such as that of ra3pw, is of no use.
        return ROSENBROCK[self.name].estimates_linear

    @property
    def adaptive_dae(self) -> bool:
        return self.adaptive and self.dae and ROSENBROCK[self.name].estimates_algebraic

    mass = True

    @property
    def dae(self) -> bool:
        # |R(∞)| is the fraction of an inconsistency in the algebraic equations that a step leaves.
        return abs(ROSENBROCK[self.name].r_infinity) < 0.99

    @property
    def within_step(self) -> bool:
        return are_within_step(ROSENBROCK[self.name].a_sum)

    def evaluates_end(self, form: Form) -> bool:
        return False

    def petsc_options(self) -> dict[str, object]:
        return {"ts_type": "rosw", "ts_rosw_type": self.name}

    def scheme(self, form: Form) -> Scheme:
        return _scheme(self.name)

    def embedded(self, form: Form) -> Dense | None:
        return _embedded(self.name)

    def dense(self, form: Form) -> Dense | None:
        tableau = ROSENBROCK[self.name]
        weights = tableau.transformed_interpolation
        if weights is None or not np.allclose(weights.sum(axis=1), tableau.bt, rtol=0, atol=1e-9):
            return None
        _, y_columns, total = _columns(tableau)
        alpha = np.zeros((weights.shape[1], total))
        alpha[:, y_columns] = -weights.T
        return Dense(alpha, 0 * alpha, 0 * alpha)


def constant_gamma() -> list[str]:
    """The names of the methods that can be used."""
    return [name for name in ROSENBROCK if name not in VARYING]


def _columns(tableau: Tableau) -> tuple[list[int], list[int], int]:
    """The columns of the Zᵢ, the columns of the yᵢ, and the number of columns.

    The columns are u₀, then for each stage Zᵢ and yᵢ, then u₁. A Zᵢ equal to u₀ has no column of its own.
    """
    z_columns, y_columns, column = [], [], 0
    for i in range(tableau.stages):
        if tableau.a[i].any():
            column += 1
            z_columns.append(column)
        else:
            z_columns.append(0)
        column += 1
        y_columns.append(column)
    return z_columns, y_columns, column + 2


@cache
def _scheme(name: str) -> Scheme:
    tableau = ROSENBROCK[name]
    stages = tableau.stages
    z_columns, y_columns, total = _columns(tableau)
    fixed, per_h, beta = (np.zeros((total - 1, total)) for _ in range(3))
    rosenbrock = np.zeros(total - 1, dtype=bool)
    for i in range(stages):
        z, y = z_columns[i], y_columns[i]
        if z:
            fixed[z - 1, [0, z]] = -1, 1
            fixed[z - 1, y_columns[:i]] = -tableau.at[i, :i]
        per_h[y - 1, y_columns[: i + 1]] = tableau.gamma_inverse[i, : i + 1]
        beta[y - 1, z] = 1
        rosenbrock[y - 1] = True
    fixed[-1, [0, -1]] = -1, 1
    fixed[-1, y_columns] = -tableau.bt
    c, gamma = np.zeros(total), np.zeros(total - 1)
    c[z_columns] = tableau.a_sum
    gamma[np.array(y_columns) - 1] = tableau.gamma_sum
    pattern = Pattern(1, fixed + per_h, beta, weighted=rosenbrock, rosenbrock=rosenbrock)
    constants = [torch.from_numpy(values) for values in (fixed, per_h, beta, gamma)]
    times_of = stage_times(c)

    def numbers(times: Tensor) -> Numbers:
        fixed, per_h, beta, gamma = constants
        begin, end = times[:, :1], times[:, 1:]
        h = end - begin
        alpha = fixed + per_h / h[:, :, None]
        beta = beta.expand(len(times), *beta.shape)
        return Numbers(
            alpha, beta, beta * 0, times_of(begin, end), begin.expand(len(times), total), h * gamma
        )

    return Scheme(pattern, numbers)


@cache
def _embedded(name: str) -> Dense | None:
    tableau = ROSENBROCK[name]
    if tableau.embedded_t is None:
        return None
    _, y_columns, total = _columns(tableau)
    alpha = np.zeros((1, total))
    alpha[:, y_columns] = -tableau.embedded_t
    return Dense(alpha, 0 * alpha, 0 * alpha)
