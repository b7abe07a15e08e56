"""Reading mechanism files: every form against Cantera, and what has to be refused, with its place."""

from __future__ import annotations

from pathlib import Path

import cantera
import numpy as np
import pytest
import torch
from mechanisms import LIMITS, compare_rates, random_states, write

from problems.chemistry import GAS_CONSTANT, Mechanism, MechanismError, UnsupportedMechanismError
from problems.chemistry.reading import find_file
from problems.chemistry.units import UnitSystem
from problems.chemistry.yaml12 import load

REACTIONS = {
    "irreversible": "- equation: O + H2 => H + OH\n  rate-constant: {A: 3.87e+04, b: 2.7, Ea: 6260.0}",
    "a list, and '='": "- equation: O + H2 = H + OH\n  rate-constant: [3.87e+04, 2.7, 6260.0]",
    "one collider": f"- equation: 2 OH (+AR) <=> H2O2 (+AR){LIMITS}",
    "one collider and a space": f"- equation: 2 OH (+ AR) <=> H2O2 (+ AR){LIMITS}",
    "one collider by efficiency": (
        "- equation: H + O2 + AR <=> HO2 + AR\n  efficiencies: {AR: 0.6}\n"
        "  rate-constant: {A: 7.0e+17, b: -0.8, Ea: 0.0}"
    ),
    "two possible colliders": (
        "- equation: H + O2 + AR + N2 <=> HO2 + AR + N2\n  efficiencies: {N2: 1.0}\n"
        "  rate-constant: {A: 7.0e+17, b: -0.8, Ea: 0.0}"
    ),
    "no collider": (
        "- equation: H + O2 + AR <=> HO2 + AR\n  type: elementary\n"
        "  rate-constant: {A: 7.0e+17, b: -0.8, Ea: 0.0}"
    ),
    "default efficiency": (
        "- equation: H + OH + M <=> H2O + M\n  default-efficiency: 0.2\n"
        "  efficiencies: {H2: 0.73, H2O: 3.65}\n  rate-constant: {A: 2.2e+22, b: -2.0, Ea: 0.0}"
    ),
    "negative A": (
        "- equation: OH + HO2 <=> O2 + H2O\n  negative-A: true\n  duplicate: true\n"
        "  rate-constant: {A: -1.45e+13, b: 0.0, Ea: -500.0}\n"
        "- equation: OH + HO2 <=> O2 + H2O\n  duplicate: true\n"
        "  rate-constant: {A: 5.0e+15, b: 0.0, Ea: 1.733e+04}\n"
        "- equation: H + H2O2 <=> OH + H2O\n  rate-constant: {A: 0.0, b: 0.0, Ea: 3600.0}\n"
        "- equation: 2 OH (+M) <=> H2O2 (+M)\n  type: falloff\n  negative-A: true\n"
        "  low-P-rate-constant: {A: -2.3e+18, b: -0.9, Ea: -1700.0}\n"
        "  high-P-rate-constant: {A: -7.4e+13, b: -0.37, Ea: 0.0}"
    ),
    "Lindemann": f"- equation: 2 OH (+M) <=> H2O2 (+M){LIMITS}\n  efficiencies: {{H2O: 6.0}}",
    "Troe with three": (
        f"- equation: 2 OH (+M) <=> H2O2 (+M){LIMITS}\n  Troe: {{A: 0.7, T3: 94.0, T1: 1756.0}}"
    ),
    "Troe with extremes": (
        f"- equation: 2 OH (+M) <=> H2O2 (+M){LIMITS}\n  Troe: {{A: 0.43, T3: 1.0e-30, T1: 1.0e+30}}\n"
        f"- equation: 2 O (+M) <=> O2 (+M){LIMITS}\n  Troe: {{A: 0.6, T3: 0.0, T1: 50, T2: 1e+99}}\n"
        f"- equation: 2 H (+M) <=> H2 (+M){LIMITS}\n  Troe: {{A: 2.5, T3: -1.0e4, T1: 300, T2: -20}}\n"
    ),
    "limits of zero": (
        "- equation: 2 OH (+M) <=> H2O2 (+M)\n  type: falloff\n"
        "  low-P-rate-constant: {A: 0.0, b: -0.9, Ea: -1700.0}\n"
        "  high-P-rate-constant: {A: 7.4e+13, b: -0.37, Ea: 0.0}\n  Troe: {A: 0.7, T3: 94.0, T1: 1756.0}"
    ),
    "three-body and a taking part": (
        "- equation: H + O2 + M <=> HO2 + M\n  type: three-body\n"
        "  rate-constant: {A: 2.8e+18, b: -0.86, Ea: 0.0}\n  efficiencies: {O2: 0.0, AR: 0.0}"
    ),
    "four molecules": "- equation: 4 OH <=> 2 H2O + O2\n  rate-constant: {A: 1.0e+21, b: 0, Ea: 1000}",
    "fractions of products": ("- equation: H2O => H2 + 0.5 O2\n  rate-constant: {A: 1.0e+4, b: 0, Ea: 1000}"),
    "units of their own": (
        "- equation: O + H2 <=> H + OH\n  rate-constant: {A: 3.87e-2 m^3/mol/s, b: 2.7, Ea: 26.2 kJ/mol}\n"
        "- equation: O + HO2 <=> OH + O2\n  rate-constant: [2.0e+10 m^3/kmol/s, 0.0, 300 K]\n"
        "- equation: H + O2 + M <=> HO2 + M\n"
        "  rate-constant: {A: 7.7e-30 cm^6/molec^2/s, b: -0.86, Ea: 0.1 eV}\n"
        "- equation: H + O2 <=> O + OH\n  units: {length: m, activation-energy: K}\n"
        "  rate-constant: {A: 2.65e+10, b: -0.6707, Ea: 8500}"
    ),
    "units of a section": (
        "- units: {length: m, quantity: kmol, time: min, activation-energy: J/mol}\n"
        "- equation: O + H2 <=> H + OH\n  rate-constant: {A: 3.87e+04, b: 2.7, Ea: 6260.0}"
    ),
}


