"""What data say about a closure before it is made: where something is missing, how much, what sizes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stiffml.closures.balances import Balances
from stiffml.closures.components import invariant_rows, places
from stiffml.closures.known_and_missing import Known, dependent_of
from stiffml.closures.missing import MissingRate, missing_rate
from stiffml.closures.partners import Balance, hidden_partners, moves
from stiffml.training.asked import scale_of
from stiffml.training.data import Runs
from stiffml.training.data.ranges import largest_of
from stiffml.training.lm.ladder import Whole
from stiffml.training.lm.levenberg_marquardt import LevenbergMarquardt

SHARE = 0.05
"""Of the largest missing rate, below which a component is not named: errors of the rule reach that."""

FLOOR = 1e-2
"""Of logarithms: components that begin at 0 are hardly ever observed below a hundredth of their largest."""

RIDGES = (10.0, 1.0, 0.1, 0.01)
"""Of the matching of rates. A weak one takes the errors of noisy data for rates: the best one is kept."""

PRIOR, PRIOR_OF_NOISE, PRIOR_OF_POWERS = 1e-4, 1.0, 0.3
"""Ridges of the fit of trajectories, with residuals in units of the ranges, or of the noise.

The last is for noise too, without a hidden layer: weights are powers then, times the unit of logarithms, and
a ridge of 1 would hold them back. With a hidden layer less than 1 left rates of POLLU's closure up to 4 % off
at other starts, from some seeds.
"""

ITERATIONS, TOLERANCE = 40, 1e-4


@dataclass(frozen=True)
class Sizes:
    """Sizes that data have.

    Attributes
    ----------
    typical : ndarray
        (n,) the largest observation of each component; 1 where that is 0, or there is none.
    scale : array_like
        Of the missing rates, as given; else (n,), the largest of them where nothing was found.
    where : tuple of int
        Components that lack something.
    """

    typical: np.ndarray
    scale: Any
    where: tuple[int, ...]


def sizes_of(known: Known | None, runs: Runs, where: Any, scale: Any, conserve: Any) -> Sizes:
    """What runs say; ``where`` and ``scale`` as they are given, if they are.

    A component counts by its content of conserved sums, which are taken to be in one unit, such as atoms:
    of H + HO2 <=> 2 OH the hydrogen atoms are a thirtieth by mass, and as many by number. Components that the
    data name need partners where sums are conserved: HNO3 cannot change alone if nitrogen is not lost. Where
    those do not show, because errors hide them, all that these could hide are taken; where that is not
    enough, those with which the rates that are missing balance best.

    Raises
    ------
    ValueError
        If they show nothing that is missing.
    """
    if where is None or scale is None:
        physics = (lambda t, y: torch.zeros_like(y)) if known is None else known
        found = missing_rate(physics, runs)
        rows = invariant_rows(conserve, len(found.components))
        content = _content(rows, dependent_of(known, runs.components))
        if where is None:
            at = _shown(found, content)
            if not at:
                raise ValueError(
                    "the data show nothing that known lacks; name components in where, or see "
                    "missing_rate(known, runs) for what could have been seen"
                )
            lacking = [Balances.of(physics, run, runs).joined(1) for run in runs]
            d, e = (np.concatenate([pair[i] for pair in lacking]) for i in (0, 1))
            balance = Balance(d, e, rows, content)
            if np.isnan(runs.noise).any():
                at = balance.needed(at)
            else:
                at += hidden_partners(found, at, rows, content)
            if not moves(rows, at).all():
                at += balance.partners(at)
            where = at
        if scale is None:
            scale = found.scale.numpy()
            largest = float((content * scale).max())
            if not largest > 0:
                raise ValueError("missing_rate(known, runs) finds no scale of what is missing; pass scale=…")
            scale = np.where(scale > 0, scale, largest / np.where(content > 0, content, 1.0))
    return Sizes(largest_of(runs.values), scale, places("where", where, runs.components))


def _content(rows: np.ndarray, dependent: Sequence[int]) -> np.ndarray:
    """(n,) of what the sums (m, n) conserve in one unit of each; 1 outside of sums, 0 if dependent."""
    found = np.abs(rows).max(axis=0, initial=0.0)
    found = np.where(found > 0, found, 1.0)
    found[list(dependent)] = 0.0
    return found


def _shown(found: MissingRate, content: np.ndarray) -> list[int]:
    """Components that lack something."""
    scale = content * found.scale.numpy()
    shown = [name in found.where for name in found.components]
    return np.flatnonzero(shown & (scale > SHARE * scale.max())).tolist()


def suggested(runs: Runs, has_hidden_layers: bool) -> dict[str, Any]:
    """Arguments of a fit for a model whose trajectories are near the data already.

    BDF, which takes a ramp of small steps between observations, because one step is far off where these are
    coarse, and a fit makes up for that with wrong rates; whole trajectories from the beginning.
    """
    _, known_noise = scale_of(None, runs)
    of_noise = PRIOR_OF_NOISE if has_hidden_layers else PRIOR_OF_POWERS
    return {
        "method": "bdf",
        "strategy": Whole(last=ITERATIONS, last_tolerance=TOLERANCE),
        "levenberg_marquardt": LevenbergMarquardt(ridge=of_noise if known_noise else PRIOR),
    }
