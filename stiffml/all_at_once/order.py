"""Where the states, half steps and stages of many steps are among their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stiffml.discretization.equations import Block
from stiffml.discretization.numbering import STAGE
from stiffml.discretization.trajectory import Segment


class Order(NamedTuple):
    """The vectors of n steps, by position.

    Attributes
    ----------
    known : ndarray
        (given,) int, the numbers of the given states.
    steps : ndarray
        (n,) int, the numbers of the steps.
    new, inner : ndarray
        (n,) and (n, stages) int, their new states and stages.
    halves, stages : ndarray
        int, all half steps, and all stages but those of Rosenbrock rows.
    base : ndarray
        (count,) int, the state that the step of an unknown starts from.
    numbers : ndarray
        (count,) int, the numbers of states and half steps; ``STAGE`` for stages.
    """

    known: np.ndarray
    steps: np.ndarray
    new: np.ndarray
    inner: np.ndarray
    halves: np.ndarray
    stages: np.ndarray
    base: np.ndarray
    numbers: np.ndarray

    def begun(self, segment: Segment) -> np.ndarray:
        """(count, size) the vectors of a segment whose states, and stages if any, are an initial guess.

        A half step, and a stage if not, begins as the state that its step starts from; zero for the y of
        Rosenbrock methods.
        """
        x = self._states(segment)
        x[self.halves] = x[self.base[self.halves]]
        if segment.stages is None:
            x[self.stages] = x[self.base[self.stages]]
        return x

    def vectors(self, segment: Segment) -> np.ndarray:
        """(count, size) the vectors of a segment that has been solved for."""
        x = self._states(segment)
        if len(self.halves):
            x[self.halves] = segment.states_at(self.numbers[self.halves])
        return x

    def _states(self, segment: Segment) -> np.ndarray:
        x = np.zeros((len(self.base), segment.states.shape[1]))
        x[: len(self.known)] = segment.states_at(self.known)
        x[self.new] = segment.states[self.steps + 1 - segment.origin]
        if segment.stages is not None and self.inner.size:
            x[self.inner] = segment.stages[self.steps - segment.first]
        return x


def order_of(
    blocks: Sequence[Block], positions: Sequence[Mapping[int, np.ndarray]], known: np.ndarray, count: int
) -> Order:
    """The order of blocks whose columns have ``positions`` (steps,); of ``count`` vectors in all."""
    none, base = np.empty(0, dtype=int), np.zeros(count, dtype=int)
    numbers = np.full(count, STAGE)
    numbers[: len(known)] = known
    new, inner, halves, stages = [none], [], [none], [none]
    for block, at in zip(blocks, positions, strict=True):
        pattern = block.pattern
        new.append(at[pattern.new])
        columns = [at[c] for c in pattern.stages]
        inner.append(np.stack(columns, axis=1) if columns else np.empty((block.steps, 0), dtype=int))
        if pattern.keeps_half:
            halves.append(at[pattern.history])
        for row in pattern.step_rows:
            base[at[row.column]] = at[pattern.base]
            held = block.state_of(row.column)
            if held is not None:
                numbers[at[row.column]] = held
            elif not row.rosenbrock:
                stages.append(at[row.column])
    which = np.concatenate([block.which for block in blocks])
    return Order(
        known,
        which,
        np.concatenate(new),
        np.concatenate(inner),
        np.concatenate(halves),
        np.concatenate(stages),
        base,
        numbers,
    )
