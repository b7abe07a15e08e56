"""What the ignition of methane depends on: sensitivities to all rate constants of GRI-Mech from one gradient.

A mixture of methane and air at constant pressure, and the 325 sensitivities d ln τ / d ln A of its delay τ,
the time at which the temperature rises fastest. One solve and one backward pass give all of them. Beside it:
the same by Cantera, which solves anew for each rate constant, twice; and, for the gradient itself, the
differences of the temperature near τ with the steps held, whose only error is their own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray

from problems.chemistry import ONE_ATMOSPHERE, ConstantPressureReactor, Mechanism, ignition_delay
from stiffml import Newton, Solution, solve
from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.plotting import Figure, series, styled

MECHANISM = {"quick": ("h2o2.yaml", "H2"), "medium": ("gri30.yaml", "CH4"), "full": ("gri30.yaml", "CH4")}
TEMPERATURE = {"quick": 1100.0, "medium": 1400.0, "full": 1400.0}
COMPARED = {"quick": 3, "medium": 2, "full": 10}
"""Rate constants, those that matter most, whose gradient is compared with differences along the steps."""
AGAIN = {"quick": 10, "medium": 10, "full": None}
"""Rate constants for which Cantera solves again; None for all."""
SHOWN = 10
CHANGE_HELD, CHANGE_ANEW = 1e-5, 2e-2
"""Of ln A in a difference with the steps held, and in one of Cantera's, whose delay has its own error."""


def solved(reactor: Any, y0: torch.Tensor, end: float, steps: Any = None) -> Solution:
    """The solution up to ``end``, in s, with adaptive steps or given ones."""
    t, newton = torch.tensor([0.0, end], dtype=y0.dtype), Newton(rtol=1e-12)
    if steps is not None:
        return solve(reactor, y0, t, steps=steps, newton=newton)
    atol = torch.full_like(y0, 1e-14)
    atol[0] = 1e-8  # K
    return solve(reactor, y0, t, rtol=1e-8, atol=atol, newton=newton)


def final(sol: Solution) -> torch.Tensor:
    """The last temperature."""
    assert isinstance(sol.y, torch.Tensor)
    return sol.y[-1, 0]


