"""A network alone, where nothing is known: parts and a fit that suit what data look like.

Two kinds of stiff data have shapes of their own: components that settle within the first interval, and
amounts over decades of time, in which rates change by as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from stiffml.closures.components import magnitudes
from stiffml.closures.features import Features, LinearFeatures, LogFeatures
from stiffml.closures.heads import Head, ProductionLoss, Relaxation
from stiffml.closures.networks import mlp
from stiffml.steps import Grid
from stiffml.training.asked import scale_of
from stiffml.training.data import Runs
from stiffml.training.data.ranges import largest_of
from stiffml.training.lm.ladder import GrowingHorizon
from stiffml.training.lm.levenberg_marquardt import LevenbergMarquardt

FAST = 3.0
"""How much larger its first rate is than its second of a component that settles within the first interval."""

MOVED = 0.1
"""Of its largest observation, what such a component moves by there at least: errors of data move it less."""

SETTLED = 150.0
"""Times that a fast component could settle within the first interval: any rate that is far faster will do."""

DECADES = 1e3
"""The length of runs over their first interval, from which times span decades."""

BELOW = 0.1
"""Of the largest observation: amounts, which cannot be negative, may be observed so far below 0 by errors."""

GAIN = 0.1
"""Of the last layer of the network."""

ATTEMPTS = 5
"""Of fits over decades."""

RIDGE, GOOD = 1e-2, 1e-2
RIDGE_OF_NOISE, GOOD_OF_NOISE = 1.0, 1.0
"""Their ridge, and the mean error that ends the attempts: in units of the ranges, or of the noise if known.

The mean of errors that are as large as the noise is 0.8 of it.
"""


class Alone(NamedTuple):
    """The parts of a closure without a known part, and how it is fitted.

    ``scale`` (n,) is that of its rates. ``matching``: arguments of the matching of rates before the fit; None
    for no such. ``suggested``: arguments of the fit.
    """

    network: nn.Module
    typical: Tensor
    scale: np.ndarray
    head: Head
    features: Features
    matching: dict[str, Any] | None
    suggested: dict[str, Any]


def alone(runs: Runs, widths: Sequence[int], seed: int) -> Alone | None:
    """Parts that suit data of one of the two kinds; None for others."""
    fast = _fast(runs)
    if fast.any() and not fast.all():
        return _settling(runs, widths, seed, fast)
    first, longest = _lengths(runs)
    amounts = np.nanmin(runs.values, axis=0) >= -BELOW * _typical(runs).numpy()
    return _over_decades(runs, widths, seed) if longest >= DECADES * first and amounts.all() else None


def _settling(runs: Runs, widths: Sequence[int], seed: int, fast: np.ndarray) -> Alone:
    """For data in which some components, ``fast`` (n,), settle within the first interval.

    Of these no observation shows how fast they are, only where they settle: at numbers that the network says
    of the others, which alone it is shown. Shown fast components that are 0 at the start and settled at the
    first observation, it may say anything between. The others are damped over the length of the runs, and
    tanh bounds what is said, so that no solution runs away. A network alone holds for a while beyond what it
    has seen, not for long: so the horizon grows.
    """
    slow, typical = np.flatnonzero(~fast).tolist(), _typical(runs)
    first, longest = _lengths(runs)
    return Alone(
        mlp([len(slow), *widths, len(fast)], "tanh", seed=seed, gain=GAIN),
        typical,
        typical.numpy() * np.where(fast, SETTLED / first, 1 / longest),
        Relaxation(),
        LinearFeatures(typical, of=slow),
        {"ridges": (0.1,), "resolution": 1e-3},
        {
            "method": "bdf",
            "strategy": GrowingHorizon(2, iterations=15, last=60, last_tolerance=1e-3),
            "levenberg_marquardt": LevenbergMarquardt(ridge=1e-3),
        },
    )


def _over_decades(runs: Runs, widths: Sequence[int], seed: int) -> Alone:
    """For amounts over decades of time, with rates from one per first interval to one per length of the runs.

    Production and loss are exponentials of what the network says of logarithms: a number of size 1 is a rate
    in the middle of these decades. Steps between observations are halved, since coarse ones have errors that
    a fit makes up for with wrong rates. The horizon grows by one observation at a time. A ridge keeps weights
    small: with a hundredth of it about half of the attempts on Robertson's problem came to where the next
    step has no solution, and most others within 3e-4 of the data; with it all came within 9e-4. Attempts that
    fail are followed by others.
    """
    typical, (first, longest) = _typical(runs), _lengths(runs)
    features, (_, known_noise) = LogFeatures(typical), scale_of(None, runs)
    return Alone(
        mlp([features.count, *widths, 2 * len(typical)], "tanh", seed=seed, gain=GAIN),
        typical,
        typical.numpy() / np.sqrt(first * longest),
        ProductionLoss(),
        features,
        None,
        {
            "method": "sdirk3",
            "steps": Grid(2),
            "strategy": GrowingHorizon(1, iterations=30),
            "levenberg_marquardt": LevenbergMarquardt(ridge=RIDGE_OF_NOISE if known_noise else RIDGE),
            "attempts": ATTEMPTS,
            "judged": GOOD_OF_NOISE if known_noise else GOOD,
        },
    )


def _typical(runs: Runs) -> Tensor:
    """(n,) the largest observations; 1 where that is 0, or there is none."""
    return magnitudes("typical", largest_of(runs.values))


def _lengths(runs: Runs) -> tuple[float, float]:
    """The shortest first interval of a run, and the length of the longest run."""
    first = min(float(run.times[1] - run.times[0]) for run in runs)
    return first, max(float(run.times[-1] - run.times[0]) for run in runs)


def _fast(runs: Runs) -> np.ndarray:
    """(n,) bool, by the rates of all runs together."""
    rates, moved = np.zeros((2, len(runs.components))), np.zeros(len(runs.components))
    for run in runs:
        if len(run) > 2:
            steps = np.nan_to_num(np.abs(np.diff(run.observations[:3], axis=0)))
            rates += steps / np.diff(run.times[:3])[:, None]
            moved = np.maximum(moved, steps[0])
    return (rates[0] > FAST * rates[1]) & (moved > MOVED * _typical(runs).numpy())