@pytest.mark.parametrize("what", REACTIONS)
def test_forms_of_reactions_agree_with_cantera(what: str, tmp_path: Path) -> None:
    path = write(tmp_path, REACTIONS[what])
    m = Mechanism.from_yaml(path)
    compare_rates(m, cantera.Solution(path), random_states(60, m.n_species))


def test_names_that_yaml_11_takes_for_something_else(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "- equation: N + NO <=> N2 + O\n  rate-constant: {A: 2.7e13, b: 0, Ea: 355}\n"
        "- equation: 2 N + M <=> N2 + M\n  efficiencies: {NO: 2}\n  rate-constant: {A: 1e5, b: 0, Ea: 0}",
        species="gri30.yaml/species: [N, NO, N2, O]",
    )
    m = Mechanism.from_yaml(path)
    assert m.species == ("N", "NO", "N2", "O")
    assert m.efficiencies[0].tolist() == [1, 2, 1, 1]
    compare_rates(m, cantera.Solution(path), random_states(20, 4))


def test_yaml_is_12_and_data(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(
        "{a: NO, b: 1e5, c: 010, d: 0o10, e: on, f: 2019-12-11, g: 1:30, h: true, i: .5, j: '1', k: }"
    )
    values = [*load(path).values()]
    assert values == ["NO", 1e5, 10, 8, "on", "2019-12-11", "1:30", True, 0.5, "1", None]
    assert type(values[1]) is float
    path.write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(MechanismError, match=r"values\.yaml is not a YAML file that can be read"):
        load(path)
    path.write_text("{a: 1, b: 2, a: 3}")
    with pytest.raises(MechanismError, match=r"twice(.|\n)*line 1"):
        load(path)
    path.write_text("[1, 2]")
    with pytest.raises(MechanismError, match="must hold a mapping"):
        load(path)


def test_units() -> None:
    units = UnitSystem().updated({"length": "cm", "quantity": "mol", "energy": "kJ", "pressure": "atm"})
    assert units.rate_constant(1e13, 2) == pytest.approx(1e10, rel=1e-14)
    assert units.rate_constant("1.0e13 cm^3/mol/s", 2) == pytest.approx(1e10, rel=1e-14)
    assert units.rate_constant("6e10 1/min", 1) == pytest.approx(1e9, rel=1e-14)
    assert units.rate_constant(2.0, 1) == 2.0
    assert units.molar_energy(1.0) == pytest.approx(1e6)  # energy per quantity, as none is declared
    assert units.molar_energy("5.0 kcal/mol") == pytest.approx(5 * 4184e3, rel=1e-14)
    assert units.molar_energy("2 K") == pytest.approx(2 * GAS_CONSTANT, rel=1e-14)
    assert units.pressure_in_pascal(2) == 202650
    assert units.pressure_in_pascal("1.5 bar") == pytest.approx(1.5e5)
    assert UnitSystem().updated({"activation-energy": "K"}).molar_energy(1) == GAS_CONSTANT
    for wrong, message in (
        ({"length": "s"}, "'s' cannot be the unit of 'length'"),
        ({"length": "furlong"}, "unknown unit 'furlong'"),
        ({"activation-energy": "m"}, "'m' is not a unit of activation energy"),
        (["cm"], "units must be a mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            UnitSystem().updated(wrong)
    for value, message in (
        ("1e13 cm^3/mol", "is not a unit of a rate constant of order 2"),
        ("much", "neither a number nor"),
        ("1 cm^x", "'x' is not an exponent"),
        (True, "True is not a finite number"),
        ("nan cm^3/mol/s", "nan is not a finite number"),
        (None, "None is not a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            units.rate_constant(value, 2)


UNSUPPORTED = {
    "pressure-dependent-Arrhenius": (
        "H + HO2 <=> 2 OH",
        "type: pressure-dependent-Arrhenius\n  rate-constants: [{P: 1 atm, A: 1e13, b: 0, Ea: 0}]",
    ),
    "Chebyshev": ("H + HO2 <=> 2 OH", "type: Chebyshev\n  data: [[1.0]]"),
    "chemically-activated": ("2 OH (+M) <=> H2O + O (+M)", "type: chemically-activated"),
    "SRI": ("2 OH (+M) <=> H2O2 (+M)", f"{LIMITS.strip()}\n  SRI: {{A: 1.1, B: 700.0, C: 1234.0}}"),
    "Tsang": ("2 OH (+M) <=> H2O2 (+M)", f"{LIMITS.strip()}\n  Tsang: {{A: 0.9, B: -1.0e-4}}"),
    "Blowers-Masel": ("H + HO2 <=> 2 OH", "type: Blowers-Masel\n  rate-constant: [1e13, 0, 100, 1e9]"),
    "linear-Burke": ("2 OH <=> H2O2", "type: linear-Burke\n  colliders: []"),
    "two-temperature-plasma": ("H + O => H + O", "type: two-temperature-plasma"),
    "explicit reaction orders": (
        "H + HO2 => 2 OH",
        "orders: {H: -0.5}\n  rate-constant: [1e13, 0, 0]",
    ),
    "not whole": ("1.5 H2 + O2 <=> H2O + 0.5 H2O2", "rate-constant: [1e13, 0, 0]"),
    "sticking": ("H + HO2 <=> 2 OH", "sticking-coefficient: [1, 0, 0]"),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_rates_are_refused_by_name_and_number(what: str, tmp_path: Path) -> None:
    equation, rest = UNSUPPORTED[what]
    path = write(tmp_path, f"{REACTIONS['irreversible']}\n- equation: {equation}\n  {rest}")
    with pytest.raises(UnsupportedMechanismError) as caught:
        Mechanism.from_yaml(path)
    message = str(caught.value)
    assert what in message
    assert path in message
    assert f"section 'reactions', reaction 2 (counted from 1), '{equation}'" in message
    assert isinstance(caught.value, ValueError)
    # Left out with its species, it does no harm.
    others = "[O2, N2, H2, O, OH, H]" if "HO2" in equation else "[O2, N2, H2]"
    path = write(
        tmp_path,
        f"{REACTIONS['irreversible']}\n- equation: {equation}\n  {rest}",
        f"h2o2.yaml/species: {others}",
        "reactions: declared-species",
    )
    if what != "two-temperature-plasma":
        assert Mechanism.from_yaml(path).n_reactions == ("HO2" in equation)


MALFORMED = {
    "no species XY in this phase": "- equation: H + XY <=> H2\n  rate-constant: [1, 0, 0]",
    "none of the arrows": "- equation: H + H\n  rate-constant: [1, 0, 0]",
    "two arrows": "- equation: 2 H <=> H2 <=> 2 H\n  rate-constant: [1, 0, 0]",
    "spaces separate": "- equation: 2 H H <=> H2\n  rate-constant: [1, 0, 0]",
    "is not a coefficient": "- equation: two H <=> H2\n  rate-constant: [1, 0, 0]",
    "'-1' is not a coefficient": "- equation: -1 H <=> H2\n  rate-constant: [1, 0, 0]",
    "2 atoms of H on the left, 3 on the right": "- equation: 2 H <=> H2 + H\n  rate-constant: [1, 0, 0]",
    "M must stand once on each side": "- equation: 2 H + M <=> H2\n  rate-constant: [1, 0, 0]",
    "needs a third body": "- equation: 2 H <=> H2\n  type: three-body\n  rate-constant: [1, 0, 0]",
    "efficiencies must name it": (
        "- equation: H + AR + N2 <=> H + AR + N2\n  type: three-body\n  rate-constant: [1, 0, 0]"
    ),
    "third body in brackets": f"- equation: 2 OH <=> H2O2{LIMITS}",
    "the same sign": (
        "- equation: 2 OH (+M) <=> H2O2 (+M)\n  type: falloff\n  negative-A: true\n"
        "  low-P-rate-constant: [-1, 0, 0]\n  high-P-rate-constant: [1, 0, 0]"
    ),
    "no third body": "- equation: 2 OH <=> H2O2\n  efficiencies: {AR: 1}\n  rate-constant: [1, 0, 0]",
    "which this phase does not have": (
        "- equation: H + OH + M <=> H2O + M\n  efficiencies: {CO: 1}\n  rate-constant: [1, 0, 0]"
    ),
    "no other can have an efficiency": (
        "- equation: H + OH + AR <=> H2O + AR\n  efficiencies: {N2: 1}\n  rate-constant: [1, 0, 0]"
    ),
    "is negative; 'negative-A: true' allows it": "- equation: 2 H <=> H2\n  rate-constant: [-1, 0, 0]",
    "'rate-constant' is missing": "- equation: 2 H <=> H2",
    "'rate-constant' must be a mapping": "- equation: 2 H <=> H2\n  rate-constant: 5",
    "'Ea' is missing": "- equation: 2 H <=> H2\n  rate-constant: {A: 1, b: 0}",
    "must have three entries": "- equation: 2 H <=> H2\n  rate-constant: [1, 2]",
    "is not a finite number": "- equation: 2 H <=> H2\n  rate-constant: [1, NO, 2]",
    "'T1' is missing in 'Troe'": f"- equation: 2 OH (+M) <=> H2O2 (+M){LIMITS}\n  Troe: {{A: 0.4, T3: 1}}",
    "is not a unit of a rate constant of order 2": (
        "- equation: 2 H <=> H2\n  rate-constant: [1 cm^6/mol^2/s, 0, 0]"
    ),
    "'equation' is missing": "- rate-constant: [1, 0, 0]",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_reactions_are_refused_with_their_place(what: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"{REACTIONS['irreversible']}\n{MALFORMED[what]}")
    with pytest.raises(MechanismError) as caught:
        Mechanism.from_yaml(path)
    message = str(caught.value)
    assert what in message
    assert f"{path}, section 'reactions', reaction 2 (counted from 1)" in message
    assert not isinstance(caught.value, UnsupportedMechanismError)


SPECIES = """
phases:
- {name: gas, thermo: ideal-gas%s}
species:
- name: A
  composition: {Xx: 1, H: 2}
  thermo:
    model: %s
    temperature-ranges: [200, 1000%s]
    reference-pressure: 1 bar
    data: [[2.5, 1e-3, 0, 0, 0, -745.375, 4.366]%s]
- {name: B, composition: {H: 2}, thermo: {model: NASA7, temperature-ranges: [200 K, 6000],
   reference-pressure: 1 bar, data: [[2.5, 1e-3, 0, 0, 0, -745.375, 4.366]]}}
"""
WEIGHT = "elements: [{symbol: Xx, atomic-weight: 7.5}]\n"


def test_custom_elements_single_ranges_and_reference_pressures(tmp_path: Path) -> None:
    path = tmp_path / "species.yaml"
    path.write_text(WEIGHT + SPECIES % (", elements: [H, Xx], kinetics: none", "NASA7", "", ""))
    m, gas = Mechanism.from_yaml(path), cantera.Solution(str(path))
    assert m.elements == ("H", "Xx")
    np.testing.assert_allclose(m.molecular_weights, gas.molecular_weights, rtol=1e-15)
    assert m.composition.tolist() == [[2, 2], [1, 0]]
    assert m.n_reactions == 0
    T, p, Y = (torch.from_numpy(x) for x in random_states(5, 2))
    assert m.net_production_rates(T, p, Y).abs().max() == 0
    assert m.rates_of_progress(T, p, Y)[0].shape == (5, 0)
    gas.TPY = 1500, 3e5, [0.25, 0.75]
    ours = m.entropy_mass(torch.tensor(1500.0).double(), 3e5, torch.tensor([0.25, 0.75]).double())
    assert float(ours) == pytest.approx(gas.entropy_mass, rel=1e-13)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            WEIGHT + SPECIES % ("", "NASA9", "", ""),
            UnsupportedMechanismError,
            "species 'A': .*'NASA9' is not",
        ),
        (SPECIES % ("", "NASA7", "", ""), MechanismError, "species 'A': .* the element Xx"),
        (SPECIES % (", elements: [H, Xx]", "NASA7", "", ""), MechanismError, "no weight of the element 'Xx'"),
        (WEIGHT + SPECIES % ("", "NASA7", ", 2000", ""), MechanismError, "one temperature more"),
        (WEIGHT + SPECIES % ("", "NASA7", ", 2000", ", [1, 2]"), MechanismError, "7 coefficients"),
        (WEIGHT + SPECIES % ("", "NASA7", ", 100", ", []"), MechanismError, "do not increase"),
        (WEIGHT + SPECIES % (", species: [A, C]", "NASA7", "", ""), MechanismError, "species 'C': it is not"),
        (WEIGHT + SPECIES % (", species: [A, A]", "NASA7", "", ""), MechanismError, "has it twice"),
        (WEIGHT + SPECIES % (", species: 5", "NASA7", "", ""), MechanismError, "cannot read 'species': 5"),
        (WEIGHT + SPECIES % (", kinetics: gas", "NASA7", "", ""), MechanismError, "'reactions' is missing"),
        (WEIGHT + SPECIES % (", kinetics: surface", "NASA7", "", ""), UnsupportedMechanismError, "'surface'"),
        ("species: []", MechanismError, "section 'phases': 'phases' is missing"),
        ("phases: [5]", MechanismError, "section 'phases': every entry must be a mapping"),
        ("phases: []", MechanismError, "no phase None; it has none"),
    ],
)
def test_malformed_species_and_phases(text: str, error: type, message: str, tmp_path: Path) -> None:
    path = tmp_path / "species.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        Mechanism.from_yaml(path)


def test_phases_choose_species_and_reactions(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMechanismError, match=r"Redlich-Kwong.*pass phase='nDodecane_IG'"):
        Mechanism.from_yaml("nDodecane_Reitz.yaml")
    with pytest.raises(MechanismError, match="no phase 'gas'; it has ohmech, ohmech-RK"):
        Mechanism.from_yaml("h2o2.yaml", phase="gas")
    lists = (
        "phases:\n"
        "- {name: both, thermo: ideal-gas, kinetics: gas, species: [{h2o2.yaml/species: [H, H2, O2]}],\n"
        "   reactions: [first, second]}\n"
        "- {name: rules, thermo: ideal-gas, kinetics: gas, elements: [H], skip-undeclared-elements: true,\n"
        "   species: [{h2o2.yaml/species: all}], skip-undeclared-third-bodies: true,\n"
        "   reactions: [{first: declared-species}, {second: none}]}\n"
        "first:\n"
        "- {equation: 2 H + M <=> H2 + M, efficiencies: {O2: 3.0}, rate-constant: [1, 0, 0]}\n"
        "- {equation: 2 H + O2 <=> H2 + O2, rate-constant: [1, 0, 0]}\n"
        "second:\n- {equation: H2 => 2 H, rate-constant: [1, 0, 0]}\n"
    )
    path = tmp_path / "lists.yaml"
    path.write_text(lists)
    both, rules = (Mechanism.from_yaml(path, phase) for phase in ("both", "rules"))
    assert both.equations == ("2 H + M <=> H2 + M", "2 H + O2 <=> H2 + O2", "H2 => 2 H")
    assert both.species == ("H", "H2", "O2")
    assert (rules.species, rules.equations) == (("H2", "H"), ("2 H + M <=> H2 + M",))


def test_files_are_found_or_missed_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_file("h2o2.yaml").name == "h2o2.yaml"
    with pytest.raises(FileNotFoundError, match=r"no file 'h3o3.yaml' here, nor in .*which Cantera ships"):
        Mechanism.from_yaml("h3o3.yaml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install '\.\[chemistry\]'"):
        Mechanism.from_yaml("h2o2.yaml")
