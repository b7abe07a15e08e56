"""From observations to reactions: rates of a spline, trajectories, whole numbers, constants."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from stiffml.closures import CRNN
from stiffml.experiments.crnn.cases import Case, weighted
from stiffml.training import Result, Runs, TrainingError, Whole, collocate, fit

RATE = 0.1
"""Of Adam, at its first step."""

POINTS = 250
"""So many of the points of the splines are enough to compare rates at, or a few more."""

NOISE_ALONE = 0.82
"""Mean residual, in units of the noise, where only noise is left: √(2/π) = 0.8, and a little more.

With 0.85 a wrong minimum passed, in set 2 of biodiesel: this number was chosen on sets 1 to 4.
"""

LEAST = 1e-2
"""Of a concentration that has a relative error."""

ROUNDS = 4
"""Of rounding and fitting again, at most."""

NEW = 1.01
"""Starts whose misfit is nearer than this to that of another have probably come to the same minimum."""

FLOOR = 1e-4
"""Of concentrations that the orders hold for."""


def network(case: Case, seed: int) -> CRNN:
    """So many reactions as there are, with small random coefficients, slow."""
    warmed = bool(case.temperatures)
    size = (
        np.append(np.ones(len(case.species)), case.middle)
        if case.temperatures
        else np.ones(len(case.species))
    )
    model = CRNN(
        size,
        len(case.rates),
        components=case.components,
        floor=FLOOR,
        seed=seed,
        temperature="T" if warmed else None,
        reference=case.middle if warmed else None,
    )
    model.constants.b.requires_grad_(False)  # ln k and one energy say all in 20 K
    with torch.no_grad():
        model.weights.mul_(0.8)
        model.constants.log_k.fill_(-3.0)
        if warmed:
            model.constants.energy.fill_(20.0)
    return model


def matched(case: Case, data: Runs, starts: int, steps: int) -> list[CRNN]:
    """Networks whose rates are those of splines through the data, the nearest first.

    Nothing is solved for that, so that many random starts are cheap: all take their steps of Adam at once.
    Of those that came to the same misfit there is one.
    """
    states, rates = smoothed(case, data)
    models = [network(case, seed) for seed in range(starts)]
    learned = [{n: p for n, p in model.named_parameters() if p.requires_grad} for model in models]
    stacked = {n: torch.stack([one[n].detach() for one in learned]).requires_grad_() for n in learned[0]}
    size = rates.square().mean(dim=0).sqrt()
    size = torch.where(size > 0, size, 1.0)  # of a temperature that stays

    def misfit(parameters: dict[str, Tensor]) -> Tensor:
        found = functional_call(models[0], parameters, (torch.zeros(()), states))
        return ((found - rates) / size).square().mean()

    optimizer = torch.optim.Adam(stacked.values(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        vmap(misfit)(stacked).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        misfits = vmap(misfit)(stacked)
        for at, one in enumerate(learned):
            for name, parameter in one.items():
                parameter.copy_(stacked[name][at])
    found: list[int] = []
    for i in misfits.argsort().tolist():
        if not found or misfits[i] > NEW * misfits[found[-1]]:
            found.append(i)
    return [models[i] for i in found]


def smoothed(case: Case, data: Runs) -> tuple[Tensor, Tensor]:
    """States and rates (points, components) of splines, with the temperature as it is."""
    points = collocate(data)
    states, rates = points.values.clamp(min=0.0), points.rates.clone()
    if case.temperatures:
        states[:, -1] = torch.from_numpy(data.values[:, -1].copy())
        rates[:, -1] = 0.0
    every = max(1, len(states) // POINTS)
    return states[::every], rates[::every]


def fitted(models: list[CRNN], data: Runs, iterations: int) -> Result:
    """The first fit of trajectories, from these networks in turn, that leaves only noise; else the best."""
    results: list[Result] = []
    for model in models:
        try:
            results.append(refined(model, data, iterations))
        except TrainingError:  # its solution ends before the data do
            continue
        if results[-1].error < NOISE_ALONE:
            break
    if not results:
        raise RuntimeError("none of the networks has trajectories through the data; take more starts")
    return min(results, key=lambda result: result.error)


def refined(model: CRNN, data: Runs, iterations: int) -> Result:
    """Trajectories fitted from the weights that the network has."""
    return fit(model, data, strategy=Whole(last=iterations, last_tolerance=1e-4))


def reweighted(case: Case, result: Result) -> Runs:
    """The data with errors that are a fraction of the solution found, not of each observation.

    Weights by the observations favour those that happen to be too small, and of small ones nobody knows the
    size.
    """
    values = np.stack([run.values for run in result.data])
    found = np.stack([one.y for one in result.resolved()])
    times, starts = result.data[0].times, np.stack([run.y0 for run in result.data])
    return weighted(case, times, values, np.maximum(found, LEAST), starts)


def rounded(case: Case, result: Result, iterations: int) -> Result:
    """Coefficients as whole numbers, and rate constants fitted with these.

    All are fitted again from the nearest whole numbers, with better weights, as long as that leads to others:
    a coefficient that an order holds at the wrong side of 0 gets away from 0 itself.
    """
    model = result.model
    assert isinstance(model, CRNN)
    for _ in range(ROUNDS):
        nearest = model.stoichiometry.detach().round()
        data = reweighted(case, result)
        with torch.no_grad():
            model.weights.copy_(nearest)
        result = refined(model, data, iterations)
        if torch.equal(model.stoichiometry.detach().round(), nearest):
            break
    with torch.no_grad():
        model.weights.copy_(nearest)
    model.weights.requires_grad_(False)
    return fit(model, reweighted(case, result), strategy=Whole(last=40))


def order_of(case: Case, stoichiometry: np.ndarray) -> list[int] | None:
    """Which row is which of the true reactions; None unless all are found, and no others."""
    rows = [tuple(row) for row in stoichiometry.tolist()]
    still = (0,) if case.temperatures else ()  # of the temperature
    wanted = [tuple(map(float, (*row, *still))) for row in case.stoichiometry]
    if sorted(rows) != sorted(wanted):
        return None
    return [rows.index(row) for row in wanted]
