"""Hydrogen that ignites in air without H + HO2 <=> 2 OH, learned at one atmosphere, tried at others.

The closure is of species alone: the temperature follows from them, by the reactor's enthalpy, which is then
conserved as elements are. Data say in which species something is missing, and elements leave one reaction to
these, to H, HO2 and OH. Its rate per mass is proportional to what it consumes, times a function of the
temperature and of these species.

The reaction is the same whatever the times of the observations, 60, 150 or 300 in a run, evenly chosen or
by the logarithm of time, and matched rates alone give delays to 1 %. A fit learns the errors of BDF's steps
between observations with it. Where an observation is so far from the next that no step between them
converges, there is no fit, and matched rates are what there is.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from problems.chemistry import ConstantPressureReactor, Mechanism
from stiffml.closures import Closure
from stiffml.experiments.closure import ignitions
from stiffml.training import Runs, Whole, fit

MISSING = "H + HO2 <=> 2 OH"


class At(nn.Module):
    """The reactor at another pressure, with a closure learned at one atmosphere.

    ``density`` multiplies what the closure says. Rates per mass of reactions between two molecules go with
    the density: that is p / 1 atm for what was learned at one atmosphere. With 0 the reaction is left out.
    """

    def __init__(
        self, reactor: ConstantPressureReactor, closure: Closure, density: float | Tensor = 1.0
    ) -> None:
        super().__init__()
        self.reactor, self.closure, self.density = reactor, closure, density

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components of the state."""
        return self.reactor.components

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.reactor(t, y) + self.density * self.closure.missing(t, y)


@functools.cache
def _at(closure: Closure, atmospheres: float) -> At:
    """The one model with this closure in a reactor at this pressure, so that it is compiled once."""
    assert isinstance(closure.known, ConstantPressureReactor)
    reactor = ignitions.reactor_at(closure.known.mechanism, atmospheres)
    return At(reactor, closure, ignitions.argument(1.0))


def at(closure: Closure, atmospheres: float, density: float = 1.0) -> At:
    """A model with this closure in a reactor at this pressure, until it is asked for with another density."""
    model = _at(closure, atmospheres)
    assert isinstance(model.density, Tensor)
    model.density.data.fill_(density)
    return model


@dataclass(frozen=True)
class Learned:
    """A closure fitted to runs, and how near it was before: ``matched`` to the rates in the data.

    Attributes
    ----------
    closure : Closure
        Fitted.
    matched : ndarray
        (rows,) its delays at one atmosphere before the fit, in s.
    seconds : float
        Of CPU, of matching and fitting.
    """

    closure: Closure
    matched: np.ndarray
    seconds: float


def learned(runs: Runs, hidden: Sequence[int], seed: int, iterations: int, y0: Tensor) -> Learned:
    """What ``fit(Closure(reactor, hidden, conserve=reactor.invariants), runs)`` learns, in its two parts.

    Without hidden layers rates are powers of the temperature and of mass fractions. ``y0`` (rows, 11): starts
    whose delays are asked for before the fit.
    """
    began = time.process_time()
    reactor = ConstantPressureReactor(Mechanism.from_yaml("h2o2.yaml").without(MISSING))
    closure = Closure(reactor, hidden, conserve=reactor.invariants, seed=seed)
    suited = closure.prepare(runs, compile=True)
    seconds = time.process_time() - began
    matched = ignitions.delays(at(closure, 1.0), y0)
    began = time.process_time()
    fit(closure, runs, **{**suited, "strategy": Whole(last=iterations, last_tolerance=1e-4), "compile": True})
    return Learned(closure, matched, seconds + time.process_time() - began)


@dataclass(frozen=True)
class Rates:
    """How fast OH is made by what is missing, (runs, points) in 1/s, at times (runs, points) in s."""

    times: np.ndarray
    true: np.ndarray
    learned: np.ndarray


def rates_along(runs: Runs, whole: ConstantPressureReactor, closure: Closure) -> Rates:
    """True and learned rates along runs of the whole mechanism."""
    times = np.stack([run.times[1:] for run in runs])
    states = torch.from_numpy(np.stack([run.values[1:] for run in runs]))
    zero, at = states.new_zeros(()), runs.components.index("OH")
    with torch.no_grad():
        found = closure.missing(zero, states)
        true = whole(zero, states) - (closure(zero, states) - found)
    return Rates(times, true[..., at].numpy(), found[..., at].numpy())
