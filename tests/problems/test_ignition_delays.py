"""ignition_delay: against Cantera, row by row, gradients, and what does not ignite."""

from __future__ import annotations

import cantera
import numpy as np
import pytest
import torch
from mechanisms import mechanism, solution
from torch import Tensor

from problems.chemistry import (
    ConstantPressureReactor,
    ConstantVolumeReactor,
    Mechanism,
    NotIgnitedError,
    ignition_delay,
    peak_time,
)


def cantera_delay(gas: cantera.Solution, kind: type, near: float, species: str | None = None) -> float:
    """Of Cantera's reactor that starts with the gas as it is, from states around ``near``."""
    reactor = kind(gas, clone=False)
    network = cantera.ReactorNet([reactor])
    network.rtol, network.atol = 1e-11, 1e-20
    times, values = near * np.linspace(0.999, 1.001, 21), []
    for time in times:
        network.advance(time)
        omega = gas.net_production_rates
        if species is not None:
            values.append(gas[species].Y[0])
        elif kind is cantera.IdealGasReactor:
            values.append(-(gas.partial_molar_int_energies @ omega) / (gas.density * gas.cv_mass))
        else:
            values.append(-(gas.partial_molar_enthalpies @ omega) / (gas.density * gas.cp_mass))
    # The vertex of a parabola through all of them: single differences would be lost in rounding.
    x = (times - near) / near
    curve = np.polynomial.Polynomial.fit(x, np.array(values) / max(values), 4)
    (root,) = [r.real for r in curve.deriv().roots() if abs(r.imag) < 1e-9 and abs(r.real) < 1e-3]
    return near * (1 + root)


@pytest.mark.parametrize("species", [None, "OH", "HO2"])
def test_hydrogen_at_constant_pressure_as_in_cantera(species: str | None) -> None:
    m, gas = mechanism("h2o2.yaml"), solution("h2o2.yaml")
    reactor = ConstantPressureReactor(m)
    delay = float(ignition_delay(reactor, reactor.state(1000.0, m.premixed(1.0, "H2")), species=species))
    gas.TPX = 1000, 101325, "H2:2, O2:1, N2:3.76"
    expected = cantera_delay(gas, cantera.IdealGasConstPressureReactor, delay, species)
    assert delay == pytest.approx(expected, rel=1e-5)


def test_methane_at_constant_volume_as_in_cantera() -> None:
    m, gas = mechanism("gri30.yaml"), solution("gri30.yaml")
    Y = m.premixed(0.8, "CH4")
    T = torch.tensor(1600.0, dtype=torch.float64)
    reactor = ConstantVolumeReactor(m, m.density(T, 5e5, Y))
    delay = float(ignition_delay(reactor, reactor.state(T, Y), rtol=1e-6))
    gas.set_equivalence_ratio(0.8, "CH4", "O2:1, N2:3.76")
    gas.TP = 1600, 5e5
    assert delay == pytest.approx(cantera_delay(gas, cantera.IdealGasReactor, delay), rel=1e-4)


def batch() -> tuple[ConstantPressureReactor, Tensor, Tensor]:
    """A reactor with pressures (3,), the states (3, 11), and the pressures."""
    m = mechanism("h2o2.yaml")
    pressures = torch.tensor([1e5, 2e6, 3e5], dtype=torch.float64)
    reactor = ConstantPressureReactor(m, pressures)
    phi = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    T = torch.tensor([950.0, 1100.0, 1400.0], dtype=torch.float64)
    return reactor, reactor.state(T, m.premixed(phi, "H2")), pressures


def test_a_batch_is_its_rows() -> None:
    """To the tolerance, which the steps of a batch and of one row meet each in its way."""
    reactor, y0, pressures = batch()
    together = ignition_delay(reactor, y0, rtol=1e-6)
    assert together.shape == (3,)
    assert together.max() > 30 * together.min()
    for row in range(3):
        one = ConstantPressureReactor(reactor.mechanism, float(pressures[row]))
        assert float(together[row]) == pytest.approx(float(ignition_delay(one, y0[row])), rel=1e-4)


