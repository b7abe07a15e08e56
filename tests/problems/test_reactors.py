"""Reactors of problems.chemistry: against Cantera's reactors, ignition delays, gradients through a solve."""

from __future__ import annotations

import cantera
import numpy as np
import pytest
import torch
from mechanisms import mechanism, random_states, solution
from torch import Tensor

from problems.chemistry import (
    GAS_CONSTANT,
    ConstantPressureReactor,
    ConstantVolumeReactor,
    Mechanism,
    NotIgnitedError,
    peak_time,
)
from stiffml import Newton, solve

NOW = torch.zeros((), dtype=torch.float64)

# H2/air at phi = 1, 1000 K, 1 atm and constant pressure, with h2o2.yaml: K and mass fractions of OH at
# times in s, by SciPy's Radau at rtol 1e-10 and Cantera's CVODE at rtol 1e-12, which agree.
TEMPERATURES = {1e-4: 1000.00089194, 2e-4: 1000.08298888, 1e-3: 2692.5943566, 5e-3: 2692.81332665}
HYDROXYL = {1e-4: 1.333865258e-09, 2e-4: 1.222925766e-07, 1e-3: 0.01523231846, 5e-3: 0.01522786481}


def run(reactor: torch.nn.Module, y0: Tensor, t: Tensor, rtol: float = 1e-7) -> Tensor:
    """States at the times t."""
    atol = torch.full_like(y0, 1e-12)
    atol[0] = 1e-6  # K
    with torch.no_grad():
        return solve(reactor, y0, t, method="bdf", rtol=rtol, atol=atol, outputs="interpolate").y


def cantera_slopes(gas: cantera.Solution, kind: type, times: np.ndarray) -> np.ndarray:
    """Temperatures, and their slopes, of Cantera's reactor of a kind that starts with the gas as it is."""
    reactor = kind(gas, clone=False)
    network = cantera.ReactorNet([reactor])
    network.rtol, network.atol = 1e-10, 1e-18
    rows = []
    for time in times:
        network.advance(time)
        omega = gas.net_production_rates
        if kind is cantera.IdealGasReactor:
            slope = -(gas.partial_molar_int_energies @ omega) / (gas.density * gas.cv_mass)
        else:
            slope = -(gas.partial_molar_enthalpies @ omega) / (gas.density * gas.cp_mass)
        rows.append((gas.T, slope))
    return np.array(rows).T


def check_conserved(reactor: ConstantPressureReactor | ConstantVolumeReactor, y: Tensor) -> None:
    elements = reactor.mechanism.element_mass_fractions(y[:, 1:])
    drift = float((elements - elements[0]).abs().max())
    assert drift < 1e-12, f"element mass fractions change by {drift:.1e}"


def test_hydrogen_ignites_at_constant_pressure_as_in_cantera() -> None:
    m, gas = mechanism("h2o2.yaml"), solution("h2o2.yaml")
    reactor = ConstantPressureReactor(m, pressure=101325.0)
    y0 = reactor.state(1000.0, m.premixed(1.0, "H2"))
    fine = torch.arange(300, 325, 0.1, dtype=torch.float64) * 1e-6
    before, after = torch.tensor([[0.0, 1e-4, 2e-4], [1e-3, 2e-3, 5e-3]], dtype=torch.float64)
    t = torch.cat([before, fine, after])
    y = run(reactor, y0, t)
    delay = float(peak_time(t, reactor(NOW, y)[:, 0]))
    gas.TPX = 1000, 101325, "H2:2, O2:1, N2:3.76"
    _, slopes = cantera_slopes(gas, cantera.IdealGasConstPressureReactor, fine.numpy())
    expected = float(peak_time(fine, torch.from_numpy(slopes)))
    assert expected == pytest.approx(3.1197e-4, rel=1e-4)
    assert delay == pytest.approx(expected, rel=1e-3), "the rates agree elsewhere: look at the reactor"
    outputs = {1e-4: 1, 2e-4: 2, 1e-3: -3, 5e-3: -1}
    for time, k in outputs.items():
        assert y[k, 0].item() == pytest.approx(TEMPERATURES[time], abs=1e-3), f"T at {time} s"
        assert y[k, 1 + m.index("OH")].item() == pytest.approx(HYDROXYL[time], rel=2e-3), f"OH at {time} s"
    check_conserved(reactor, y)


