"""What a mechanism file says, in plain numbers: kmol, m, s, K, J."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Species:
    """A species with its NASA polynomials of 7 coefficients.

    Attributes
    ----------
    name : str
    composition : mapping of str to float
        Atoms of each element; ``E`` counts electrons, and is negative for cations.
    middle : float
        K; ``low`` holds up to and at it, ``high`` above.
    low, high : tuple of float
        a0 … a6: cp/R = a0 + a1 T + a2 T² + a3 T³ + a4 T⁴, h/RT has a5/T, s/R has a6.
    reference_pressure : float
        Pa, at which the entropy holds.
    """

    name: str
    composition: Mapping[str, float]
    middle: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    reference_pressure: float


@dataclass(frozen=True)
class Arrhenius:
    """k = A T^b exp(-Ea/(R T)): A in kmol, m³, s and K^-b, Ea in J/kmol."""

    A: float
    b: float
    Ea: float


@dataclass(frozen=True)
class ThirdBody:
    """[M] = Σ efficiency · concentration; ``default`` is that of species not named."""

    efficiencies: Mapping[str, float]
    default: float = 1.0


@dataclass(frozen=True)
class Falloff:
    """The low-pressure limit, and Troe's (A, T3, T1, T2), or None in Lindemann's form."""

    low: Arrhenius
    troe: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Reaction:
    """A reaction; ``rate`` is the high-pressure limit where it has a ``falloff``.

    ``reactants`` and ``products`` map species to coefficients, without the third body. The rate is
    multiplied by the third body's concentration, or by the falloff's function of it.
    """

    equation: str
    reactants: Mapping[str, float]
    products: Mapping[str, float]
    reversible: bool
    rate: Arrhenius
    third_body: ThirdBody | None = None
    falloff: Falloff | None = None


@dataclass(frozen=True)
class Specification:
    """A phase of a mechanism file; ``elements`` maps symbols to atomic weights in kg/kmol."""

    name: str
    elements: Mapping[str, float]
    species: tuple[Species, ...]
    reactions: tuple[Reaction, ...]
