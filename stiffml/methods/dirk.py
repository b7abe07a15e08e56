"""Diagonally implicit Runge-Kutta methods: the stages are solved for one after the other."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache

import numpy as np

from stiffml.checks import described
from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form, Scheme
from stiffml.methods.base import OneStep, are_within_step
from stiffml.methods.runge_kutta_rows import kept_stages, stage_embedded, stage_scheme
from stiffml.methods.tableaux import DIRK as TABLEAUX
from stiffml.methods.tableaux import Butcher, Tableau


class DiagonallyImplicit(OneStep):
    """Base of methods with a diagonally implicit part; its tableau determines their properties."""

    implicit = True

    @property
    @abstractmethod
    def table(self) -> Tableau:
        """The tableau of the method."""

    @property
    def implicit_part(self) -> Butcher:
        assert self.table.implicit is not None
        return self.table.implicit

    @property
    def order(self) -> int:
        return self.table.order

    @property
    def estimate_order(self) -> int:
        return self.table.estimate_order

    @property
    def adaptive(self) -> bool:
        return self.table.embedded is not None

    @property
    def mass(self) -> bool:
        # Slopes must follow from stages: M⁻¹f may not exist.
        part = self.implicit_part
        return self.whole and (part.stiffly_accurate or bool(np.diag(part.a).all()))

    @property
    def dae(self) -> bool:
        return self.mass and self.implicit_part.stiffly_accurate

    @property
    def adaptive_dae(self) -> bool:
        return self.adaptive and self.dae and self.implicit_part.damps_slopes

    @property
    def explicit_first_stage(self) -> bool:
        return self.implicit_part.explicit_first_stage

    @property
    def within_step(self) -> bool:
        parts = (self.table.implicit, self.table.explicit)
        return all(are_within_step(part.c) for part in parts if part is not None)

    def evaluates_end(self, form: Form) -> bool:
        return self.implicit_part.stiffly_accurate and not form.split


@dataclass(frozen=True)
class DIRK(DiagonallyImplicit):
    """M(Yᵢ − u₀) = h Σ_{j≤i} aᵢⱼ f(t₀ + cⱼh, Yⱼ), u₁ = u₀ + h M⁻¹ Σ bᵢ f(Yᵢ); orders 2 to 8.

    Parameters
    ----------
    name : str
        PETSc's name, such as ``s212`` or ``es324sal``: e for an explicit first stage, s for equal diagonal
        entries, the order, the order of the error estimate, the number of stages; a for A-stable, l for
        L-stable, sa for stiffly accurate.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.

    References
    ----------
    Kennedy & Carpenter, Diagonally Implicit Runge-Kutta Methods (NASA/TM-2016-219173); Al Jahdali et
    al., arXiv 2205.13399 for the higher orders. Adjoint: Hager, Numer. Math. 87 (2000), eq. 10.

    Examples
    --------
    >>> stiffml.odeint(func, y0, t, method=stiffml.DIRK("es324sal"))[-1, 0]  # or "dirk-es324sal"
    tensor(0.3679, dtype=torch.float64)
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in TABLEAUX:
            raise ValueError(f"DIRK: name must be one of {', '.join(TABLEAUX)}, not {described(self.name)}")

    @property
    def table(self) -> Tableau:
        return TABLEAUX[self.name]

    def petsc_options(self) -> dict[str, object]:
        return {"ts_type": "dirk", "ts_dirk_type": self.name}

    def scheme(self, form: Form) -> Scheme:
        return _scheme(self.name, form.mass)

    def kept_stages(self, form: Form) -> range:
        return kept_stages(self.implicit_part)

    def embedded(self, form: Form) -> Dense | None:
        return _embedded(self.name, form.mass)


@cache
def _scheme(name: str, mass: bool) -> Scheme:
    tableau = TABLEAUX[name].implicit
    assert tableau is not None
    return stage_scheme(tableau, mass=mass)


@cache
def _embedded(name: str, mass: bool) -> Dense | None:
    tableau = TABLEAUX[name]
    assert tableau.implicit is not None
    return stage_embedded(tableau.implicit, None, mass, tableau.embedded)
