"""Whether differences of a function contradict its derivative as torch has it.

A difference is as wrong as its step is long, or as rounding is large for a short one; at a kink or a jump it
is no derivative at all. Two steps of different length show how far it can be trusted: where they agree with
each other and not with torch, part of the function has left autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stiffml.system.function.generic_states import random_signed

TRUST = 100.0
"""Times the change of a difference with its step from which on a component counts for less."""

RESOLVED = 0.1
"""By how much a difference may change with its step, relative to itself, to count at all: what oscillates
faster than the step, or is lost in rounding, says nothing."""

EXCESS = 10.0
"""How many times that change a contradiction must be."""

LEAST = {torch.float64: 1e-4, torch.float32: 1e-2}
"""And how many times the derivative of a typical component."""


@dataclass(frozen=True)
class Differences:
    """Derivatives (…, size) of f along a direction, by a longer and a shorter step.

    ``weights`` (…, size): of random sign, and such that components of all sizes count alike, but those that
    rounding or kinks have spoilt hardly. Their sum with the derivative that torch has is what is compared.
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
        return cls(longer, shorter, random_signed(random, size.shape) * weights)

    def within(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Of some rows: the weighed derivative, by how much it is uncertain, how many components it has."""
        weights, longer, shorter = (v[rows] for v in (self.weights, self.longer, self.shorter))
        size = np.abs(weights)
        parts = (weights * shorter, size * np.abs(longer - shorter), size > 0)
        return np.array([float(np.sum(part)) for part in parts])


def contradicts(sums: np.ndarray, product: float, dtype: torch.dtype) -> bool:
    """Whether the weighed derivative of torch, ``product``, is another one than differences show."""
    value, uncertain, count = sums.tolist()
    return abs(value - product) > EXCESS * uncertain + LEAST[dtype] * np.sqrt(count)
