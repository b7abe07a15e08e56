"""Mechanisms without some reactions, of some species, with other rates: against Cantera and by hand."""

from __future__ import annotations

import copy
import functools

import cantera
import numpy as np
import pytest
import torch
from mechanisms import compare_rates, mechanism, random_states

from problems.chemistry import ConstantPressureReactor, Mechanism


@functools.cache
def cantera_part(file: str, gone: tuple[str, ...] = (), species: tuple[str, ...] = ()) -> cantera.Solution:
    """Cantera's mechanism of the reactions that are left."""
    gas = cantera.Solution(file)
    kept = [s for s in gas.species() if not species or s.name in species]
    names = {s.name for s in kept}
    reactions = []
    ours = mechanism(file).equations  # Cantera writes them in an order of its own
    for equation, reaction in zip(ours, gas.reactions(), strict=True):
        body = reaction.third_body
        if equation in gone or not {*reaction.reactants, *reaction.products} <= names:
            continue
        if body is not None:
            left = {k: v for k, v in body.efficiencies.items() if k in names}
            if not left and not body.default_efficiency:
                continue
            body.efficiencies = left
        reactions.append(reaction)
    return cantera.Solution(thermo="ideal-gas", kinetics="gas", species=kept, reactions=reactions)


def test_without_a_reaction_as_in_cantera() -> None:
    gone = ("H + HO2 <=> 2 OH", "OH + H2O2 <=> HO2 + H2O")  # the second is there twice
    part = mechanism("h2o2.yaml").without("H+HO2<=>2OH", "OH  + H2O2 = HO2+ H2O")
    assert part.n_reactions == 26
    assert mechanism("h2o2.yaml").n_reactions == 29
    compare_rates(part, cantera_part("h2o2.yaml", gone), random_states(12, 10))


def test_some_species_as_in_cantera() -> None:
    """Hydrogen of GRI-Mech: falloff and third-body reactions, of whose third bodies some are gone."""
    species = ("H2", "H", "O", "O2", "OH", "H2O", "HO2", "H2O2", "AR", "N2")
    part = mechanism("gri30.yaml").subset(species=reversed(species))
    assert set(part.species) == set(species)
    assert part.species == tuple(s for s in mechanism("gri30.yaml").species if s in species)
    gas = cantera_part("gri30.yaml", species=species)
    assert part.n_reactions == gas.n_reactions == 29
    compare_rates(part, gas, random_states(12, 10))
    small = mechanism("gri30.yaml").subset(species=["H2", "H", "O2", "O", "OH", "HO2"])
    assert not any("+ N2" in e or "+ AR" in e for e in small.equations)
    compare_rates(small, cantera_part("gri30.yaml", species=small.species), random_states(12, 6))


def test_some_reactions_keep_trained_values() -> None:
    whole = Mechanism.from_yaml("gri30.yaml")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter *= 1 + 0.01 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    whole.log_A.requires_grad_()
    chosen = [whole.equations[i] for i in (11, 49, 51, 3, 32, 200, 69)]
    part = whole.subset(reactions=chosen)
    places = [i for i, equation in enumerate(whole.equations) if equation in chosen]
    assert part.equations == tuple(whole.equations[i] for i in places)
    assert part.log_A.requires_grad
    assert not part.b.requires_grad
    T, p, Y = (torch.from_numpy(x) for x in random_states(5, 53))
    for ours, theirs in zip(part.rates_of_progress(T, p, Y), whole.rates_of_progress(T, p, Y), strict=True):
        torch.testing.assert_close(ours, theirs[:, places], rtol=1e-13, atol=0)
    with torch.no_grad():
        part.log_A += 1
    assert not torch.allclose(part.log_A, whole.log_A[places])
    torch.testing.assert_close(copy.deepcopy(part).without().log_A, part.log_A)


def test_rates_within_a_factor() -> None:
    whole = mechanism("gri30.yaml")
    one, again, other = whole.perturbed(1, 0.5), whole.perturbed(1, 0.5), whole.perturbed(2, 0.5)
    assert torch.equal(one.log_A, again.log_A)
    assert not torch.equal(one.log_A, other.log_A)
    assert torch.equal(whole.perturbed(1, 0.0).log_A, whole.log_A)
    change = (one.log_A - whole.log_A).numpy()
    assert abs(change.mean()) < 0.1
    assert 0.45 < change.std() < 0.55
    T, p, Y = (torch.from_numpy(x) for x in random_states(5, 53))
    for ours, theirs in zip(one.rates_of_progress(T, p, Y), whole.rates_of_progress(T, p, Y), strict=True):
        torch.testing.assert_close(ours, theirs * torch.tensor(np.exp(change)), rtol=1e-10, atol=0)


def test_a_part_reacts() -> None:
    part = mechanism("h2o2.yaml").subset(species=["H2", "O2", "H2O", "OH", "H", "O"])
    reactor = ConstantPressureReactor(part)
    slope = reactor(torch.zeros(()), reactor.state(1500.0, part.premixed(1.0, "H2", "O2:1")))
    assert slope.shape == (7,)
    inert = mechanism("h2o2.yaml").subset(species=["N2", "AR"])
    assert inert.n_reactions == 0
    empty = ConstantPressureReactor(inert)
    assert not empty(torch.zeros(()), empty.state(1500.0, inert.mass_fractions("N2:1"))).any()


def test_what_is_not_there_is_refused_with_the_nearest() -> None:
    whole = mechanism("h2o2.yaml")
    with pytest.raises(ValueError, match=r"no reaction 'H \+ HO2 => 2 OH'; did you mean 'H \+ HO2 <=> 2 OH'"):
        whole.without("H + HO2 => 2 OH")
    with pytest.raises(ValueError, match=r"has no species 'H2O3'\. Did you mean"):
        whole.subset(species=["H2", "H2O3"])
    with pytest.raises(ValueError, match="no reaction 'CH4"):
        whole.subset(reactions=["CH4 <=> CH3 + H"])
    with pytest.raises(TypeError, match="a reaction is named by its equation"):
        whole.without(3)
    with pytest.raises(TypeError, match="species must be a sequence of texts"):
        whole.subset(species="H2")
    with pytest.raises(ValueError, match="a mechanism needs at least one"):
        whole.subset(species=[])
    with pytest.raises(ValueError, match="sigma must not be negative"):
        whole.perturbed(0, -1.0)
    with pytest.raises(ValueError, match="seed must be at least 0"):
        whole.perturbed(-1, 0.5)