def test_methane_ignites_as_in_cantera() -> None:
    m, gas = mechanism("gri30.yaml"), solution("gri30.yaml")
    reactor = ConstantPressureReactor(m)
    y0 = reactor.state(1400.0, m.premixed(1.0, "CH4"))
    fine = torch.arange(3400, 3480, dtype=torch.float64) * 1e-6
    t = torch.cat([torch.zeros(1, dtype=torch.float64), fine])
    y = run(reactor, y0, t, rtol=1e-5)
    gas.TPX = 1400, 101325, "CH4:1, O2:2, N2:7.52"
    _, slopes = cantera_slopes(gas, cantera.IdealGasConstPressureReactor, fine.numpy())
    expected = float(peak_time(fine, torch.from_numpy(slopes)))
    assert expected == pytest.approx(3.44e-3, rel=2e-3)
    assert float(peak_time(t, reactor(NOW, y)[:, 0])) == pytest.approx(expected, rel=1e-3)
    check_conserved(reactor, y)


def test_hydrogen_ignites_at_constant_volume_as_in_cantera() -> None:
    m, gas = mechanism("h2o2.yaml"), solution("h2o2.yaml")
    Y = m.premixed(0.5, "H2", "O2:1, AR:4")
    T = torch.tensor(1100.0, dtype=torch.float64)
    reactor = ConstantVolumeReactor(m, density=m.density(T, 2e5, Y))
    fine = torch.arange(30, 80, 0.1, dtype=torch.float64) * 1e-6
    t = torch.cat([torch.zeros(1, dtype=torch.float64), fine, torch.tensor([1e-3], dtype=torch.float64)])
    y = run(reactor, reactor.state(T, Y), t)
    gas.set_equivalence_ratio(0.5, "H2", "O2:1, AR:4")
    gas.TP = 1100, 2e5
    temperatures, slopes = cantera_slopes(gas, cantera.IdealGasReactor, t[1:].numpy())
    expected = float(peak_time(fine, torch.from_numpy(slopes[:-1])))
    assert float(peak_time(t, reactor(NOW, y)[:, 0])) == pytest.approx(expected, rel=1e-3)
    assert y[-1, 0].item() == pytest.approx(temperatures[-1], rel=1e-6)
    energy = m.internal_energy_mass(y[:, 0], y[:, 1:])
    change = float((energy - energy[0]).abs().max()) / float(GAS_CONSTANT * T)
    assert change < 1e-5, f"the internal energy changes by {change:.1e} of RT"
    check_conserved(reactor, y)


@pytest.mark.parametrize("kind", ["pressure", "volume"])
def test_states_in_batches(kind: str) -> None:
    m = mechanism("h2o2.yaml")
    T, p, Y = (torch.from_numpy(x) for x in random_states(6, 10))
    density = m.density(T, p, Y)
    constant = {"pressure": p, "volume": density}[kind]
    make = {"pressure": ConstantPressureReactor, "volume": ConstantVolumeReactor}[kind]
    many = make(m, constant)
    torch.testing.assert_close(getattr(many, "pressure" if kind == "pressure" else "density"), constant)
    y = many.state(T, Y)
    assert y.shape == (6, 11)
    assert many.components == ("T", *m.species)
    slopes = many(NOW, y)
    rounding = 1e-12 * slopes.abs().amax(dim=0)
    for k in range(6):
        one = make(m, float(constant[k]))
        assert ((one(NOW, y[k]) - slopes[k]).abs() <= rounding).all()
    # As defined, from what is checked against Cantera elsewhere.
    omega = m.net_production_rates(T, p, Y)
    torch.testing.assert_close(slopes[:, 1:], omega * m.molecular_weights / density[:, None])
    energy, heat = m.species_enthalpies(T), m.cp_mass(T, Y)
    if kind == "volume":
        energy, heat = energy - GAS_CONSTANT * T[:, None], m.cv_mass(T, Y)
    torch.testing.assert_close(slopes[:, 0], -(energy * omega).sum(dim=-1) / (density * heat))
    given = many(NOW, y, {"log_A": m.log_A + 0.1})
    assert not torch.allclose(given, slopes)
    shared = many.state(1000.0, Y[0])
    assert shared.shape == (11,)
    assert many.state(T, Y[0]).shape == (6, 11)


def test_wrong_pressures_and_densities() -> None:
    with pytest.raises(ValueError, match="pressure must be positive and finite, not -1"):
        ConstantPressureReactor(mechanism("h2o2.yaml"), -1.0)
    with pytest.raises(ValueError, match="density must be positive"):
        ConstantVolumeReactor(mechanism("h2o2.yaml"), torch.tensor([1.0, float("nan")]))


