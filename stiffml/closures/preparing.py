"""What data say about a closure before it is made: where something is missing, how much, what sizes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import null_space

from stiffml.closures.components import invariant_rows, places
from stiffml.closures.known_and_missing import Known
from stiffml.closures.missing import MissingRate, missing_rate
from stiffml.training.data import Runs
from stiffml.training.lm.ladder import Whole
from stiffml.training.lm.levenberg_marquardt import LevenbergMarquardt

SHARE = 0.05
"""Of the largest missing rate, below which a component is not named: errors of the rule reach that."""

FLOOR = 1e-2
"""Of logarithms: components that begin at 0 are hardly ever observed below a hundredth of their largest."""

RIDGES = (10.0, 1.0, 0.1, 0.01)
"""Of the matching of rates. A weak one takes the errors of noisy data for rates: the best one is kept."""

PRIOR, PRIOR_OF_NOISE = 1e-4, 0.3
"""Ridges of the fit of trajectories, with residuals in units of the ranges, or of the noise."""

ITERATIONS, TOLERANCE = 40, 1e-4

STILL = 1e-9
"""Part of a component in directions of length 1 that conserve, below which it cannot change."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that data have.

    Attributes
    ----------
    typical : ndarray
        (n,) the largest observation of each component; 1 where that is 0.
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

    Components that the data name need partners where sums are conserved: HNO3 cannot change alone if nitrogen
    is not lost. Where those do not show, because noise hides them, all that it could hide are taken.

    Raises
    ------
    ValueError
        If they show nothing that is missing.
    """
    if where is None or scale is None:
        found = missing_rate((lambda t, y: torch.zeros_like(y)) if known is None else known, runs)
        largest = float(found.scale.max())
        if where is None:
            named = zip(found.components, found.scale.tolist(), strict=True)
            where = [name for name, size in named if size > SHARE * largest and name in found.where]
            where += _partners(found, where, invariant_rows(conserve, len(found.components)))
            if not where:
                raise ValueError(
                    "the data show nothing that known lacks; name components in where, or see "
                    "missing_rate(known, runs) for what could have been seen"
                )
        if scale is None:
            if not largest > 0:
                raise ValueError("missing_rate(known, runs) finds no scale of what is missing; pass scale=…")
            scale = torch.where(found.scale > 0, found.scale, found.scale.max())
    typical = np.nanmax(np.abs(runs.values), axis=0)
    return Sizes(np.where(typical > 0, typical, 1.0), scale, places("where", where, runs.components))


def _partners(found: MissingRate, where: list[str], rows: np.ndarray) -> list[str]:
    """Components that must change with those in ``where`` for sums to hold, as far as they could be hidden.

    ``rows`` (m, n): the conserved sums.
    """
    at = [found.components.index(name) for name in where]
    moves = null_space(rows[:, at]) if at else np.zeros((0, 0))
    added: list[str] = []
    for i, of_i in zip(at, moves, strict=True):
        if np.abs(of_i).max(initial=0) > STILL or not rows[:, i].any():
            continue
        for j, name in enumerate(found.components):
            together = (rows[:, i] != 0) & (rows[:, j] != 0)
            if name not in (*where, *added) and together.any() and found.limit[j] >= found.scale[i]:
                added.append(name)
    return added


def suggested(runs: Runs) -> dict[str, Any]:
    """Arguments of a fit for a model whose trajectories are near the data already.

    Adaptive steps, because one step between observations is far off where these are coarse, and a fit makes
    up for that with wrong rates; whole trajectories from the beginning.
    """
    known_noise = bool((np.nan_to_num(runs.noise) > 0).all())
    return {
        "method": "bdf",
        "strategy": Whole(last=ITERATIONS, last_tolerance=TOLERANCE),
        "levenberg_marquardt": LevenbergMarquardt(ridge=PRIOR_OF_NOISE if known_noise else PRIOR),
    }
