"""A network alone, where nothing is known: what data say of components that settle at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from stiffml.closures.components import magnitudes
from stiffml.closures.features import Features, LinearFeatures
from stiffml.closures.heads import Head, Relaxation
from stiffml.closures.networks import mlp
from stiffml.training.data import Runs
from stiffml.training.lm.ladder import GrowingHorizon
from stiffml.training.lm.levenberg_marquardt import LevenbergMarquardt

FAST = 3.0
"""How much larger its first rate is than its second of a component that settles within the first interval."""

SETTLED = 150.0
"""Times that a fast component could settle within the first interval: any rate that is far faster will do."""

GAIN = 0.1
"""Of the last layer of the network."""

OF_RATES: dict[str, Any] = {"ridges": (0.1,), "resolution": 1e-3}
"""Of the matching of rates."""


class Alone(NamedTuple):
    """The parts of a closure without a known part; ``scale`` (n,) of its rates."""

    network: nn.Module
    typical: Tensor
    scale: np.ndarray
    head: Head
    features: Features


def alone(runs: Runs, widths: Sequence[int], seed: int) -> Alone | None:
    """Parts that suit data in which some components settle within the first interval; None if none does.

    Of these no observation shows how fast they are, only where they settle: at numbers that the network says
    of the others, which alone it is shown. Shown fast components that are 0 at the start and settled at the
    first observation, it may say anything between. The others are damped over the length of the runs, and
    tanh bounds what is said, so that no solution runs away.
    """
    fast = _fast(runs)
    if not fast.any() or fast.all():
        return None
    slow, largest = np.flatnonzero(~fast).tolist(), np.nanmax(np.abs(runs.values), axis=0)
    typical = magnitudes("typical", np.where(largest > 0, largest, 1.0))
    first = min(float(run.times[1] - run.times[0]) for run in runs)
    longest = max(float(run.times[-1] - run.times[0]) for run in runs)
    return Alone(
        mlp([len(slow), *widths, len(fast)], "tanh", seed=seed, gain=GAIN),
        typical,
        typical.numpy() * np.where(fast, SETTLED / first, 1 / longest),
        Relaxation(),
        LinearFeatures(typical, of=slow),
    )


def _fast(runs: Runs) -> np.ndarray:
    """(n,) bool, by the rates of all runs together."""
    rates = np.zeros((2, len(runs.components)))
    for run in runs:
        if len(run) > 2:
            rates += np.nan_to_num(np.abs(np.diff(run.values[:3], axis=0) / np.diff(run.times[:3])[:, None]))
    return rates[0] > FAST * rates[1]


def suggested_alone() -> dict[str, Any]:
    """Arguments of a fit: a network alone holds for a while beyond what it has seen, not for long."""
    return {
        "method": "bdf",
        "strategy": GrowingHorizon(2, iterations=15, last=60, last_tolerance=1e-3),
        "levenberg_marquardt": LevenbergMarquardt(ridge=1e-3),
    }
