"""The structure of the equations of many steps: which vectors enter which rows, with which coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stiffml.discretization.equations import Block, Row
from stiffml.discretization.trajectory import Segment


@dataclass(frozen=True)
class Entries:
    """The coefficients of one column in one row of a pattern, for the K steps of a block.

    Attributes
    ----------
    block : int
        The number of the block.
    of : Row
    c : int
        The column.
    row, column : ndarray
        (K,) int, the positions of the equation and of the vector in the column.
    alpha, beta, epsilon : ndarray
        (K,) the coefficients of L x, f(x) and g(x).
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

    All vectors x are numbered by position: first the given states that the segment starts from, then its
    unknowns. Each unknown has the same position as its row, which contains no later vectors. So the matrix
    of the system is block lower triangular.

    Parameters
    ----------
    segment : Segment
    blocks : sequence of Block
        Together they hold every step of the segment.

    Attributes
    ----------
    known : ndarray
        (given,) int: the numbers of the given states; their positions are 0 … given − 1.
    count : int
        Number of positions: given states and unknowns.
    entries : list of Entries
        All coefficients of the unknowns' rows.
    positions : list of dict
        For each block: column -> (K,) positions.
    outputs : ndarray
        (outputs,) int, the numbers, as states, of outputs between the ends of steps. They are no unknowns:
        nothing depends on them.
    output_entries : list of Entries
        All coefficients of their rows but the own one, which is 1; ``row`` counts them.
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
            rows = len(pattern.step_rows)
            at = {row.column: count + steps * rows + row.index for row in pattern.step_rows}
            columns = [row.column for row in pattern.step_rows if block.state_of(row.column) is not None]
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
            for row in block.pattern.step_rows
            for entry in self._entries(number, row, {row.column}, self.positions[number][row.column])
        ]
        self.output_entries: list[Entries] = []
        outputs: list[np.ndarray] = [np.empty(0, dtype=int)]
        for number, block in enumerate(blocks):
            for row in block.pattern.output_rows:
                rank = sum(map(len, outputs)) + np.arange(block.steps)
                found = block.state_of(row.column)
                assert found is not None
                outputs.append(found)
                self.output_entries += self._entries(number, row, set(), rank)
        self.outputs = np.concatenate(outputs)

    @staticmethod
    def _determined_states(block: Block) -> np.ndarray:
        """(steps, columns) the numbers of the states and half steps that a block computes."""
        columns = (block.state_of(row.column) for row in block.pattern.step_rows)
        return np.stack([states for states in columns if states is not None], axis=1)

    def position_of(self, states: np.ndarray) -> np.ndarray:
        """The positions (N,) of states given by number (N,); −1 for states that are not in the system."""
        given, own = self._of_state
        found = own(states)
        return np.where(found < 0, given(states), found)

    def _entries(self, number: int, row: Row, own: set[int], where: np.ndarray) -> list[Entries]:
        """Of one row of a block, with its ``own`` column; ``where``: (K,) the positions of the row."""
        at, r, block = self.positions[number], row.index, self.blocks[number]
        numbers, none = block.numbers, np.zeros(block.steps)
        return [
            Entries(
                block=number,
                of=row,
                c=c,
                row=where,
                column=at[c],
                alpha=numbers.alpha[:, r, c].numpy() if c in row.alpha or c in own else none,
                beta=numbers.beta[:, r, c].numpy() if c in row.beta or (c in own and row.solves) else none,
                epsilon=numbers.epsilon[:, r, c].numpy() if c in row.epsilon else none,
            )
            for c in sorted({*row.alpha, *row.beta, *row.epsilon, *own})
        ]

    @property
    def given(self) -> int:
        """The number of states that the segment starts from."""
        return len(self.known)

    @property
    def unknowns(self) -> int:
        """The number of vectors that the segment computes."""
        return self.count - self.given

    @cached_property
    def reach(self) -> int:
        """The largest distance, in positions, from a row back to an unknown that enters it."""
        back = [
            int((entry.row - entry.column)[entry.column >= self.given].max(initial=0))
            for entry in self.entries
        ]
        bases = [
            int(
                (at[row.column] - at[block.pattern.base])[at[block.pattern.base] >= self.given].max(initial=0)
            )
            for block, at in zip(self.blocks, self.positions, strict=True)
            for row in block.pattern.step_rows
            if row.rosenbrock
        ]
        return max([*back, *bases])


class _Lookup:
    """A map from numbers of states to positions, both (N,); −1 for unknown numbers."""

    def __init__(self, states: np.ndarray, positions: np.ndarray) -> None:
        order = np.argsort(states, kind="stable")
        self._states, self._positions = states[order], positions[order]

    def __call__(self, states: np.ndarray) -> np.ndarray:
        if not len(self._states):
            return np.full(states.shape, -1)
        where = np.minimum(np.searchsorted(self._states, states), len(self._states) - 1)
        return np.where(self._states[where] == states, self._positions[where], -1)
