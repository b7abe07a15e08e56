"""Where the coefficients of many steps stand in their equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stiffml.discretization.equations import Block, Pattern
from stiffml.discretization.row import Row


class Coefficients(NamedTuple):
    """α (E,) of all entries, and β and ε of those that have them."""

    alpha: np.ndarray
    beta: np.ndarray
    epsilon: np.ndarray


class _Part:
    """The entries of one block: pairs of a row and a column, for each of its K steps."""

    def __init__(self, pattern: Pattern, rows: Sequence[Row], own: bool) -> None:
        pairs = [
            (number, row, c)
            for number, row in enumerate(rows)
            for c in sorted(
                {*row.alpha, *row.beta, *row.epsilon}
                | ({row.column} if own else set())
                | ({pattern.base} if row.rosenbrock else set())
            )
        ]
        self.pairs = pairs
        self.number = [number for number, _, _ in pairs]  # of the row among the given ones
        self.rows, self.columns = ([row.index for _, row, _ in pairs], [c for _, _, c in pairs])
        self.weighted = np.array([row.weighted for _, row, _ in pairs], dtype=bool)
        self.alpha = np.array([c in row.alpha or c == row.column for _, row, c in pairs], dtype=bool)
        self.beta = np.array(
            [c in row.beta or (c == row.column and row.solves) for _, row, c in pairs], dtype=bool
        )
        self.epsilon = np.array([c in row.epsilon for _, row, c in pairs], dtype=bool)

    def of(self, numbers: np.ndarray, has: np.ndarray) -> np.ndarray:
        """(K · P,) from the coefficients (K, R, C) of all rows and columns; zero where there is none."""
        return np.where(has, numbers[:, self.rows, self.columns], 0.0).ravel()


class Entries:
    """E places of coefficients in equations, ordered by equation; within one, no vector occurs twice.

    Attributes
    ----------
    row, column : ndarray
        (E,) int, the number of the equation, from 0, and the position of the vector.
    starts : ndarray
        (equations + 1,) int: those of equation r are ``starts[r]`` … ``starts[r + 1] − 1``.
    weighted : ndarray
        (E,) bool, whether L is the mass matrix in the equation.
    with_beta, with_epsilon : ndarray
        int, the entries that have β and ε.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        positions: Sequence[dict[int, np.ndarray]],
        rows: Sequence[Sequence[Row]],
        equations: Sequence[np.ndarray],
        own: bool,
    ) -> None:
        """``equations``: for each block (K, rows) the numbers of its ``rows`` in each step."""
        none = np.empty(0, dtype=int)
        self.parts = [_Part(block.pattern, some, own) for block, some in zip(blocks, rows, strict=True)]
        steps = [block.steps for block in blocks]
        self.row = np.concatenate(
            [none, *(at[:, part.number].ravel() for part, at in zip(self.parts, equations, strict=True))]
        )
        self.column = np.concatenate(
            [
                none,
                *(
                    np.stack([at[c] for c in part.columns], axis=1).ravel()
                    for part, at in zip(self.parts, positions, strict=True)
                    if part.columns
                ),
            ]
        )
        self.starts = np.searchsorted(self.row, np.arange(sum(at.size for at in equations) + 1))
        self.firsts = [0, *np.cumsum([k * len(p.columns) for k, p in zip(steps, self.parts, strict=True)])]
        self.weighted, beta, epsilon = (
            np.concatenate(
                [none, *(np.tile(getattr(p, name), k) for k, p in zip(steps, self.parts, strict=True))]
            ).astype(bool)
            for name in ("weighted", "beta", "epsilon")
        )
        self.with_beta, self.with_epsilon = np.flatnonzero(beta), np.flatnonzero(epsilon)

    def of(self, block: int, row: Row, column: int) -> np.ndarray:
        """(K,) int, the entries of one column in one row of a block."""
        part, first = self.parts[block], self.firsts[block]
        place = next(n for n, (_, other, c) in enumerate(part.pairs) if other is row and c == column)
        return np.arange(first + place, self.firsts[block + 1], len(part.pairs))

    def coefficients(self, blocks: Sequence[Block]) -> Coefficients:
        """Those of blocks with this topology."""
        found: list[list[np.ndarray]] = [[np.empty(0)], [np.empty(0)], [np.empty(0)]]
        for part, block in zip(self.parts, blocks, strict=True):
            for values, name in zip(found, ("alpha", "beta", "epsilon"), strict=True):
                values.append(part.of(getattr(block.numbers, name).numpy(), getattr(part, name)))
        alpha, beta, epsilon = (np.concatenate(values) for values in found)
        return Coefficients(alpha, beta[self.with_beta], epsilon[self.with_epsilon])
