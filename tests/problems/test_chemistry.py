"""Rates and thermodynamics of mechanisms: against Cantera, against differences, and in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mechanisms import LIMITS, compare_rates, difference, mechanism, random_states, solution, write
from torch import Tensor

from problems.chemistry import GAS_CONSTANT, Mechanism


@pytest.mark.parametrize("name", ["h2o2.yaml", "gri30.yaml"])
def test_rates_agree_with_cantera(name: str) -> None:
    compare_rates(mechanism(name), solution(name), random_states(1000, mechanism(name).n_species))


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("air.yaml", None),
        ("gri30_highT.yaml", None),
        ("gri30_ion.yaml", None),
        ("ohn.yaml", None),
        ("SiF4_NH3_mec.yaml", "gas"),
        ("ptcombust.yaml", "gas"),
        ("nDodecane_Reitz.yaml", "nDodecane_IG"),
    ],
)
def test_other_files_agree_with_cantera(name: str, phase: str | None) -> None:
    m, gas = mechanism(name, phase), solution(name, phase or "")
    assert m.elements == tuple(gas.element_names) or set(m.elements) == set(gas.element_names)
    compare_rates(m, gas, random_states(30, m.n_species))


def test_small_negative_mass_fractions_as_in_cantera() -> None:
    T, p, Y = random_states(200, 10)
    # Often two in one reaction. H2 and N2 remain, as Cantera's [M] loses digits where it is nearly zero.
    Y[:, 1:9][np.random.default_rng(1).random((200, 8)) < 0.4] *= -1e-9
    Y[:, [0, 9]] += 0.1
    compare_rates(mechanism("h2o2.yaml"), solution("h2o2.yaml"), (T, p, Y), normalized=False)


def test_thermodynamics_agree_with_cantera() -> None:
    m, gas = mechanism("gri30.yaml"), solution("gri30.yaml")
    states = random_states(200, m.n_species)
    states[0][:3] = 1000.0, np.nextafter(1000.0, 2000.0), 1368.0  # where ranges meet
    T, p, Y = (torch.from_numpy(x) for x in states)
    pure, mixed = [], []
    for temperature, pressure, fractions in zip(*states, strict=True):
        gas.TPY = temperature, pressure, fractions
        pure.append([gas.standard_cp_R, gas.standard_enthalpies_RT, gas.standard_entropies_R])
        mixed.append(
            [
                *(gas.cp_mass, gas.cv_mass, gas.enthalpy_mass, gas.int_energy_mass, gas.entropy_mass),
                *(gas.cp_mole, gas.enthalpy_mole, gas.entropy_mole, gas.density, gas.mean_molecular_weight),
            ]
        )
    cp, h, s = np.array(pure).transpose(1, 0, 2)
    s = s + np.log(states[1] / 101325)[:, None]  # Cantera's are at the mixture's pressure
    # Terms of different signs cancel in h: relative to the largest in the mixture.
    for ours, theirs in (
        (m.species_cp(T) / GAS_CONSTANT, cp),
        (m.species_enthalpies(T) / (GAS_CONSTANT * T[:, None]), h),
        (m.species_entropies(T) / GAS_CONSTANT, s),
    ):
        error, _ = difference(ours, theirs, np.abs(theirs).max(axis=1, keepdims=True) + 0 * theirs)
        assert error < 1e-12
    ours = [m.cp_mass(T, Y), m.cv_mass(T, Y), m.enthalpy_mass(T, Y), m.internal_energy_mass(T, Y)]
    ours += [m.entropy_mass(T, p, Y), m.cp_mole(T, Y), m.enthalpy_mole(T, Y), m.entropy_mole(T, p, Y)]
    ours += [m.density(T, p, Y), m.mean_molecular_weight(Y)]
    theirs = np.array(mixed)
    scale = np.abs(theirs)
    for energy, heat in ((2, 0), (3, 1), (6, 5)):  # these pass through zero
        scale[:, energy] += scale[:, heat] * states[0]
    error, worst = difference(torch.stack(ours, dim=-1), theirs, scale)
    assert error < 1e-12, f"property {worst} of the mixture differs by {error:.1e}"
    torch.testing.assert_close(m.pressure(T, m.density(T, p, Y), Y), p, rtol=1e-14, atol=0)
    gas.TPY = 1000, 101325, states[2][0]
    np.testing.assert_allclose(m.mole_fractions(Y[0]), gas.X, rtol=1e-13)


def state(zeros: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """One of h2o2.yaml."""
    T, p, Y = random_states(1, 10, seed=3)
    assert (Y[0] == 0).any()
    return torch.tensor(T[0]), torch.tensor(p[0]), torch.from_numpy(Y[0] if zeros else Y[0] + 0.01)


@pytest.mark.parametrize(
    "name", ["log_A", "b", "Ea", "log_A_low", "b_low", "Ea_low", "troe", "efficiencies", "T", "p", "Y"]
)
def test_gradients_agree_with_differences(name: str) -> None:
    m = mechanism("gri30.yaml")
    T, p, Y = (torch.as_tensor(x[1]) for x in random_states(2, 53, 7))
    inputs = {"T": T, "p": p, "Y": Y, **dict(m.named_parameters())}
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(53))
    direction = torch.from_numpy(np.random.default_rng(1).uniform(0.5, 1.5, inputs[name].shape))
    if name not in ("log_A", "log_A_low"):
        direction = direction * inputs[name].detach()  # in parts of itself, so that all of it is seen

    def loss(shift: Tensor) -> Tensor:
        moved = {**inputs, name: inputs[name].detach() + shift * direction}
        T, p, Y = (moved.pop(key) for key in ("T", "p", "Y"))
        return weights @ m.net_production_rates(T, p, Y, moved)

    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(zero), zero)
    h = 1e-4
    with torch.no_grad():
        near, far = ((loss(zero + k * h) - loss(zero - k * h)) / (2 * k * h) for k in (1, 2))
        expected = (4 * near - far) / 3
    assert abs(slope - expected) < 1e-7 * abs(expected), f"d/d{name}: {slope}, differences {expected}"


TINY = f"""
- equation: 2 OH (+M) <=> H2O2 (+M){LIMITS}
  Troe: {{A: 0.43, T3: 1.0e-30, T1: 1.0e+30}}
