"""Whether differences of a function contradict torch's derivative of it.

The error of a difference grows with its step, and by rounding if the step is short. At a kink or a jump it is
no derivative at all. Two steps of different length show how far it can be trusted: where they agree with each
other and not with torch, part of the function has left autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stiffml.system.function.generic_states import random_signed

TRUST = 100.0
"""A component counts for less, the more its difference changes with the step, times this number."""

RESOLVED = 0.1
"""The relative change of a difference with its step up to which it counts: what oscillates faster than the
step, or is lost in rounding, says nothing."""

EXCESS = 10.0
"""A contradiction is at least this many times the change with the step,"""

LEAST = {torch.float64: 1e-4, torch.float32: 1e-2}
"""and this many times the derivative of a typical component."""


@dataclass(frozen=True)
class Differences:
    """Derivatives (…, size) of f along a direction, by a longer and a shorter step.

    With the ``weights`` (…, size) components of all sizes count alike, but those spoilt by rounding or kinks
    hardly. The weighted sums of differences and of torch's derivative are compared. Weights have the signs of
    the differences, so that what torch does not see adds up: with random signs it may cancel by chance.
    """

    longer: np.ndarray
    shorter: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, longer: np.ndarray, shorter: np.ndarray, random: np.random.Generator) -> Differences:
        change, size = np.abs(longer - shorter), np.abs(shorter)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            weights = 1 / (size * (1 + (TRUST * change / size) ** 2))
        weights = np.where((change < RESOLVED * size) & np.isfinite(weights), weights, 0.0)
        return cls(longer, shorter, np.sign(shorter) * np.abs(random_signed(random, size.shape)) * weights)

    def within(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Of some rows: the weighted sum, its uncertainty, and the number of components in it."""
        weights, longer, shorter = (v[rows] for v in (self.weights, self.longer, self.shorter))
        size = np.abs(weights)
        parts = (weights * shorter, size * np.abs(longer - shorter), size > 0)
        return np.array([float(np.sum(part)) for part in parts])


def contradicts(sums: np.ndarray, product: float, dtype: torch.dtype) -> bool:
    """Whether ``product``, the weighted sum of torch's derivative, is not the one that differences show."""
    value, uncertain, count = sums.tolist()
    return abs(value - product) > EXCESS * uncertain + LEAST[dtype] * np.sqrt(count)
