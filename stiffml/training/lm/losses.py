"""Losses ρ(z) of squared residuals z, beside the sum of squares those that outliers count less in."""

from __future__ import annotations

import numpy as np


def _squares(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return z, np.ones_like(z), np.zeros_like(z)


def _soft_l1(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    root = np.sqrt(1 + z)
    return 2 * z / (root + 1), 1 / root, -0.5 / root**3


def _huber(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    root = np.sqrt(np.maximum(z, 1))
    inside = z <= 1
    return np.where(inside, z, 2 * root - 1), 1 / root, np.where(inside, 0, -0.5 / root**3)


LOSSES = {"squares": _squares, "soft-l1": _soft_l1, "huber": _huber}
"""ρ(z), ρ′ and ρ″ of each loss."""