- equation: 2 O (+AR) <=> O2 (+AR){LIMITS}
  Troe: {{A: 0.6, T3: 0.0, T1: 2000, T2: 1e+99}}
- equation: H + OH + M <=> H2O + M
  efficiencies: {{H2: 0.73, H2O: 3.65}}
  rate-constant: {{A: 2.2e+22, b: -2.0, Ea: 0.0}}
"""


def test_first_and_second_derivatives(tmp_path: Path) -> None:
    m = Mechanism.from_yaml(write(tmp_path, TINY))
    p = torch.tensor(101325.0, dtype=torch.float64)
    Y = torch.linspace(0.05, 0.15, 10, dtype=torch.float64)
    # gradcheck compares absolutely: everything of order one.
    size = m.net_production_rates(torch.tensor(1234.0).double(), p, Y).abs().max()

    def rates(T: Tensor, Y: Tensor, log_A: Tensor) -> Tensor:
        return m.net_production_rates(1000 * T, p, Y, {"log_A": log_A}) / size

    T = torch.tensor(1.234, dtype=torch.float64)
    inputs = tuple(x.clone().requires_grad_() for x in (T, Y, m.log_A.detach()))
    assert torch.autograd.gradcheck(rates, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(rates, inputs, atol=1e-5)


def test_derivatives_at_zero_mass_fractions(tmp_path: Path) -> None:
    # All molecules are missing, and the only third body of one reaction.
    m = Mechanism.from_yaml(write(tmp_path, TINY))
    m.requires_grad_()
    T = torch.tensor(1234.0, dtype=torch.float64, requires_grad=True)
    Y = m.mass_fractions("N2").requires_grad_()
    everything = [T, Y, *m.parameters()]
    for state in (Y, Y + m.mass_fractions("OH"), Y - 1e-9 * m.mass_fractions("AR")):
        rates = m.net_production_rates(T, 101325.0, state)
        first = torch.autograd.grad(rates.sum(), everything, create_graph=True, allow_unused=True)
        used = [g for g in first if g is not None]
        second = torch.autograd.grad(sum(g.sum() for g in used), everything, allow_unused=True)
        for derivative in (*used, *(g for g in second if g is not None)):
            assert derivative.isfinite().all(), "infinity times zero: look at logarithms and quotients"
    # One OH alone: its own concentration enters squared, that of H linearly.
    jacobian = torch.func.jacrev(lambda Y: m.net_production_rates(T, 101325.0, Y))(
        m.mass_fractions("OH:1, N2:1")
    )
    assert jacobian[m.index("H2O"), m.index("H")] > 0
    assert jacobian[m.index("H2O"), m.index("O")] == 0


def test_derivatives_are_finite_with_zeros_everywhere() -> None:
    m = mechanism("gri30.yaml")
    T, p, Y = (torch.from_numpy(x) for x in random_states(30, 53))
    Y[5:10] = 0
    Y[5:10, m.index("N2")] = 1
    T[::2] = 1000.0
    (jacobian,) = torch.func.jacrev(lambda Y: (m.net_production_rates(T, p, Y).sum(dim=0),))(Y)
    slope = torch.func.jvp(lambda T: m.net_production_rates(T, p, Y), (T,), (torch.ones_like(T),))[1]
    assert jacobian.isfinite().all()
    assert slope.isfinite().all()


def test_batches_vmap_and_jacobians_agree_with_loops() -> None:
    m = mechanism("h2o2.yaml")
    T, p, Y = (torch.from_numpy(x).unflatten(0, (2, 3)) for x in random_states(6, 10))

    def flat(T: Tensor, p: Tensor, Y: Tensor) -> Tensor:
        return m.net_production_rates(T, p, Y)

    batched = flat(T, p, Y)
    looped = [[flat(T[i, j], p[i, j], Y[i, j]) for j in range(3)] for i in range(2)]
    rounding = 1e-12 * float(batched.abs().max())
    expected = torch.stack([torch.stack(row) for row in looped])
    torch.testing.assert_close(batched, expected, rtol=0, atol=rounding)
    mapped = torch.vmap(torch.vmap(flat))(T, p, Y)
    torch.testing.assert_close(batched, mapped, rtol=0, atol=rounding)
    one_pressure = flat(T, torch.tensor(2e5, dtype=torch.float64), Y)
    torch.testing.assert_close(one_pressure, flat(T, torch.full_like(p, 2e5), Y))
    torch.testing.assert_close(one_pressure, m.net_production_rates(T, 2e5, Y))
    # One temperature for many compositions.
    torch.testing.assert_close(flat(T[0, 0], p[0, 0], Y)[0, 0], batched[0, 0])

    single = T[0, 0], p[0, 0], Y[0, 0]
    backward = torch.func.jacrev(flat, argnums=2)(*single)
    forward = torch.func.jacfwd(flat, argnums=2)(*single)
    rows = torch.autograd.functional.jacobian(lambda y: flat(single[0], single[1], y), single[2])
    torch.testing.assert_close(backward, forward)
    torch.testing.assert_close(backward, rows)
    many = torch.vmap(torch.vmap(torch.func.jacrev(flat, argnums=2)))(T, p, Y)
    torch.testing.assert_close(many[0, 0], rows)


def test_parameters_are_trainable_on_request_and_can_be_passed() -> None:
    m = Mechanism.from_yaml("h2o2.yaml")
    assert not any(parameter.requires_grad for parameter in m.parameters())
    assert {n: tuple(v.shape) for n, v in m.named_parameters()} == {
        **dict.fromkeys(("log_A", "b", "Ea"), (29,)),
        **dict.fromkeys(("log_A_low", "b_low", "Ea_low"), (1,)),
        **{"troe": (1, 4), "efficiencies": (12, 10)},
    }
    assert [m.equations[i] for i in m.rates.falloff_reactions] == ["2 OH (+M) <=> H2O2 (+M)"]
    T, p, Y = state()
    own = m.net_production_rates(T, p, Y)
    given = m.net_production_rates(T, p, Y, {"log_A": m.log_A + 1})
    assert not torch.equal(own, given)
    with torch.no_grad():
        m.log_A += 1
    torch.testing.assert_close(m.net_production_rates(T, p, Y), given, rtol=0, atol=0)
    m.log_A.requires_grad_()
    m.net_production_rates(T, p, Y).sum().backward()
    assert m.log_A.grad is not None
    with pytest.raises(ValueError, match="no rate parameter log_a; there are log_A, b, Ea"):
        m.net_production_rates(T, p, Y, {"log_a": m.log_A})
    assert set(m.state_dict()) == {n for n, _ in m.named_parameters()}
    assert "ohmech: 10 species, 29 reactions" in repr(m)


def test_reactions_conserve_elements_to_rounding() -> None:
    m = mechanism("gri30.yaml")
    T, p, Y = (torch.from_numpy(x) for x in random_states(100, 53))
    assert (m.composition @ m.rates.stoichiometry).abs().max() == 0
    forward, reverse = m.rates_of_progress(T, p, Y)
    change = m.net_production_rates(T, p, Y) @ m.composition.T
    assert (change.abs() / (forward + reverse).sum(dim=-1, keepdim=True)).max() < 1e-14


def test_compositions() -> None:
    m, gas = mechanism("gri30.yaml"), solution("gri30.yaml")
    gas.X = "H2:2, O2:1, N2:3.76"
    np.testing.assert_allclose(m.mass_fractions("H2:2, O2:1, N2:3.76"), gas.Y, rtol=1e-14)
    np.testing.assert_allclose(m.mass_fractions("H2: 2 O2: 1,N2: 3.76"), gas.Y, rtol=1e-14)
    np.testing.assert_allclose(m.mass_fractions({"H2": 4, "O2": 2, "N2": 7.52}), gas.Y, rtol=1e-14)
    assert m.mass_fractions("AR")[m.index("AR")] == 1
    for phi, fuel, oxidizer in (
        (1.0, "H2", "O2:1, N2:3.76"),
        (0.7, "CH4:0.9, C2H6:0.1", "O2:1, N2:3.76"),
        (2.0, "CH3OH", "O2:0.2, N2O:0.1, AR:0.7"),
    ):
        gas.set_equivalence_ratio(phi, fuel, oxidizer)
        np.testing.assert_allclose(m.premixed(phi, fuel, oxidizer), gas.Y, rtol=1e-13, atol=1e-16)
        Y = torch.from_numpy(gas.Y)
        ours = dict(zip(m.elements, m.element_mass_fractions(Y).tolist(), strict=True))
        assert ours == pytest.approx({e: gas.elemental_mass_fraction(e) for e in m.elements}, abs=1e-14)
    assert m.premixed(torch.tensor([0.5, 1.0]), "H2").shape == (2, 53)
    for wrong, message in (
        ("H3:1", "gri30 has no species 'H3'. Did you mean"),
        ("H2:x", "'x' is not a number"),
        ("H2:-1", "not negative"),
        ("H2:0", "not all zero"),
    ):
        with pytest.raises(ValueError, match=message):
            m.mass_fractions(wrong)
    with pytest.raises(ValueError, match="the fuel 'N2' takes up no oxygen"):
        m.premixed(1.0, "N2")
    with pytest.raises(ValueError, match="the oxidizer 'N2' gives no oxygen"):
        m.premixed(1.0, "H2", "N2")
