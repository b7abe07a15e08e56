"""The pieces of the experiment closure: chosen times, the heat of what is learned, POLLU itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray
from torch import Tensor

pytest.importorskip("cantera")
pytest.importorskip("casadi")

from problems.chemistry import ConstantPressureReactor, Mechanism
from problems.trajectories import reference_trajectory
from stiffml.closures import Closure, Reactions
from stiffml.closures.preparing import sizes_of
from stiffml.experiments.closure import hydrogen, ignitions, pollu, pressures

STATES = ignitions.EVERY


def test_as_much_happens_between_any_two_times() -> None:
    """One component grows by e⁶ until t = 1, another stands still, time goes on."""
    t = np.concatenate([[0.0], np.geomspace(1e-4, 2.0, 4000)])
    y = np.column_stack([np.exp(6 * np.minimum(t, 1.0)), np.full_like(t, 3.0)])
    chosen = ignitions.evenly(t, y, 101)
    assert chosen[0] == 0.0
    assert chosen[-1] == 2.0
    assert len(chosen) == 101
    values = np.column_stack([chosen / 2, np.interp(chosen, t, y[:, 0]) / y[-1, 0]])
    factors = np.abs(np.diff(np.log(values + ignitions.FLOOR), axis=0)).max(axis=1)
    # All but two: where the component that grows takes over from time, and time from it at t = 1.
    np.testing.assert_allclose(np.sort(factors)[2:], factors.max(), rtol=0.01)


def burning(gas: Mechanism) -> Tensor:
    """(10, 11) states with something of every species."""
    y = ignitions.fresh(gas, STATES)
    some = torch.rand(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    some[:, 0] = 0
    return y + 1e-2 * some


def test_a_closure_at_another_pressure() -> None:
    gas = Mechanism.from_yaml("h2o2.yaml").without(hydrogen.MISSING)
    reactor = ConstantPressureReactor(gas)
    closure = Closure(
        reactor,
        typical=np.ones(11),
        where=["H", "OH", "HO2"],
        components=reactor.components,
        head=Reactions(),
        conserve=reactor.invariants,
    )
    y, t = burning(gas), torch.zeros((), dtype=torch.float64)
    change = closure.missing(t, y)
    assert (change[:, 0].abs() > 0).all()  # the temperature follows
    for density in (0.0, 3.0):
        model = hydrogen.At(ignitions.reactor_at(gas, 2.0), closure, density)
        expected = ignitions.reactor_at(gas, 2.0)(t, y) + density * change
        torch.testing.assert_close(model(t, y), expected, rtol=1e-12, atol=0.0)


def test_rates_of_two_molecules_go_with_the_density() -> None:
    gas = Mechanism.from_yaml("h2o2.yaml")
    y, t = burning(gas), torch.zeros((), dtype=torch.float64)

    def missing(atmospheres: float) -> Tensor:
        of = (gas, gas.without(hydrogen.MISSING))
        whole, lacking = (ignitions.reactor_at(one, atmospheres) for one in of)
        return whole(t, y) - lacking(t, y)

    # The missing reaction is the difference of rates up to 1e6 times its own.
    torch.testing.assert_close(missing(5.0), 5.0 * missing(1.0), rtol=1e-7, atol=1e-4)


@pytest.mark.parametrize("points", [60, 150])
def test_the_missing_reaction_is_found_whatever_the_times(points: int) -> None:
    whole = ignitions.reactor_at(ignitions.mechanism())
    runs = ignitions.observed(whole, (1133.0, 1267.0), points)
    assert [len(run) for run in runs] == [points, points]
    reactor = ConstantPressureReactor(Mechanism.from_yaml("h2o2.yaml").without(hydrogen.MISSING))
    model = Closure(reactor, conserve=reactor.invariants)
    model.prepare(runs)
    assert model.where == ("H", "OH", "HO2")
    (reaction,) = model.reactions
    assert "HO2" in reaction


def test_pollu_itself() -> None:
    """Against LSODA at rtol 1e-13: data are to about 1e-9 of ranges."""
    y0 = pollu.starts(1, 0)
    y = pollu.exact(y0)
    reference = reference_trajectory(pollu.POLLU.make(y0=y0[0]), pollu.TIMES)
    assert (np.abs(y[0] - reference) / np.ptp(reference, axis=0)).max() < 1e-8
    assert pollu.errors(y, y, pollu.ranges_of(y)).max() == 0.0
    assert pollu.drift(y) < 1e-12


def test_a_model_without_delay_is_wrong_without_bound() -> None:
    data = xarray.Dataset(
        {
            "delay_true": (("pressure", "temperature"), [[1.0, 2.0, 4.0]]),
            "delay_closure": (("pressure", "temperature"), [[9.0, 2.2, np.nan]]),
        },
        {
            "pressure": [1.0],
            "temperature": [1.0, 2.0, 3.0],
            "kind": ("temperature", ["fitted", "unseen", "unseen"]),
        },
    )
    error = pressures.error_of(data, "unseen", "delay_closure")
    np.testing.assert_allclose(error.values, [[0.1, np.inf]])


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_species_that_two_reactions_change_are_named(noise: float) -> None:
    """Under noise NO and NO2 do not show, but HNO3 does, whose nitrogen must come from somewhere."""
    runs = pollu.observed(pollu.exact(pollu.starts(12, 0)), noise)
    found = sizes_of(pollu.LACKING, runs, None, None, pollu.POLLU.invariants)
    names = [pollu.POLLU.components[i] for i in sorted(found.where)]
    assert names == ["NO2", "NO", "OH", "MEO2", "C2O3", "CO2", "HNO3"]
