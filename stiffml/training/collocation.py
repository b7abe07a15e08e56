"""Derivatives estimated from observations, to train on before any solve.

A function whose values are near the derivatives of smoothed data is a start that solves go well from; see
E. Roesch, C. Rackauckas & M. Stumpf, Collocation based training of neural ordinary differential equations,
Stat. Appl. Genet. Mol. Biol. 20 (2021) 37.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import BSpline, make_smoothing_spline
from scipy.optimize import brentq
from torch import Tensor

from stiffml.checks import described
from stiffml.display import readable
from stiffml.training.data import Run, Runs

LEAST = 5
"""Observations of a component that a spline needs."""

_ROUGHEST, _SMOOTHEST = -16.0, 4.0  # log10 of the penalty, over a unit of scaled time


@readable
@dataclass(frozen=True, eq=False)
class Collocation:
    """States and their derivatives at the times of runs, one run after the other.

    Attributes
    ----------
    times : Tensor
        (points,)
    values, rates : Tensor
        (points, components) smoothed states, and their derivatives with respect to time; 0 where there is no
        estimate.
    mask : Tensor
        (points, components), true where there is one: between the first and the last observation of a
        component, in a run that has at least 5 of it.
    run : Tensor
        (points,) which run each point belongs to, counted from 0.

    Examples
    --------
    >>> from stiffml.training import collocate
    >>> points = collocate(runs)
    >>> points.times.shape, points.rates.shape
    (torch.Size([18]), torch.Size([18, 1]))
    >>> bool(abs(points.rates[4, 0] + 0.15) < 0.02)  # y' at t = 1 is −3 exp(−3)
    True
    """

    times: Tensor
    values: Tensor
    rates: Tensor
    mask: Tensor
    run: Tensor


def collocate(runs: Runs) -> Collocation:
    """Smooth each component of each run by a cubic spline, and differentiate that.

    The spline is as smooth as the noise allows: the squared differences to the n observations, in units of
    ``runs.noise``, sum to n + √(2n), the upper end of what C. Reinsch (Numer. Math. 10 (1967) 177) proposes:
    too rough a spline costs more than one too smooth. Initial values that are known are passed through. Where
    a quarter of the times of a run lie in its first twentieth, the spline is one in asinh((t − t₀)/t₁), with
    a tenth of the times before t₀ + t₁. Derivatives at the first and last few points are the least accurate.

    Parameters
    ----------
    runs : Runs
        With ``noise`` of all components that are observed.

    Raises
    ------
    TypeError
        If they are no runs.
    ValueError
        If the noise of a component is not known, or no component of any run has 5 observations.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from stiffml.training import Run, Runs, collocate
    >>> t = np.linspace(0, 2, 40)
    >>> noise = 0.01 * np.random.default_rng(0).standard_normal(40)
    >>> points = collocate(Runs([Run("a", t, (np.exp(-t) + noise)[:, None])], ["A"], noise=0.01))
    >>> bool((points.rates[:, 0] + torch.exp(-points.times)).abs().mean() < 0.03)
    True
    >>> off = torch.func.vmap(lambda t, y: -y)(points.times, points.values) - points.rates  # to be minimised
    """
    if not isinstance(runs, Runs):
        raise TypeError(f"runs must be Runs, not {described(runs)}")
    for name, deviation, seen in zip(
        runs.components, runs.noise, ~np.isnan(runs.values).all(axis=0), strict=True
    ):
        if seen and np.isnan(deviation):
            raise ValueError(
                f"noise: that of {name} is not known, and how smooth it has to be goes by it; give the "
                f'standard deviation of its errors, noise={{"{name}": …}}'
            )
    found = [_collocated(run, runs.noise) for run in runs]
    mask = np.concatenate([part[2] for part in found])
    if not mask.any():
        raise ValueError(f"runs: no component of any run has the {LEAST} observations that a spline needs")
    return Collocation(
        times=torch.from_numpy(runs.times),
        values=torch.from_numpy(np.concatenate([part[0] for part in found])),
        rates=torch.from_numpy(np.concatenate([part[1] for part in found])),
        mask=torch.from_numpy(mask),
        run=torch.from_numpy(np.repeat(np.arange(len(runs)), [len(run) for run in runs])),
    )


def _collocated(run: Run, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, rates and mask, each (n, components)."""
    values, rates = np.zeros_like(run.values), np.zeros_like(run.values)
    mask = np.zeros(run.values.shape, dtype=bool)
    if len(run) < LEAST:
        return values, rates, mask
    u, slope = _scaled(run.times)
    for c, deviation in enumerate(noise):
        y, weights = run.values[:, c].copy(), run.weights[:, c].copy()
        if run.y0_noise[c] == 0:
            y[0], weights[0] = run.y0[c], 1e4  # as of an observation a hundred times as accurate
        seen = ~np.isnan(y) & (weights > 0)
        if seen.sum() < LEAST:
            continue
        spline = _smoothed(u[seen], y[seen], weights[seen], deviation)
        first, *_, last = np.flatnonzero(seen)
        inside = slice(first, last + 1)
        mask[inside, c] = True
        values[inside, c] = spline(u[inside])
        rates[inside, c] = spline.derivative()(u[inside]) * slope[inside]
    return values, rates, mask


def _scaled(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times from 0 to 1 in which observations are spread evenly enough, and their derivative by time."""
    since = times - times[0]
    first, span = since[max(1, len(since) // 10)], since[-1]
    if since[len(since) // 4] > span / 20:
        return since / span, np.full_like(since, 1 / span)
    whole = np.arcsinh(span / first)
    return np.arcsinh(since / first) / whole, 1 / (np.hypot(since, first) * whole)


def _smoothed(u: np.ndarray, y: np.ndarray, weights: np.ndarray, deviation: float) -> BSpline:
    """The spline in time u of observations with a standard deviation."""
    weights = weights / deviation**2
    wanted = 1 + np.sqrt(2 / len(u))

    def fitted(exponent: float) -> BSpline:
        return make_smoothing_spline(u, y, weights, lam=10.0**exponent * weights.mean())

    def excess(exponent: float) -> float:
        return float(np.sum(weights * (y - fitted(exponent)(u)) ** 2) / len(u) - wanted)

    if excess(_SMOOTHEST) <= 0:  # a straight line is near enough
        return fitted(_SMOOTHEST)
    if excess(_ROUGHEST) >= 0:
        return fitted(_ROUGHEST)
    return fitted(brentq(excess, _ROUGHEST, _SMOOTHEST, xtol=1e-3))
