"""Hydrogen that ignites in air at constant pressure: mixtures, delays, runs to learn from, elements."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from problems.chemistry import (
    ONE_ATMOSPHERE,
    ConstantPressureReactor,
    Mechanism,
    NotIgnitedError,
    ignition_delay,
)
from stiffml import SolveError, odeint
from stiffml.training import Run, Runs

FITTED = (1000.0, 1133.0, 1267.0, 1400.0)
OTHERS = (1050.0, 1150.0, 1250.0, 1350.0)
OUTSIDE = (950.0, 1500.0)
EVERY = (*FITTED, *OTHERS, *OUTSIDE)
"""K at the start, of stoichiometric hydrogen and air."""

LONG = 5.0
"""A run lasts so many delays."""

FLOOR = 1e-3
"""Changes are relative to y plus this fraction of the component's largest value."""

FINE = 4000
"""Times among which those of observations are chosen."""


def mechanism() -> Mechanism:
    """Hydrogen's, whose rates are arguments of compiled code, so that it is compiled once for all of them."""
    found = Mechanism.from_yaml("h2o2.yaml")
    for constants in (found.log_A, found.log_A_low):
        constants.requires_grad_()
    return found


def argument(value: float) -> Tensor:
    """A number that is an argument of compiled code likewise, as all tensors are that require gradients."""
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@functools.cache
def reactor_at(gas: Mechanism, atmospheres: float = 1.0) -> ConstantPressureReactor:
    """The one reactor of a mechanism at a pressure, so that it is compiled once."""
    return ConstantPressureReactor(gas, argument(atmospheres * ONE_ATMOSPHERE))


def fresh(gas: Mechanism, temperatures: Sequence[float]) -> Tensor:
    """(temperatures, 11) states before the ignition."""
    T = torch.tensor(temperatures, dtype=torch.float64)
    return ConstantPressureReactor(gas).state(T, gas.premixed(1.0, "H2"))


def evenly(t: np.ndarray, y: np.ndarray, points: int) -> np.ndarray:
    """(points,) times among t (m,), between which states y (m, n) change by equal factors."""
    with_time = np.column_stack([t, np.abs(y)])  # time, so that none is far from the one before
    steps = np.abs(np.diff(np.log(with_time / scale_of([with_time]) + FLOOR), axis=0)).max(axis=1)
    passed = np.concatenate([[0.0], np.cumsum(steps)])
    return np.interp(np.linspace(0, passed[-1], points), passed, t)


def scale_of(values: Sequence[np.ndarray]) -> np.ndarray:
    """(components,) the largest values; 1 of what is always 0."""
    largest = np.max([np.abs(y).max(axis=0) for y in values], axis=0)
    return np.where(largest > 0, largest, 1.0)


def delays(reactor: nn.Module, y0: Tensor) -> np.ndarray:
    """(rows,) in s, each row by itself; NaN where a reactor cannot be solved until it stands still."""
    return np.array([_delay(reactor, row) for row in y0])


def _delay(reactor: nn.Module, y0: Tensor) -> float:
    try:
        with torch.no_grad():
            return float(ignition_delay(reactor, y0, longest=10.0, compile=True))
    except (NotIgnitedError, SolveError):
        return float("nan")


def states(reactor: nn.Module, y0: Tensor, t: np.ndarray, rtol: float = 1e-9) -> Tensor:
    """(times, 11) from y0."""
    atol = torch.full((len(y0),), 1e-6 * rtol, dtype=torch.float64)
    atol[0] = rtol
    with torch.no_grad():
        y = odeint(reactor, y0, torch.from_numpy(t), rtol=rtol, atol=atol, compile=True)
    assert isinstance(y, Tensor)
    return y


def observed(
    reactor: ConstantPressureReactor, temperatures: Sequence[float] = FITTED, points: int = 150
) -> Runs:
    """All species and the temperature, without noise, at ``points`` times of each run's own.

    As much happens between any two of them: the component that changes most changes by the same factor.
    """
    y0, found = fresh(reactor.mechanism, temperatures), []
    for row, delay in zip(y0, delays(reactor, y0), strict=True):
        t = np.concatenate([[0.0], delay * np.geomspace(FLOOR, LONG, FINE)])
        t = evenly(t, states(reactor, row, t).numpy(), points)
        found.append((t, states(reactor, row, t).numpy()))
    return Runs(
        [Run(f"{T:g} K", t, y, y0=y[0]) for T, (t, y) in zip(temperatures, found, strict=True)],
        reactor.components,
        units=("K", *["1"] * (y0.shape[1] - 1)),
        time_units="s",
    )


def element_drift(reactor: nn.Module, gas: Mechanism, y0: Tensor, ends: Sequence[float]) -> float:
    """The largest change of an element's mass fraction along runs of y0 (rows, 11) to ``ends``."""
    found = []
    for row, end in zip(y0, ends, strict=True):
        y = states(reactor, row, np.concatenate([[0.0], np.geomspace(end / 1000, end, 200)]))
        elements = gas.element_mass_fractions(y[:, 1:])
        found.append(float((elements - elements[0]).abs().max()))
    return max(found)
