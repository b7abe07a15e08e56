"""Points to learn the density of: two moons, rings, a table of wines; columns in the shape of MINIBOONE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DATASETS = ("moons", "rings", "wine")
COLUMNS, BATCH, ROWS = 43, 1000, 200
"""Of MINIBOONE, of a batch of the published training, and of a smaller one that is timed too."""


@dataclass(frozen=True)
class Points:
    """Points (n, columns) to learn from, and ``unseen`` ones; columns have mean 0 and deviation 1."""

    seen: Tensor
    unseen: Tensor
    columns: tuple[str, ...]


def points(name: str, count: int) -> Points:
    """``count`` points and a quarter more that are held back; of wines all that there are."""
    from sklearn.datasets import load_wine, make_circles, make_moons

    columns: tuple[str, ...]
    total, columns = count + count // 4, ("x", "y")
    if name == "moons":
        table, _ = make_moons(total, noise=0.08, random_state=0)
    elif name == "rings":
        table, _ = make_circles(total, noise=0.06, factor=0.5, random_state=0)
    else:
        wine = load_wine()
        table, columns = wine.data[:], tuple(wine.feature_names)
    table = table[np.random.default_rng(0).permutation(len(table))]
    held = len(table) // 5
    seen = table[held:]
    scaled = torch.from_numpy((table - seen.mean(axis=0)) / seen.std(axis=0))
    return Points(scaled[held:], scaled[:held], columns)


def shaped_as_miniboone(rows: int) -> Tensor:
    """(rows, COLUMNS) correlated numbers of mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(rows, COLUMNS, generator=generator, dtype=torch.float64) @ torch.randn(
        COLUMNS, COLUMNS, generator=generator, dtype=torch.float64
    )
    return mixed / mixed.std(dim=0)
