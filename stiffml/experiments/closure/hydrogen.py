"""Hydrogen that ignites in air without H + HO2 <=> 2 OH, learned at one atmosphere, tried at others.

The closure is of species alone: the heat of what it makes and consumes follows from the enthalpy, which is
then conserved as elements are. Reactions are learned among the species that lack a twentieth, in moles, of
what the species lacks that lacks most. Elements leave one reaction to H, HO2 and OH. Its rate per mass is
proportional to what it consumes, times a function of the temperature and of these species.

The reaction is the same whatever the times of the observations: 75, 150 or 300 in a run, evenly chosen, or
those of BDF's own steps. Steps of sdirk3 between them are what is learned with it: from 75 times delays at
unseen temperatures are 0.3 % off, from 150 0.02 %, from 300 0.006 %. The start decides how long a fit takes:
10 to 20 s from rates matched to the data, 45 s from rates near 0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from problems.chemistry import ConstantPressureReactor, Mechanism
from stiffml import Grid
from stiffml.closures import Closure, LogFeatures, Reactions, match_rates, missing_rate
from stiffml.experiments.closure import ignitions
from stiffml.training import LevenbergMarquardt, MultipleShooting, Run, Runs, fit

MISSING = "H + HO2 <=> 2 OH"

AROUND = 0.2
"""Of the delay, before and after it: the part of a run in which the reaction matters."""

SHARE = 0.05
FLOOR = 1e-2
"""Of logarithms that the closure sees: below it rates follow what is consumed alone."""


class Completed(nn.Module):
    """A reactor at constant pressure whose closure changes species, and the temperature by their heat.

    ``density`` multiplies what the closure says. Rates per mass of reactions between two molecules go with
    the density: that is p / 1 atm for what was learned at one atmosphere. With 0 the reaction is left out.
    """

    def __init__(
        self, reactor: ConstantPressureReactor, closure: Closure, density: float | Tensor = 1.0
    ) -> None:
        super().__init__()
        self.reactor, self.closure, self.density = reactor, closure, density
        self.components = reactor.components

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        change = self.density * self.closure.missing(t, y)[..., 1:]
        gas, T, Y = self.reactor.mechanism, y[..., 0], y[..., 1:]
        released = -(gas.species_enthalpies(T) * gas.inverse_weights * change).sum(dim=-1)
        heat = (released / gas.cp_mass(T, Y)).unsqueeze(-1)
        return self.reactor(t, y) + torch.cat([heat, change], dim=-1)


@functools.cache
def at(model: Completed, atmospheres: float, density: float = 1.0) -> Completed:
    """The one model with this closure in a reactor at this pressure, for delays."""
    reactor = ignitions.reactor_at(model.reactor.mechanism, atmospheres)
    return Completed(reactor, model.closure, ignitions.argument(density))


def without(model: Completed, atmospheres: float) -> ConstantPressureReactor:
    """The reactor whose mechanism lacks the reaction, at this pressure."""
    return ignitions.reactor_at(model.reactor.mechanism, atmospheres)


def matched(runs: Runs, hidden: Sequence[int], seed: int, ridges: Sequence[float]) -> Completed:
    """With a closure whose rates are those that the mechanism lacks in the data; nothing is solved for that.

    Without hidden layers rates are powers of the temperature and of mass fractions.
    """
    reactor = ConstantPressureReactor(Mechanism.from_yaml("h2o2.yaml").without(MISSING))
    gas, largest = reactor.mechanism, ignitions.scale_of([run.values for run in runs])
    lacking = missing_rate(reactor, around_ignition(runs)).scale
    moles = lacking[1:] * gas.inverse_weights
    where = [i + 1 for i in range(len(moles)) if moles[i] > SHARE * moles.max()]
    atoms = gas.composition * gas.inverse_weights
    closure = Closure(
        reactor,
        hidden,
        typical=largest,
        scale=torch.where(lacking > 0, lacking, 1.0),
        where=where,
        components=runs.components,
        head=Reactions(shift=0.0),
        features=LogFeatures(largest, linear=False, floor=FLOOR, of=[0, *where]),
        conserve=torch.cat([torch.zeros(len(atoms), 1), atoms], dim=1)[atoms.sum(dim=1) > 0],
        seed=seed,
    )
    match_rates(closure, runs, ridges=ridges, compile=True)
    return Completed(reactor, closure)


def around_ignition(runs: Runs) -> Runs:
    """What was observed while the temperature rises."""
    found = []
    for run in runs:
        T = run.values[:, 0]
        delay = run.times[np.argmax(np.diff(T) / np.diff(run.times))]
        rows = np.abs(run.times / delay - 1) < AROUND
        found.append(Run(run.name, run.times[rows], run.values[rows]))
    return Runs(found, runs.components)


def fit_trajectories(model: Completed, runs: Runs, iterations: int) -> None:
    """Over eight intervals between observations at a time, then over whole runs."""
    fit(
        model,
        runs,
        method="sdirk3",
        steps=Grid(),
        scale=ignitions.scale_of([run.values for run in runs]),
        strategy=MultipleShooting(lengths=(8,), iterations=iterations, last=iterations, tolerance=1e-4),
        levenberg_marquardt=LevenbergMarquardt(ridge=1e-3, damping=1.0),
    )


@dataclass(frozen=True)
class Rates:
    """How fast OH is made by what is missing, (runs, points) in 1/s, at times (runs, points) in s."""

    times: np.ndarray
    true: np.ndarray
    learned: np.ndarray


def rates_along(runs: Runs, whole: ConstantPressureReactor, model: Completed) -> Rates:
    """True and learned rates along runs of the whole mechanism."""
    times = np.stack([run.times[1:] for run in runs])
    states = torch.from_numpy(np.stack([run.values[1:] for run in runs]))
    zero, at = states.new_zeros(()), runs.components.index("OH")
    with torch.no_grad():
        true = (whole(zero, states) - model.reactor(zero, states))[..., at]
        learned = model.closure.missing(zero, states)[..., at]
    return Rates(times, true.numpy(), learned.numpy())
