"""A reaction mechanism: an ideal gas whose species react."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from problems.chemistry.gas import IdealGas
from problems.chemistry.rates import Rates, initial_parameters
from problems.chemistry.reading import read
from problems.chemistry.selection import places_of, selected, selected_parameters
from problems.chemistry.specification import Specification
from stiffml.checks import number, texts, whole


class Mechanism(IdealGas):
    """n reactions among k species, in float64.

    The rate parameters are ``nn.Parameter`` whose gradient is off; ``requires_grad_()`` turns it on. Every
    function of them takes ``parameters`` too, a mapping with other values for some or all: the same
    functions without state.

    Attributes
    ----------
    log_A, b, Ea : Parameter
        (n,): k = A T^b exp(-Ea/(R T)), with ln |A| in kmol, m³, s and Ea in J/kmol; in falloff reactions
        the high-pressure limit.
    log_A_low, b_low, Ea_low : Parameter
        The low-pressure limits of the reactions ``rates.falloff_reactions``.
    troe : Parameter
        (…, 4): A, T3, T1 and T2 of the reactions ``rates.troe_reactions``. A reaction without T2 has 1e30,
        for which its term is zero.
    efficiencies : Parameter
        (…, k): of each species as a third body of the reactions ``rates.third_body_reactions``.
    rates : Rates
        Which reactions those are (indices from 0), and ``rates.stoichiometry`` (k, n).
    equations : tuple of str
        The reactions, as the file writes them.

    Examples
    --------
    >>> from problems.chemistry import Mechanism
    >>> mechanism = Mechanism.from_yaml("h2o2.yaml")  # one of Cantera's, or the path of a file
    >>> mechanism.n_species, mechanism.n_reactions, mechanism.equations[2]
    (10, 29, 'O + H2 <=> H + OH')
    >>> Y = mechanism.premixed(1.0, "H2")  # stoichiometric with air
    >>> round(mechanism.mean_molecular_weight(Y).item(), 2)  # kg/kmol
    20.91
    """

    log_A: Tensor
    b: Tensor
    Ea: Tensor
    log_A_low: Tensor
    b_low: Tensor
    Ea_low: Tensor
    troe: Tensor
    efficiencies: Tensor

    def __init__(self, specification: Specification) -> None:
        super().__init__(specification)
        self._specification = specification
        self.equations = tuple(reaction.equation for reaction in specification.reactions)
        self.rates = Rates(specification.reactions, self.species)
        for name, value in initial_parameters(specification.reactions, self.rates, self.species).items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    @classmethod
    def from_yaml(cls, source: str | Path, phase: str | None = None) -> Mechanism:
        """Reads a mechanism in Cantera's format.

        Parameters
        ----------
        source : str or Path
            A path, or the name of a file that Cantera ships, such as ``"gri30.yaml"``.
        phase : str, optional
            By default the file's first.

        Raises
        ------
        FileNotFoundError
            For a file that is not there.
        MechanismError
            For a file that cannot be read; :class:`UnsupportedMechanismError` where it uses a model that
            is not supported. Both are ValueErrors, and name file, section and entry.
        """
        return cls(read(source, phase))

    @property
    def n_reactions(self) -> int:
        """How many reactions there are."""
        return len(self.equations)

    # Parts and variants: copies, whose rate parameters have the values that these have now.

    def without(self, *reactions: str) -> Mechanism:
        """A copy that lacks reactions, named by their equations, whatever the spacing.

        All reactions with the same equation go.

        Raises
        ------
        ValueError
            For a reaction that is not there; the message has the nearest.

        Examples
        --------
        >>> from problems.chemistry import Mechanism
        >>> mechanism = Mechanism.from_yaml("h2o2.yaml")
        >>> mechanism.n_reactions, mechanism.without("H+HO2 <=> 2OH").n_reactions
        (29, 28)
        """
        gone = places_of(self.equations, reactions)
        return self._selected([i for i in range(self.n_reactions) if i not in gone], self.species)

    def subset(
        self, species: Iterable[str] | None = None, reactions: Iterable[str] | None = None
    ) -> Mechanism:
        """A copy of some species, some reactions, or both.

        Parameters
        ----------
        species : iterable of str, optional
            In any order; the copy has the order of this mechanism. Reactions in which another takes part are
            left out, as are efficiencies of others as third bodies. Default: all.
        reactions : iterable of str, optional
            Equations, as in :meth:`without`. Default: all.

        Raises
        ------
        ValueError
            For a species or a reaction that is not there, or no species.
        """
        names = self.species if species is None else texts("species", species)
        if not names:
            raise ValueError("species: a mechanism needs at least one")
        for name in names:
            self.index(name)
        if reactions is None:
            return self._selected(range(self.n_reactions), names)
        return self._selected(places_of(self.equations, texts("reactions", reactions)), names)

    def perturbed(self, seed: int, sigma: float) -> Mechanism:
        """A copy whose rate constants are multiplied by exp(sigma · ε), ε normal and one for each reaction.

        In falloff reactions both limits are multiplied by the same. With sigma = 0.5 two of three rates are
        within a factor of 1.65.
        """
        sigma = number("sigma", sigma, least=0)
        generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
        drawn = torch.randn(self.n_reactions, generator=generator, dtype=torch.float64) * sigma
        copy = self._selected(range(self.n_reactions), self.species)
        with torch.no_grad():
            copy.log_A += drawn.to(copy.log_A)
            copy.log_A_low += drawn.to(copy.log_A_low)[list(self.rates.falloff_reactions)]
        return copy

    def _selected(self, reactions: Iterable[int], species: Iterable[str]) -> Mechanism:
        specification, places = selected(self._specification, reactions, tuple(species))
        copy = type(self)(specification)
        columns = [self.index(name) for name in copy.species]
        own = dict(self.named_parameters(recurse=False))
        for name, value in selected_parameters(own, self.rates, copy.rates, places, columns).items():
            setattr(copy, name, nn.Parameter(value.clone(), requires_grad=own[name].requires_grad))
        return copy.to(self.log_A)

    def net_production_rates(
        self, T: Tensor, p: Tensor | float, Y: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """(…, k) in kmol/m³/s, from T (…) in K, p in Pa and mass fractions Y (…, k)."""
        return self.source(T.unsqueeze(-1), self.concentrations(T, p, Y), parameters)[2]

    def rates_of_progress(
        self, T: Tensor, p: Tensor | float, Y: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Forward and reverse, (…, n) each, in kmol/m³/s; the reverse of irreversible reactions is zero."""
        T, concentrations = T.unsqueeze(-1), self.concentrations(T, p, Y)
        basis = self.thermodynamics.basis(T)
        gibbs = self.thermodynamics.mixture(T, basis)[2]
        return self.rates(T, basis, gibbs, concentrations, self._complete(parameters))

    def source(
        self, T: Tensor, concentrations: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a reactor needs: cp/R, h/RT and net production rates in kmol/m³/s, each (…, k).

        T is (…, 1) in K, the concentrations (…, k) in kmol/m³.

        Raises
        ------
        ValueError
            For ``parameters`` that the mechanism does not have.
        """
        basis = self.thermodynamics.basis(T)
        heat, enthalpy, gibbs = self.thermodynamics.mixture(T, basis)
        if not self.equations:
            return heat, enthalpy, torch.zeros_like(concentrations)
        forward, reverse = self.rates(T, basis, gibbs, concentrations, self._complete(parameters))
        return heat, enthalpy, (forward - reverse) @ self.rates.stoichiometry.mT

    def _complete(self, parameters: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        """The given rate parameters, and its own for the rest."""
        own: Mapping = self._parameters
        if not parameters:
            return own
        unknown = sorted(set(parameters) - set(own))
        if unknown:
            raise ValueError(f"no rate parameter {', '.join(unknown)}; there are {', '.join(own)}")
        return {**own, **parameters}

    def extra_repr(self) -> str:
        return f"{self.name}: {self.n_species} species, {self.n_reactions} reactions"