def by_steps_held(
    reactor: Any, y0: torch.Tensor, end: float, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dT/d ln A at ``end`` from one gradient, (325,); and by differences along the same steps, of some."""
    log_a = reactor.mechanism.log_A
    log_a.grad = None
    sol = solved(reactor, y0, end)
    final(sol).backward()
    steps, found = sol.steps, []
    for reaction in which.tolist():
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                log_a[reaction] += sign * CHANGE_HELD
                values.append(float(final(solved(reactor, y0, end, steps))))
                log_a[reaction] -= sign * CHANGE_HELD
        found.append((values[0] - values[1]) / (2 * CHANGE_HELD))
    return np.array(log_a.grad), np.array(found)


class Cantera:
    """The same reactor in Cantera."""

    def __init__(self, name: str, fuel: str, kelvin: float) -> None:
        import cantera

        self._cantera, self.gas = cantera, cantera.Solution(name)
        self._start = kelvin, cantera.one_atm, fuel

    def delay(self, reaction: int | None = None, factor: float = 1.0) -> float:
        """τ in s, with one A times ``factor``."""
        kelvin, pressure, fuel = self._start
        if reaction is not None:
            self._multiply(reaction, factor)
        self.gas.TP = kelvin, pressure
        self.gas.set_equivalence_ratio(1.0, fuel, "O2:1, N2:3.76")
        self.gas.TP = kelvin, pressure
        reactor = self._cantera.IdealGasConstPressureReactor(self.gas, clone=False)
        network = self._cantera.ReactorNet([reactor])
        network.rtol, network.atol = 1e-10, 1e-18
        times, kelvins = [0.0], [reactor.T]
        while kelvin + 1200 > reactor.T and network.time < 1:
            network.step()
            times.append(network.time)
            kelvins.append(reactor.T)
        if reaction is not None:
            self._multiply(reaction, 1 / factor)
        return _steepest(np.array(times), np.array(kelvins))

    def _multiply(self, number: int, factor: float) -> None:
        """Multiply A of a reaction; that of its limit at high pressure, where it has two."""
        reaction = self.gas.reaction(number)
        rate = reaction.rate
        if not isinstance(rate, self._cantera.FalloffRate):
            self.gas.set_multiplier(self.gas.multiplier(number) * factor, number)
            return
        high = rate.high_rate
        rate.high_rate = type(high)(
            high.pre_exponential_factor * factor, high.temperature_exponent, high.activation_energy
        )
        reaction.rate = rate  # type: ignore[assignment]
        self.gas.modify_reaction(number, reaction)


def _steepest(times: np.ndarray, values: np.ndarray) -> float:
    """The time of the steepest rise, by a polynomial of fifth degree through the steps around it."""
    slopes = np.diff(values) / np.diff(times)
    at = int(np.argmax(slopes))
    near = slice(max(at - 3, 0), at + 5)
    middle, width = times[at], times[near][-1] - times[near][0]
    curve = np.polynomial.Polynomial.fit((times[near] - middle) / width, values[near], 5)
    bends = curve.deriv(2).roots()
    real = bends[np.abs(bends.imag) < 1e-9].real
    steepest = real[np.argmax(curve.deriv()(real) * (np.abs(real) < 0.6))]
    return float(middle + width * steepest)


def run(form: Form, report: Report) -> Outcome:
    name, fuel = MECHANISM[form]
    kelvin, jobs = TEMPERATURE[form], 3
    mechanism = Mechanism.from_yaml(name)
    mechanism.log_A.requires_grad_()
    reactor = ConstantPressureReactor(mechanism, pressure=ONE_ATMOSPHERE)
    y0 = reactor.state(kelvin, mechanism.premixed(1.0, fuel, "O2:1, N2:3.76"))
    began = time.process_time()
    delay = ignition_delay(reactor, y0)
    delay.log().backward()
    seconds, tau = time.process_time() - began, float(delay.detach())
    sensitivities = np.array(mechanism.log_A.grad)
    order = np.argsort(-np.abs(sensitivities))
    report(1, jobs, "all sensitivities from one gradient")
    gradient, differences = by_steps_held(reactor, y0, 0.98 * tau, order[: COMPARED[form]])
    report(2, jobs, "differences along the same steps")
    again = order[: AGAIN[form]] if AGAIN[form] else order
    cantera, found = Cantera(name, fuel, kelvin), np.full(len(order), np.nan)
    began = time.process_time()
    for reaction in again.tolist():
        logs = [np.log(cantera.delay(reaction, np.exp(sign * CHANGE_ANEW))) for sign in (1, -1)]
        found[reaction] = (logs[0] - logs[1]) / (2 * CHANGE_ANEW)
    seconds_cantera = time.process_time() - began
    report(3, jobs, "the same by Cantera")
    largest = np.abs(gradient).max()
    off_held = float(np.abs(differences - gradient[order[: COMPARED[form]]]).max() / largest)
    off_cantera = float(np.nanmax(np.abs(found - sensitivities)) / np.abs(sensitivities).max())
    data = xarray.Dataset(
        {
            "sensitivity": ("reaction", sensitivities, {"long_name": "d ln(delay) / d ln A", "units": "1"}),
            "cantera": ("reaction", found, {"long_name": "the same by differences of Cantera", "units": "1"}),
            "delay": ((), tau, {"long_name": "ignition delay", "units": "s"}),
        },
        {"reaction": list(mechanism.equations)},
        attrs={"mechanism": name, "temperature_K": kelvin, "pressure_Pa": ONE_ATMOSPHERE},
    )
    count = len(again)
    return Outcome(
        data,
        (
            Finding(
                f"dT/d ln A near the ignition against differences on the same steps, {COMPARED[form]} rates",
                off_held,
                at_most=1e-6,
                differs="relative to the largest; a difference has an error of its own, of 1e-7 or so",
            ),
            Finding(
                f"d ln(delay)/d ln A against Cantera's differences, {count} of {len(order)} rates",
                off_cantera,
                differs="relative to the largest; Cantera changes ln A by 0.02 and chooses its steps anew",
            ),
            Finding("delay against Cantera", abs(tau / cantera.delay() - 1)),
            Finding(f"time of all {len(order)} sensitivities", seconds, "s"),
            Finding(f"time of {count} of them by Cantera", seconds_cantera, "s"),
        ),
    )


def draw(data: xarray.Dataset) -> Mapping[str, Figure]:
    """The sensitivities that matter, here and by Cantera."""
    order = np.argsort(-np.abs(data["sensitivity"].values))[:SHOWN]
    with styled():
        figure = Figure(figsize=(7.5, 4))
        panel = figure.subplots()
        places = np.arange(len(order))
        panel.barh(places, data["sensitivity"].values[order], color=series(0)["color"], label="one gradient")
        panel.plot(
            data["cantera"].values[order],
            places,
            "D",
            mfc="none",
            color=series(1)["color"],
            label="Cantera, two solves each",
        )
        panel.set_yticks(places, data["reaction"].values[order])
        panel.invert_yaxis()
        panel.axvline(0, color="black", lw=0.8)
        what = f"{data.attrs['mechanism']}, {data.attrs['temperature_K']:g} K, 1 atm"
        panel.set(xlabel="d ln(delay) / d ln A", title=f"what the ignition delay depends on: {what}")
        panel.legend()
    return {"ignition": figure}


EXPERIMENT = Experiment(
    title="The sensitivities of an ignition delay to all rate constants of GRI-Mech",
    question="Does one gradient give what a solve for each rate constant gives?",
    source="GRI-Mech 3.0 (Smith et al. 1999); sensitivities of delays as in Cantera's examples",
    run=run,
    draw=draw,
    requires=("cantera",),
)
