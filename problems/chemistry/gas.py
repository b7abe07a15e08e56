"""A mixture of ideal gases: compositions, densities, heat capacities, enthalpies, entropies."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from problems.chemistry.specification import Specification
from problems.chemistry.thermodynamics import Thermodynamics
from problems.chemistry.units import GAS_CONSTANT

Proportions = str | Mapping[str, float]
"""Moles of species in any total: "O2:1, N2:3.76", or a mapping; a name alone is that species pure."""

# Moles of O2 that an atom takes up when it burns completely.
_OXYGEN_NEEDED = {"C": 1.0, "S": 1.0, "H": 0.25, "O": -0.5}


class IdealGas(nn.Module):
    """k species of m elements; float64.

    Temperatures T (…) in K, pressures p in Pa (a number or (…)), mass fractions Y (…, k). Sums over mass
    fractions are taken as they are: nothing is normalised, so that derivatives off Σ Y = 1 make sense; the
    mean molecular weight is 1/Σ(Y/W), as in Cantera's reactors.

    Attributes
    ----------
    name : str
        The phase's.
    species, elements : tuple of str
    molecular_weights, atomic_weights : Tensor
        (k,) and (m,) in kg/kmol.
    composition : Tensor
        (m, k) atoms of each element in each species.
    """

    molecular_weights: Tensor
    atomic_weights: Tensor
    composition: Tensor
    inverse_weights: Tensor
    log_reference_pressures: Tensor

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self.name = specification.name
        self.species = tuple(s.name for s in specification.species)
        self.elements = tuple(specification.elements)
        atoms = [[s.composition.get(e, 0.0) for s in specification.species] for e in self.elements]
        composition = torch.tensor(atoms, dtype=torch.float64)
        atomic = torch.tensor(list(specification.elements.values()), dtype=torch.float64)
        pressures = [s.reference_pressure for s in specification.species]
        buffers = {
            "composition": composition,
            "atomic_weights": atomic,
            "molecular_weights": atomic @ composition,
            "inverse_weights": 1 / (atomic @ composition),
            "log_reference_pressures": torch.tensor(pressures, dtype=torch.float64).log(),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        self.thermodynamics = Thermodynamics(specification.species)

    @property
    def n_species(self) -> int:
        return len(self.species)

    def index(self, name: str) -> int:
        """Where a species stands, from 0.

        Raises
        ------
        ValueError
            For one that is not in the mixture.
        """
        if name not in self.species:
            close = difflib.get_close_matches(name, self.species, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{self.name} has no species {name!r}.{meant}")
        return self.species.index(name)

    def mass_fractions(self, moles: Proportions) -> Tensor:
        """(k,) from proportions of moles such as "H2:2, O2:1, N2:3.76".

        Raises
        ------
        ValueError
            For a species that is not in the mixture, or impossible proportions.
        """
        mass = self._moles(moles) * self.molecular_weights
        return mass / mass.sum()

    def premixed(
        self, phi: float | Tensor, fuel: Proportions, oxidizer: Proportions = "O2:1, N2:3.76"
    ) -> Tensor:
        """(…, k) mass fractions of fuel and oxidizer at the equivalence ratio ``phi``, a number or (…).

        phi is 1 where complete burning to CO2, H2O and SO2 leaves neither fuel nor oxygen.

        Raises
        ------
        ValueError
            For a fuel that takes up no oxygen, or an oxidizer that gives none.
        """
        one, other = self._moles(fuel), self._moles(oxidizer)
        needed = torch.tensor([_OXYGEN_NEEDED.get(e, 0.0) for e in self.elements], dtype=torch.float64)
        demand = float(needed @ self.composition @ one)
        supply = -float(needed @ self.composition @ other)
        if demand <= 0 or supply <= 0:
            culprit = f"the fuel {fuel!r} takes up" if demand <= 0 else f"the oxidizer {oxidizer!r} gives"
            raise ValueError(f"{culprit} no oxygen: there is no equivalence ratio")
        phi = torch.as_tensor(phi, dtype=torch.float64).unsqueeze(-1)
        mass = (phi * one + demand / supply * other) * self.molecular_weights
        return mass / mass.sum(dim=-1, keepdim=True)

    def _moles(self, proportions: Proportions) -> Tensor:
        """(k,) moles as given."""
        if isinstance(proportions, str):
            pairs: dict[str, float] = {}
            for item in re.sub(r"\s*:\s*", ":", proportions).replace(",", " ").split():
                name, colon, amount = item.rpartition(":")
                try:
                    pairs[name if colon else item] = float(amount) if colon else 1.0
                except ValueError:
                    raise ValueError(f"{amount!r} is not a number, in {proportions!r}") from None
            proportions = pairs
        moles = torch.zeros(self.n_species, dtype=torch.float64)
        for name, value in proportions.items():
            moles[self.index(name)] = value
        if not (moles >= 0).all() or not 0 < float(moles.sum()) < float("inf"):
            raise ValueError(f"{proportions!r} must be numbers that are not negative, and not all zero")
        return moles

    def mole_fractions(self, Y: Tensor) -> Tensor:
        """(…, k)."""
        moles = Y * self.inverse_weights
        return moles / moles.sum(dim=-1, keepdim=True)

    def element_mass_fractions(self, Y: Tensor) -> Tensor:
        """(…, m), which reactions do not change."""
        return (Y * self.inverse_weights) @ self.composition.mT * self.atomic_weights

    def mean_molecular_weight(self, Y: Tensor) -> Tensor:
        """(…) in kg/kmol."""
        return 1 / (Y @ self.inverse_weights)

    def density(self, T: Tensor, p: Tensor | float, Y: Tensor) -> Tensor:
        """(…) in kg/m³."""
        return p / (GAS_CONSTANT * T * (Y @ self.inverse_weights))

    def pressure(self, T: Tensor, density: Tensor | float, Y: Tensor) -> Tensor:
        """(…) in Pa."""
        return GAS_CONSTANT * T * density * (Y @ self.inverse_weights)

    def concentrations(self, T: Tensor, p: Tensor | float, Y: Tensor) -> Tensor:
        """(…, k) in kmol/m³."""
        return self.density(T, p, Y).unsqueeze(-1) * (Y * self.inverse_weights)

    def species_cp(self, T: Tensor) -> Tensor:
        """(…, k) molar heat capacities at constant pressure in J/kmol/K."""
        return GAS_CONSTANT * self._reduced(T)[0]

    def species_enthalpies(self, T: Tensor) -> Tensor:
        """(…, k) molar enthalpies in J/kmol."""
        return GAS_CONSTANT * T.unsqueeze(-1) * self._reduced(T)[1]

    def species_entropies(self, T: Tensor) -> Tensor:
        """(…, k) molar entropies at the reference pressure in J/kmol/K."""
        T = T.unsqueeze(-1)
        return GAS_CONSTANT * self.thermodynamics.entropy(T, self.thermodynamics.basis(T))

    def cp_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """(…) heat capacity at constant pressure in J/kg/K."""
        return (Y * self.inverse_weights * self.species_cp(T)).sum(dim=-1)

    def cv_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """(…) heat capacity at constant volume in J/kg/K."""
        return self.cp_mass(T, Y) - GAS_CONSTANT * (Y @ self.inverse_weights)

    def enthalpy_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """(…) in J/kg."""
        return (Y * self.inverse_weights * self.species_enthalpies(T)).sum(dim=-1)

    def internal_energy_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """(…) in J/kg."""
        return self.enthalpy_mass(T, Y) - GAS_CONSTANT * T * (Y @ self.inverse_weights)

    def entropy_mass(self, T: Tensor, p: Tensor | float, Y: Tensor) -> Tensor:
        """(…) in J/kg/K, with the entropy of mixing."""
        moles = Y * self.inverse_weights
        fractions = moles / moles.sum(dim=-1, keepdim=True)
        pressure = torch.as_tensor(p, dtype=torch.float64).log().unsqueeze(-1)
        # x ln x is zero at zero; the smallest argument keeps its derivative finite.
        mixing = fractions.clamp(min=1e-300).log() + pressure - self.log_reference_pressures
        return (moles * (self.species_entropies(T) - GAS_CONSTANT * mixing)).sum(dim=-1)

    def cp_mole(self, T: Tensor, Y: Tensor) -> Tensor:
        """(…) heat capacity at constant pressure in J/kmol/K."""
        return self.cp_mass(T, Y) * self.mean_molecular_weight(Y)

    def enthalpy_mole(self, T: Tensor, Y: Tensor) -> Tensor:
        """(…) in J/kmol."""
        return self.enthalpy_mass(T, Y) * self.mean_molecular_weight(Y)

    def entropy_mole(self, T: Tensor, p: Tensor | float, Y: Tensor) -> Tensor:
        """(…) in J/kmol/K, with the entropy of mixing."""
        return self.entropy_mass(T, p, Y) * self.mean_molecular_weight(Y)

    def _reduced(self, T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        T = T.unsqueeze(-1)
        return self.thermodynamics.mixture(T, self.thermodynamics.basis(T))
