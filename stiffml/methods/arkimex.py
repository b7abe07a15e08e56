"""Additive Runge-Kutta methods: one part of the right-hand side implicit, the other explicit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from stiffml.checks import described
from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form, Scheme
from stiffml.methods.dirk import DiagonallyImplicit
from stiffml.methods.runge_kutta_rows import kept_stages, stage_embedded, stage_interpolant, stage_scheme
from stiffml.methods.tableaux import ARKIMEX as TABLEAUX
from stiffml.methods.tableaux import Tableau


@dataclass(frozen=True)
class ARKIMEX(DiagonallyImplicit):
    """Yᵢ = u₀ + h Σ_{j≤i} aᵢⱼ f(Yⱼ) + h Σ_{j<i} âᵢⱼ g(Yⱼ), u₁ = u₀ + h Σ (bᵢ f(Yᵢ) + b̂ᵢ g(Yᵢ)).

    f and g are the parts of ``Split(implicit=f, explicit=g)``. Any other right-hand side is treated
    implicitly as a whole, and may then have a mass matrix.

    Parameters
    ----------
    name : str
        PETSc's name, such as ``3`` or ``ars443``.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.

    References
    ----------
    Kennedy & Carpenter, Appl. Numer. Math. 44 (2003) for ``3 4 5``; Ascher, Ruuth & Spiteri, Appl.
    Numer. Math. 25 (1997) for ``ars…``; Giraldo, Kelly & Constantinescu, SIAM J. Sci. Comput. 35 (2013) for
    ``2c 2d 2e``; Pareschi & Russo, J. Sci. Comput. 25 (2005) for ``prssp2 l2 a2``.

    Examples
    --------
    >>> split = stiffml.Split(lambda t, y: -1e3 * y, lambda t, y: 1e3 * torch.cos(t) + 0 * y)
    >>> sol = stiffml.solve(split, y0, t, method=stiffml.ARKIMEX("4"))  # or method="arkimex-4"
    >>> sol.y[-1]  # cos(1) + sin(1)/1000, but for 1e-6
    tensor([0.5411, 0.5411], dtype=torch.float64)
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in TABLEAUX:
            known = ", ".join(TABLEAUX)
            raise ValueError(f"ARKIMEX: name must be one of {known}, not {described(self.name)}")

    split = True

    @property
    def table(self) -> Tableau:
        return TABLEAUX[self.name]

    @property
    def whole(self) -> bool:
        # PETSc takes the slope of an explicit first stage from the last stage of the previous step. That
        # stage is the old state only if the tableau is stiffly accurate.
        return self.implicit_part.stiffly_accurate or not self.explicit_first_stage

    def petsc_options(self) -> dict[str, object]:
        return {"ts_type": "arkimex", "ts_arkimex_type": self.name}

    def scheme(self, form: Form) -> Scheme:
        return _scheme(self.name, form)

    def dense(self, form: Form) -> Dense | None:
        explicit = self.table.explicit if form.split else None
        return stage_interpolant(self.implicit_part, explicit, form.mass, self.table.interpolation)

    def embedded(self, form: Form) -> Dense | None:
        return _embedded(self.name, form)

    def kept_stages(self, form: Form) -> range:
        return kept_stages(self.implicit_part, self.table.explicit if form.split else None)


@cache
def _scheme(name: str, form: Form) -> Scheme:
    tableau = TABLEAUX[name]
    assert tableau.implicit is not None
    return stage_scheme(tableau.implicit, tableau.explicit if form.split else None, mass=form.mass)


@cache
def _embedded(name: str, form: Form) -> Dense | None:
    tableau = TABLEAUX[name]
    assert tableau.implicit is not None
    explicit = tableau.explicit if form.split else None
    return stage_embedded(tableau.implicit, explicit, form.mass, tableau.embedded)
