"""POLLU: the chemical part of an air pollution model, 25 reactions among 20 species."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published

SPECIES = (
    *("NO2", "NO", "O3P", "O3", "HO2", "OH", "HCHO", "CO", "ALD", "MEO2"),
    *("C2O3", "CO2", "PAN", "CH3O", "HNO3", "O1D", "SO2", "SO4", "NO3", "N2O5"),
)

REACTIONS = (
    (0.35, "NO2 -> NO + O3P"),
    (26.6, "NO + O3 -> NO2"),
    (1.23e4, "HO2 + NO -> NO2 + OH"),
    (8.6e-4, "HCHO -> 2 HO2 + CO"),
    (8.2e-4, "HCHO -> CO"),
    (1.5e4, "HCHO + OH -> HO2 + CO"),
    (1.3e-4, "ALD -> MEO2 + HO2 + CO"),
    (2.4e4, "ALD + OH -> C2O3"),
    (1.65e4, "C2O3 + NO -> NO2 + MEO2 + CO2"),
    (9e3, "C2O3 + NO2 -> PAN"),
    (0.022, "PAN -> C2O3 + NO2"),
    (1.2e4, "MEO2 + NO -> CH3O + NO2"),
    (1.88, "CH3O -> HCHO + HO2"),
    (1.63e4, "NO2 + OH -> HNO3"),
    (4.8e6, "O3P -> O3"),
    (3.5e-4, "O3 -> O1D"),
    (0.0175, "O3 -> O3P"),
    (1e8, "O1D -> 2 OH"),
    (4.44e11, "O1D -> O3P"),
    (1.24e3, "SO2 + OH -> SO4 + HO2"),
    (2.1, "NO3 -> NO"),
    (5.78, "NO3 -> NO2 + O3P"),
    (0.0474, "NO2 + O3 -> NO3"),
    (1.78e3, "NO3 + NO2 -> N2O5"),
    (3.12, "N2O5 -> NO3 + NO2"),
)
"""Rate constants in 1/min or 1/(ppm min), and the reactions; oxygen, water and the like are not balanced."""


def _side(text: str) -> list[tuple[int, int]]:
    """(species, how many) of one side of a reaction."""
    terms = [term.split() for term in text.split(" + ")]
    return [(SPECIES.index(term[-1]), int(term[0]) if len(term) == 2 else 1) for term in terms]


def _tables() -> tuple[Tensor, Tensor, Tensor]:
    """Stoichiometry (25, 20), and of each reaction its first and its second species; 20 where none is."""
    stoichiometry = torch.zeros(len(REACTIONS), len(SPECIES), dtype=torch.float64)
    species = torch.full((2, len(REACTIONS)), len(SPECIES))
    for number, (_, equation) in enumerate(REACTIONS):
        consumed, produced = map(_side, equation.split(" -> "))
        for place, (one, count) in enumerate(consumed):
            species[place, number] = one
            stoichiometry[number, one] -= count
        for one, count in produced:
            stoichiometry[number, one] += count
    return stoichiometry, species[0], species[1]


_STOICHIOMETRY, _FIRST, _SECOND = _tables()


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Mass action: each reaction at its constant times the product of what it consumes."""
    constants = torch.stack([p[f"k{i}"] for i in range(1, len(REACTIONS) + 1)])
    with_one = torch.cat([y, torch.ones_like(y[..., :1])], dim=-1)
    rates = constants * with_one[..., _FIRST] * with_one[..., _SECOND]
    return rates @ _STOICHIOMETRY


def _equations() -> str:
    rows = [f"r{i:<2} = k{i} " for i in range(1, len(REACTIONS) + 1)]
    texts = []
    for row, (constant, equation) in zip(rows, REACTIONS, strict=True):
        consumed = " ".join(f"[{term.split()[-1]}]" for term in equation.split(" -> ")[0].split(" + "))
        texts.append(f"{row + consumed:<22} {equation:<32} {constant:g}")
    return "\n".join(["y' = Σ stoichiometry · rate, with the rates", *texts])


def _row(**counts: float) -> np.ndarray:
    return np.array([counts.get(name, 0.0) for name in SPECIES])


def problem() -> Problem:
    start = {"NO": 0.2, "O3": 0.04, "HCHO": 0.1, "CO": 0.3, "ALD": 0.01, "SO2": 0.007}
    return Problem(
        name="pollu",
        title="The chemical part of an air pollution model",
        rhs=rhs,
        equations=_equations(),
        y0=_row(**start),
        t_span=(0.0, 60.0),
        parameters={
            f"k{i}": Parameter(value, "1/(ppm min)" if " + " in text.split(" -> ")[0] else "1/min", text)
            for i, (value, text) in enumerate(REACTIONS, start=1)
        },
        components=SPECIES,
        units="ppm",
        time_units="min",
        invariants={
            "nitrogen": _row(NO2=1, NO=1, PAN=1, HNO3=1, NO3=1, N2O5=2),
            "sulphur": _row(SO2=1, SO4=1),
            "carbon": _row(HCHO=1, CO=1, ALD=2, MEO2=1, C2O3=2, CO2=1, PAN=2, CH3O=1),
        },
        bounds=(0.0, 0.45),
        scale=_row(
            **dict(NO2=0.16, NO=0.2, O3P=5e-9, O3=0.04, HO2=3e-7, OH=2e-7, HCHO=0.1, CO=0.33, ALD=0.01),
            **dict(MEO2=3e-8, C2O3=2e-8, CO2=2e-3, PAN=2e-4, CH3O=2e-5, HNO3=9e-3, O1D=3e-17, SO2=7e-3),
            **dict(SO4=1e-4, NO3=2e-6, N2O5=6e-5),
        ),
        references=(published("pollu", rtol_valid=1e-12),),
        stiffness="eigenvalues down to -4.4e11 (the quenching of O1D) and -4.8e6, over 60 min",
        citation="J. G. Verwer, Gauss-Seidel iteration for stiff ODEs from chemical kinetics, SIAM J. Sci. "
        "Comput. 15 (1994) 1243-1250; Test Set for Initial Value Problem Solvers (University of Bari), "
        "problem POLLU",
    )
