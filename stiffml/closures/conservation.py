"""Rates that change no conserved sum: projections, and reactions that conserve each by itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_DEPENDENT = 1e-10
"""Rows and columns count as dependent if a singular value is this small next to the largest."""

_MOST_TRIED = 200_000
"""Sets of components that are tried in the search for reactions."""


def constraints(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Orthonormal rows (r, k) that span the sums, of rates in units of ``scale``; r ≤ m.

    Each row is divided by its length first, so that a sum of small components is held as well as one of
    large ones.
    """
    weighted = rows * scale
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    weighted = weighted[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    if not len(weighted):
        return np.zeros((0, rows.shape[1]))
    _, values, vectors = np.linalg.svd(weighted, full_matrices=False)
    return vectors[values > _DEPENDENT * values[0]]


class Projection(nn.Module):
    """The nearest rates that change no conserved sum, where nearness is measured in units of ``scale``.

    With m = scale · z the sums W·m are those of the rows A = W·diag(scale), and z − Qᵀ(Q z), with Q an
    orthonormal basis of these rows, is what changes none. No component of it is larger than the length of z:
    what a sum lacks is taken from the components whose scale is large, and none of them gets more than its
    scale times the length of z.
    """

    basis: Tensor

    def __init__(self, rows: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("basis", torch.from_numpy(constraints(rows, scale).copy()))

    def forward(self, z: Tensor) -> Tensor:
        if not len(self.basis):
            return z
        return z - (z @ self.basis.mT) @ self.basis


def elementary(rows: np.ndarray, most: int) -> np.ndarray:
    """(r, k) reactions that change none of the sums ``rows`` (m, k), and of which no part does that alone.

    These are the vectors of the null space with the fewest components (its circuits); every rate that
    conserves the sums is a sum of them, with the signs that the rate itself has. Coefficients are whole where
    that is possible with a least one of at most 12, else the least is 1.

    Raises
    ------
    ValueError
        If there are more than ``most``, or too many sets of components to try.
    """
    k = rows.shape[1]
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    lengths = np.linalg.norm(rows, axis=0)
    columns = rows / np.where(lengths > 0, lengths, 1.0)
    rank = np.linalg.matrix_rank(columns, _DEPENDENT * max(1, k)) if len(columns) else 0
    found: list[np.ndarray] = []
    supports: list[frozenset[int]] = []
    tried = 0
    for size in range(1, rank + 2):
        for chosen in itertools.combinations(range(k), size):
            tried += 1
            if tried > _MOST_TRIED:
                raise ValueError(_too_many(f"there are too many sets of {k} components to look for them"))
            if any(support <= set(chosen) for support in supports):
                continue
            vector = _dependence(columns[:, chosen])
            if vector is None:
                continue
            whole = np.zeros(k)
            whole[list(chosen)] = vector / np.where(lengths[list(chosen)] > 0, lengths[list(chosen)], 1.0)
            found.append(_in_whole_numbers(whole / np.abs(whole[whole != 0]).min()))
            supports.append(frozenset(chosen))
            if len(found) > most:
                raise ValueError(_too_many(f"more than {most} change no conserved sum"))
    return np.array(found).reshape(-1, k)


def _in_whole_numbers(reaction: np.ndarray) -> np.ndarray:
    for factor in range(1, 13):
        nearest = (factor * reaction).round()
        if np.abs(factor * reaction - nearest).max() < 1e-9:
            return nearest
    return reaction


def _too_many(why: str) -> str:
    return (
        f"Reactions: {why}; name fewer components in where, or give the reactions: Reactions(stoichiometry)"
    )


def _dependence(columns: np.ndarray) -> np.ndarray | None:
    """The one vector that columns map to 0, positive in its first component; None if there is none."""
    if not len(columns):
        return -np.ones(1)
    _, values, vectors = np.linalg.svd(columns)
    values = np.concatenate([values, np.zeros(max(0, columns.shape[1] - len(values)))])
    if values[-1] > _DEPENDENT * max(values[0], 1.0):
        return None
    vector = vectors[-1]
    return -vector * np.sign(vector[0]) if vector[0] else None


def require_conserving(reactions: np.ndarray, rows: np.ndarray, names: Sequence[str]) -> None:
    """Raise ValueError for a reaction that changes a conserved sum by more than rounding."""
    change = np.abs(reactions @ rows.T)
    size = np.abs(reactions) @ np.abs(rows.T)
    wrong = np.argwhere(change > 1e-12 * size)
    if len(wrong):
        r, s = wrong[0]
        raise ValueError(
            f"Reactions: reaction {r}, {written(reactions[r], names)}, changes conserved sum {s} by "
            f"{change[r, s]:.3g}; both count from 0"
        )


def written(reaction: np.ndarray, names: Sequence[str]) -> str:
    """A reaction as "A + 2 B <=> C"."""

    def side(sign: int) -> str:
        terms = [
            name if abs(c) == 1 else f"{abs(c):.6g} {name}"
            for c, name in zip(reaction, names, strict=True)
            if c * sign > 0
        ]
        return " + ".join(terms) or "∅"

    return f"{side(-1)} <=> {side(1)}"