def test_gradient_of_a_temperature_during_ignition() -> None:
    m = mechanism("h2o2.yaml")
    reactor = ConstantPressureReactor(m)
    equations = ("H + O2 <=> O + OH", "H + O2 + M <=> HO2 + M", "O + H2 <=> H + OH")
    reactions = torch.tensor([m.equations.index(e) for e in equations])
    base = m.log_A.detach()
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return reactor(t, y, {"log_A": base.index_add(0, reactions, shift)})

    y0 = reactor.state(1200.0, m.premixed(1.0, "H2")).requires_grad_()
    t = torch.tensor([0.0, 4.5e-5], dtype=torch.float64)
    atol = torch.full_like(y0, 1e-9)
    atol[0] = 1e-3
    exact = {"method": "bdf3", "params": [shift], "newton": Newton(rtol=1e-13, atol=1e-17)}
    recorded = solve(func, y0, t, rtol=1e-3, atol=atol, **exact)
    temperature = recorded.y[-1, 0]
    assert 1300 < temperature < 2600, f"{temperature} K is not during ignition: choose another time"
    by_shift, by_state = torch.autograd.grad(temperature, [shift, y0])
    # The same, of a parameter of the module.
    trainable = Mechanism.from_yaml("h2o2.yaml")
    trainable.log_A.requires_grad_()
    own = {"method": "bdf3", "newton": exact["newton"], "steps": recorded.steps}
    solve(ConstantPressureReactor(trainable), y0.detach(), t, **own).y[-1, 0].backward()
    assert trainable.log_A.grad is not None
    torch.testing.assert_close(trainable.log_A.grad[reactions], by_shift, rtol=1e-8, atol=0)

    relative = {name: float(slope) for name, slope in zip(equations, by_shift, strict=True)}
    relative["T"] = float(by_state[0] * y0[0].detach())

    def end(name: str, change: float) -> float:
        """The temperature by the same steps, which the adjoint holds fixed too."""
        start = y0.detach().clone()
        with torch.no_grad():
            if name == "T":
                start[0] *= 1 + change
            else:
                shift[equations.index(name)] = change
            temperature = solve(func, start, t, steps=recorded.steps, **exact).y[-1, 0].item()
            shift.zero_()
        return temperature

    for name, gradient in relative.items():
        h = 1e-5 if name == "T" else 1e-4
        difference = (end(name, h) - end(name, -h)) / (2 * h)
        assert gradient == pytest.approx(difference, rel=1e-5), f"with respect to {name}"


def test_a_peak_is_the_vertex_of_a_parabola() -> None:
    times = torch.tensor([0.0, 1.0, 1.7, 3.0, 3.1], dtype=torch.float64)
    slopes = torch.stack([5 - (times - 1.9) ** 2, 3 - 2 * (times - 1.2) ** 2], dim=-1).requires_grad_()
    delays = peak_time(times, slopes)
    torch.testing.assert_close(delays, torch.tensor([1.9, 1.2], dtype=torch.float64))
    torch.testing.assert_close(peak_time(times, slopes[:, 0]), delays[0])
    (gradient,) = torch.autograd.grad(delays.sum(), slopes)
    assert (gradient != 0).sum() == 6  # of the points around each maximum
    assert torch.autograd.gradcheck(lambda f: peak_time(times, f), (slopes,))


@pytest.mark.parametrize("shape", ["rising", "falling", "constant"])
def test_what_does_not_ignite_is_an_error(shape: str) -> None:
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    slopes = {"rising": times, "falling": -times, "constant": torch.zeros_like(times)}[shape]
    with pytest.raises(NotIgnitedError, match="at an end of the times, 0 to 1"):
        peak_time(times, slopes)


def test_a_peak_needs_three_times() -> None:
    with pytest.raises(ValueError, match=r"peak_time takes three times or more.*not \(2,\) and \(2,\)"):
        peak_time(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"not \(4,\) and \(3,\)"):
        peak_time(torch.arange(4), torch.zeros(3))
    with pytest.raises(ValueError, match="not all finite"):
        peak_time(torch.arange(3), torch.tensor([0.0, float("nan"), 0.0]))


def test_proportions_are_no_mass_fractions() -> None:
    reactor = ConstantPressureReactor(mechanism("h2o2.yaml"))
    with pytest.raises(TypeError, match=r"Y must be a tensor of mass fractions, as mechanism.mass_fractions"):
        reactor.state(1000.0, {"H2": 1.0})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ConstantPressureReactor, ConstantVolumeReactor])
def test_sums_and_heat_of_further_reactions(kind: type) -> None:
    """The temperature's rate is that for which the enthalpy, or the energy, stays as it is."""
    gas = mechanism("h2o2.yaml")
    T, _, Y = map(torch.from_numpy, random_states(5, gas.n_species))
    reactor = kind(gas, 2.0e5 if kind is ConstantPressureReactor else 0.3)
    y = reactor.state(T, Y)
    rates = reactor(NOW, y)
    other = torch.cat([torch.full_like(rates[:, :1], 7.0), rates[:, 1:]], dim=1)
    torch.testing.assert_close(reactor.follow(NOW, y, other), rates, rtol=1e-9, atol=0.0)
    assert reactor.dependent == ("T",)
    assert set(reactor.invariants) == set(gas.elements)
    for row in reactor.invariants.values():
        assert row[0] == 0
        assert (rates @ row).abs().max() <= 1e-10 * (rates.abs() @ row).max()
