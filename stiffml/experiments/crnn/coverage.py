"""How often 95 % intervals hold the true constants, over many sets of observations, the reactions known.

The search for reactions is left out: it is the constants' intervals that are tried. They are of two fits from
constants that are off, the second with errors that are a fraction of the solution of the first.
"""

from __future__ import annotations

import numpy as np
import torch

from stiffml.experiments.crnn import robertson
from stiffml.experiments.crnn.cases import NOISE, Case, observed, solved
from stiffml.experiments.crnn.discovery import network, reweighted
from stiffml.experiments.crnn.sets import Size, constants, intervals_of
from stiffml.training import Result, Whole, fit

OFF = 0.1
"""Deviation of the logarithms of the rate constants at the start from the true ones."""


def covered(case: Case, size: Size, number: int) -> np.ndarray:
    """(k,) bool, whether the intervals of set ``number`` hold the true constants."""
    _, true = constants(case)
    result, prefix = fitted(case, size, number)
    low, high = intervals_of(case, result, list(range(len(case.rates))), prefix)
    return (low <= true) & (true <= high)


def fitted(case: Case, size: Size, number: int) -> tuple[Result, str]:
    """The fit of the constants, and what their names begin with."""
    times, exact = solved(case, size.runs_of(case), number, size.points_of(case))
    random = np.random.default_rng(number)
    start = np.array(case.rates) * np.exp(OFF * random.standard_normal(len(case.rates)))
    if case is robertson.ROBERTSON:
        values = robertson.noisy(exact, NOISE, 100 + number)
        reactions = robertson.Reactions(robertson.TRUE, start)
        return robertson.refined(case, reactions, times, values, exact[:, 0], size.iterations), ""
    model = network(case, 0)
    nu = np.zeros(model.weights.shape)
    nu[:, : len(case.species)] = case.stoichiometry
    with torch.no_grad():
        model.weights.copy_(torch.from_numpy(nu))
        model.constants.log_k.copy_(torch.from_numpy(np.log(start)))
    model.weights.requires_grad_(False)
    data = observed(case, times, exact, 100 + number)
    rough = fit(model, data, strategy=Whole(last=size.iterations, last_tolerance=1e-3))
    return fit(model, reweighted(case, rough), strategy=Whole(last=size.iterations)), "constants."