def test_compiled() -> None:
    """The same delays; rates that require gradients are arguments of the code, and may change."""
    m = Mechanism.from_yaml("h2o2.yaml")
    m.log_A.requires_grad_()
    reactor = ConstantPressureReactor(m)
    y0 = reactor.state(1300.0, m.premixed(1.0, "H2"))
    with torch.no_grad():
        before = ignition_delay(reactor, y0, rtol=1e-6, compile=True)
        m.log_A += 0.3
        plain, compiled = (ignition_delay(reactor, y0, rtol=1e-6, compile=how) for how in (False, True))
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=0)
    assert compiled < 0.9 * before


@pytest.mark.parametrize(("species", "accuracy"), [(None, 3e-4), ("OH", 5e-3)])
def test_gradients(species: str | None, accuracy: float) -> None:
    m = Mechanism.from_yaml("h2o2.yaml")
    for parameter in (m.log_A, m.log_A_low):
        parameter.requires_grad_()
    pressures = torch.tensor([1e5, 2e5], dtype=torch.float64)
    reactor = ConstantPressureReactor(m, pressures)
    T = torch.tensor([1000.0, 1250.0], dtype=torch.float64)
    y0 = reactor.state(T, m.premixed(1.0, "H2")).requires_grad_()
    delays = ignition_delay(reactor, y0, species=species, rtol=1e-7)
    with torch.no_grad():
        plain = ignition_delay(reactor, y0, species=species, rtol=1e-7)
    torch.testing.assert_close(delays.detach(), plain, rtol=1e-5, atol=0)
    rows = [torch.autograd.grad(d, [m.log_A, m.log_A_low, y0], retain_graph=True) for d in delays]
    # All rates faster by a factor: all times shorter by it.
    for delay, (high, low, _) in zip(delays, rows, strict=True):
        assert (high.sum() + low.sum()).item() == pytest.approx(-delay.item(), rel=accuracy)
    # Another pressure or temperature of one mixture does not change the other's delay.
    assert not rows[0][2][1].any()
    # Differences of the delay itself, whose steps differ, along a rate and the temperatures together.
    place = m.equations.index("H + O2 <=> O + OH")

    def changed(size: float) -> Tensor:
        with torch.no_grad():
            m.log_A[place] += size
            start = y0.detach().clone()
            start[:, 0] -= 100 * size
            found = ignition_delay(reactor, start, species=species, rtol=1e-7)
            m.log_A[place] -= size
        return found

    difference = (changed(1e-2) - changed(-1e-2)) / 2e-2
    for row in range(2):
        slope = float(rows[row][0][place] - 100 * rows[row][2][row, 0])
        assert slope == pytest.approx(float(difference[row]), rel=10 * accuracy)


def test_what_does_not_ignite_says_so() -> None:
    m = mechanism("h2o2.yaml")
    reactor = ConstantPressureReactor(m)
    Y = m.premixed(1.0, "H2")
    T = torch.tensor([1400.0, 600.0], dtype=torch.float64)
    with pytest.raises(
        NotIgnitedError, match=r"mixture 1 of 2, counted from 0, has not ignited .* by 0.01 s"
    ):
        ignition_delay(reactor, reactor.state(T, Y), rtol=1e-5, longest=0.01)
    with pytest.raises(NotIgnitedError, match="mixture 0 of 1, counted from 0: H2 has its peak at the start"):
        ignition_delay(reactor, reactor.state(1400.0, Y), species="H2", rtol=1e-5)


def test_bad_arguments() -> None:
    reactor = ConstantPressureReactor(mechanism("h2o2.yaml"))
    y0 = torch.ones(11, dtype=torch.float64)
    with pytest.raises(ValueError, match="species: there is none 'CH4'; there are T, H2, H,"):
        ignition_delay(reactor, y0, species="CH4")
    with pytest.raises(ValueError, match="y0 must be states of 11 components"):
        ignition_delay(reactor, y0[:3])
    with pytest.raises(TypeError, match='reactor must be a module with components, one of them "T"'):
        ignition_delay(torch.nn.Linear(2, 2), y0)
    with pytest.raises(ValueError, match="rtol must be positive"):
        ignition_delay(reactor, y0, rtol=0.0)
    assert float(peak_time(torch.arange(3.0), torch.tensor([0.0, 1.0, 0.0]))) == 1
