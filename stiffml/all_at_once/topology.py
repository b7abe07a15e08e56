"""Which vectors enter which rows of many steps: index arrays, without the coefficients.

They depend on the patterns and the numbers of the steps, not on times or states. So both passes of a training
iteration share them, and so do the next iterations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from stiffml.all_at_once.entries import Entries
from stiffml.all_at_once.order import order_of
from stiffml.discretization.equations import Block
from stiffml.discretization.row import Row

T = TypeVar("T")

KEPT = 8
"""The number of topologies that are kept."""

LARGEST_KEPT = 100_000
"""Coefficients in the largest topology that is kept; it takes about 10 MB."""


class Solved(NamedTuple):
    """The N rows that are solved for, one for each implicit stage or state.

    ``entry`` (N,) int is that of the unknown, ``before`` (N,) int the position of the vector before it.
    """

    entry: np.ndarray
    before: np.ndarray


class Bracket(NamedTuple):
    """A Rosenbrock row of a block: (K,) int, the entries of its unknown and of the old state."""

    block: int
    row: Row
    own: np.ndarray
    base: np.ndarray


class Topology:
    """The vectors and rows of the steps of a segment.

    All vectors are numbered by position: first the given states that the segment starts from, then its
    unknowns. Each unknown is that of the equation with the same number, which contains no later vectors.

    Attributes
    ----------
    known : ndarray
        (given,) int: the numbers of the given states; their positions are 0 … given − 1.
    count : int
        Number of positions: given states and unknowns.
    positions : list of dict
        For each block: column -> (K,) positions.
    entries : Entries
        Of the equations of all unknowns.
    order : Order
        Where states, half steps and stages are.
    outputs : ndarray
        (outputs,) int, the numbers, as states, of outputs between the ends of steps. They are no unknowns:
        nothing depends on them. For each block (K, outputs a step), flattened.
    output_entries : Entries
        Of their rows, without the outputs themselves, whose coefficient is 1.
    equations, output_equations : list of ndarray
        For each block (steps, rows) int, the numbers of the equations, and those among outputs.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        determined = [_determined_states(block) for block in blocks]
        own = np.concatenate([states.ravel() for states in determined])
        self.known = np.setdiff1d(np.concatenate([block.known.ravel() for block in blocks]), own)
        of_state = _Lookup(self.known, np.arange(len(self.known)))
        self.positions: list[dict[int, np.ndarray]] = []
        count, places, equations = len(self.known), [], []
        for block in blocks:
            rows = block.pattern.step_rows
            at = count + np.arange(block.steps * len(rows)).reshape(block.steps, len(rows))
            equations.append(at - len(self.known))
            self.positions.append({row.column: at[:, row.index] for row in rows})
            places.append(at[:, [row.index for row in rows if block.state_of(row.column) is not None]])
            count += at.size
        self.count = count
        self._of_state = of_state, _Lookup(own, np.concatenate([part.ravel() for part in places]))
        for block, columns in zip(blocks, self.positions, strict=True):
            for c in range(block.pattern.history):
                columns[c] = self.position_of(block.known[:, c])
        patterns = [block.pattern for block in blocks]
        self.patterns = patterns
        self.entries = Entries(blocks, self.positions, [p.step_rows for p in patterns], equations, own=True)
        none = np.empty(0, dtype=int)
        asked = [
            np.stack([none if (s := block.state_of(row.column)) is None else s for row in rows], axis=1)
            if (rows := block.pattern.output_rows)
            else np.empty((block.steps, 0), dtype=int)
            for block in blocks
        ]
        firsts = np.cumsum([0, *(part.size for part in asked)])
        numbers = [
            first + np.arange(part.size).reshape(part.shape)
            for first, part in zip(firsts[:-1].tolist(), asked, strict=True)
        ]
        self.output_equations = numbers
        self.equations = equations
        self._asked: tuple[tuple[int, ...], np.ndarray] = (), none
        self.order = order_of(blocks, self.positions, self.known, count)
        self.outputs = np.concatenate([part.ravel() for part in asked])
        self.output_entries = Entries(
            blocks, self.positions, [p.output_rows for p in patterns], numbers, own=False
        )

    @property
    def given(self) -> int:
        """The number of states that the segment starts from."""
        return len(self.known)

    @property
    def unknowns(self) -> int:
        """The number of vectors that the segment computes."""
        return self.count - self.given

    def position_of(self, states: np.ndarray) -> np.ndarray:
        """The positions (N,) of states given by number (N,); −1 for states that are not in the system."""
        given, own = self._of_state
        found = own(states)
        return np.where(found < 0, given(states), found)

    def positions_of(self, states: tuple[int, ...]) -> np.ndarray:
        """The same for the keys of a mapping; the last ones are kept, since trainings repeat them."""
        if states != self._asked[0]:
            self._asked = states, self.position_of(np.array(states, dtype=int))
        return self._asked[1]

    @cached_property
    def diagonal(self) -> np.ndarray:
        """(unknowns,) int, the entries of the unknowns in their own equations."""
        entries = self.entries
        return np.flatnonzero(entries.row + self.given == entries.column)

    @cached_property
    def below(self) -> np.ndarray:
        """int, the entries of other unknowns."""
        entries = self.entries
        return np.flatnonzero((entries.column >= self.given) & (entries.row + self.given != entries.column))

    @cached_property
    def outside(self) -> np.ndarray:
        """int, the entries of given states."""
        return np.flatnonzero(self.entries.column < self.given)

    @cached_property
    def reach(self) -> int:
        """The largest distance, in positions, from a row back to an unknown that enters it."""
        row, column = (part[self.below] for part in (self.entries.row, self.entries.column))
        return int((row + self.given - column).max(initial=0))

    @cached_property
    def tested(self) -> np.ndarray:
        """(unknowns,) bool: the unknowns whose updates are tested, states and implicit stages."""
        tested = np.zeros(self.count, dtype=bool)
        for pattern, at in zip(self.patterns, self.positions, strict=True):
            for row in pattern.step_rows:
                if row.solves or row.column not in pattern.stages:
                    tested[at[row.column]] = True
        return tested[self.given :]

    @cached_property
    def solved(self) -> Solved:
        """The rows that are solved for by Newton's iteration when steps are taken one by one."""
        none = np.empty(0, dtype=int)
        entry, before = [none], [none]
        for number, (pattern, at) in enumerate(zip(self.patterns, self.positions, strict=True)):
            for row in pattern.step_rows:
                if row.solves:
                    entry.append(self.entries.of(number, row, row.column))
                    before.append(at[row.column - 1])
        return Solved(np.concatenate(entry), np.concatenate(before))

    @cached_property
    def brackets(self) -> list[Bracket]:
        """All Rosenbrock rows."""
        return [
            Bracket(
                number,
                row,
                self.entries.of(number, row, row.column),
                self.entries.of(number, row, pattern.base),
            )
            for number, pattern in enumerate(self.patterns)
            for row in pattern.step_rows
            if row.rosenbrock
        ]

    @cached_property
    def nodes(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Where "f" and "g" are evaluated: (M,) positions, and (count,) from positions to these, or −1."""
        found = {}
        for name in ("f", "g"):
            wanted = np.zeros(self.count, dtype=bool)
            for pattern, at in zip(self.patterns, self.positions, strict=True):
                for c in np.flatnonzero(getattr(pattern, f"evaluates_{name}")).tolist():
                    wanted[at[c]] = True
                if name == "f" and pattern.has_rosenbrock:
                    wanted[at[pattern.base]] = True
            found[name] = np.flatnonzero(wanted), np.where(wanted, np.cumsum(wanted) - 1, -1)
        return found

    @cached_property
    def node_index(self) -> dict[str, list[dict[int, np.ndarray]]]:
        """For "f" and "g" and each block: column -> (steps,) int, its nodes; like ``index`` of ``Nodes``."""
        return {
            name: [
                {c: node[at[c]] for c in np.flatnonzero(getattr(pattern, f"evaluates_{name}")).tolist()}
                for pattern, at in zip(self.patterns, self.positions, strict=True)
            ]
            for name, (_, node) in self.nodes.items()
        }

    def band_places(self, width: int) -> np.ndarray:
        """(below, width, width) int: the entries of the blocks below the diagonal in a flat band matrix.

        Stored by columns, with ``reach · width + width`` rows; entry (r, c) is in row r − c of its column.
        """
        if width not in self._places:
            height = (self.reach + 1) * width
            row, column = (part[self.below] for part in (self.entries.row, self.entries.column))
            column = column - self.given
            i, j = np.arange(width)[:, None], np.arange(width)[None, :]
            down = (row - column)[:, None, None] * width + i - j
            self._places[width] = (column[:, None, None] * width + j) * height + down
        return self._places[width]

    @cached_property
    def _places(self) -> dict[int, np.ndarray]:
        return {}


_KNOWN: OrderedDict[object, Topology] = OrderedDict()


def topology_of(blocks: Sequence[Block]) -> Topology:
    """The topology of blocks; of the last few, kept."""
    if any(block.pattern.outputs for block in blocks):
        return Topology(blocks)  # patterns with outputs are made anew by every solve
    key = tuple((block.pattern, block.which.tobytes(), block.known.tobytes()) for block in blocks)
    found = _KNOWN.pop(key, None) or Topology(blocks)
    keep(_KNOWN, key, found, len(found.entries.row))
    return found


def keep(known: OrderedDict[object, T], key: object, value: T, entries: int) -> None:
    """Keep the newest value, unless it has too many entries, and forget the oldest."""
    if entries <= LARGEST_KEPT:
        known[key] = value
        while len(known) > KEPT:
            known.popitem(last=False)


def _determined_states(block: Block) -> np.ndarray:
    """(steps, columns) the numbers of the states and half steps that a block computes."""
    columns = (block.state_of(row.column) for row in block.pattern.step_rows)
    return np.stack([states for states in columns if states is not None], axis=1)


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
