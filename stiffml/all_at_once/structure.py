"""Which unknowns of many steps enter which of their equations, and with what numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stiffml.discretization.equations import Block, Row
from stiffml.discretization.trajectory import Segment


@dataclass(frozen=True)
class Entries:
    """The coefficients of one row and one column of a pattern, in each step of a block: K of each.

    ``row``, ``column``: positions of the equation, and of the vector that enters it. ``alpha``, ``beta``,
    ``epsilon``: what L x, f(x) and g(x) are multiplied with.
    """

    block: int
    of: Row
    c: int
    row: np.ndarray
    column: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    epsilon: np.ndarray


class Structure:
    """The equations of a segment as one system: R = L A x − B f(x) − E g(x) [− J x − τ ∂f/∂s] = 0.

    The vectors x stand in one array, those that the segment starts from before those that it determines.
    Each equation determines the vector at its own position, from itself and vectors before it: the matrix
    of the system is block lower triangular.

    Parameters
    ----------
    segment : Segment
    blocks : sequence of Block
        All its steps.

    Attributes
    ----------
    known : ndarray
        (given,) int: the states that the segment starts from; they have the positions 0 … given − 1.
    entries : list of Entries
    positions : list of dict
        For each block its columns: c -> (K,) positions.
    """

    def __init__(self, segment: Segment, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        determined = [self._determined_states(block) for block in blocks]
        own = np.concatenate([states.ravel() for states in determined])
        self.known = np.setdiff1d(np.concatenate([block.known.ravel() for block in blocks]), own)
        of_state = _Lookup(self.known, np.arange(len(self.known)))
        self.positions: list[dict[int, np.ndarray]] = []
        count, numbers, places = len(self.known), [], []
        for block, states in zip(blocks, determined, strict=True):
            pattern, steps = block.pattern, np.arange(block.steps)
            rows = len(pattern.rows)
            at = {row.column: count + steps * rows + row.index for row in pattern.rows}
            columns = [
                c for c in (*range(pattern.history, pattern.columns),) if block.state_of(c) is not None
            ]
            numbers.append(states.ravel())
            places.append(np.stack([at[c] for c in columns], axis=1).ravel())
            self.positions.append(at)
            count += rows * block.steps
        self.count = count
        of_own = _Lookup(np.concatenate(numbers), np.concatenate(places))
        self._of_state = of_state, of_own
        for block, at in zip(blocks, self.positions, strict=True):
            for c in range(block.pattern.history):
                at[c] = self.position_of(block.known[:, c])
        self.entries = [
            entry
            for number, block in enumerate(blocks)
            for row in block.pattern.rows
            for entry in self._entries(number, block, row)
        ]

    @staticmethod
    def _determined_states(block: Block) -> np.ndarray:
        """(steps, columns): the numbers, as states, of what a block determines and others may refer to."""
        pattern = block.pattern
        columns = (block.state_of(c) for c in range(pattern.history, pattern.columns))
        return np.stack([states for states in columns if states is not None], axis=1)

    def position_of(self, states: np.ndarray) -> np.ndarray:
        """(N,) numbers of states -> (N,) their positions."""
        given, own = self._of_state
        found = own(states)
        return np.where(found < 0, given(states), found)

    def _entries(self, number: int, block: Block, row: Row) -> list[Entries]:
        at, r = self.positions[number], row.index
        numbers = block.numbers
        entries = []
        for c in sorted({*row.alpha, *row.beta, *row.epsilon, row.column}):
            inside = c < numbers.alpha.shape[2]
            none = np.zeros(block.steps)
            alpha = numbers.alpha[:, r, c].numpy() if inside else none + 1  # that of an output is 1
            has_f = c in row.beta or (c == row.column and row.solves)
            entries.append(
                Entries(
                    block=number,
                    of=row,
                    c=c,
                    row=at[row.column],
                    column=at[c],
                    alpha=alpha if c in row.alpha or c == row.column else none,
                    beta=numbers.beta[:, r, c].numpy() if has_f else none,
                    epsilon=numbers.epsilon[:, r, c].numpy() if c in row.epsilon else none,
                )
            )
        return entries

    @property
    def given(self) -> int:
        """How many vectors the segment starts from."""
        return len(self.known)

    @property
    def unknowns(self) -> int:
        """How many vectors it determines."""
        return self.count - self.given

    @cached_property
    def reach(self) -> int:
        """How many positions back an equation refers to, of vectors that are determined."""
        back = [
            int((entry.row - entry.column)[entry.column >= self.given].max(initial=0))
            for entry in self.entries
        ]
        bases = [
            int(
                (at[row.column] - at[block.pattern.base])[at[block.pattern.base] >= self.given].max(initial=0)
            )
            for block, at in zip(self.blocks, self.positions, strict=True)
            for row in block.pattern.rows
            if row.rosenbrock
        ]
        return max([*back, *bases])


class _Lookup:
    """From numbers of states to positions; −1 where a number is not among them."""

    def __init__(self, states: np.ndarray, positions: np.ndarray) -> None:
        order = np.argsort(states, kind="stable")
        self._states, self._positions = states[order], positions[order]

    def __call__(self, states: np.ndarray) -> np.ndarray:
        if not len(self._states):
            return np.full(states.shape, -1)
        where = np.minimum(np.searchsorted(self._states, states), len(self._states) - 1)
        return np.where(self._states[where] == states, self._positions[where], -1)
