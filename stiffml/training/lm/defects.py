"""The defects of steps at any vectors, R(x, θ), and their derivatives: rows that need not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array

from stiffml.all_at_once.guess import interpolated
from stiffml.all_at_once.newton import ManySteps
from stiffml.all_at_once.solve import parts_of
from stiffml.all_at_once.structure import Structure
from stiffml.discretization.trajectory import Segment, Trajectories
from stiffml.gradients.directions import Units
from stiffml.run.request import Request
from stiffml.training.lm.differentiated import Group

Path = tuple[np.ndarray, np.ndarray]
"""Times (k,) and states (k, size)."""


class Defects:
    """The rows of a group of intervals.

    Parameters
    ----------
    request : Request
        Of a solve with the same function, method and steps.
    group : Group

    Attributes
    ----------
    shape : tuple of int
        (unknowns, size) of the vectors x that the rows determine: states, stages, half steps.
    """

    def __init__(self, request: Request, group: Group) -> None:
        self._system, self._group = request.system, group
        self._trajectories = group.trajectories
        self._size = self._system.layout.size
        nowhere = np.zeros((self._trajectories.n_steps + 1, self._size))
        # The structure depends on times alone; half steps are unknowns, their states here have no meaning.
        self._structure = Structure(request.method.blocks(self._segment(nowhere), self._system.form))
        self._topology = self._structure.topology
        self._equations = ManySteps(self._structure, self._system)
        self.shape = self._topology.unknowns, self._size

    def _segment(self, states: np.ndarray) -> Segment:
        for part, first in zip(self._trajectories.parts, self._trajectories.starts.tolist(), strict=True):
            if part.half is not None:
                part.half = part.half[0], states[first]
        return Segment(self._trajectories, 0, self._trajectories.n_steps, 0, states)

    def guess(self, paths: Sequence[Path]) -> np.ndarray:
        """(unknowns, size) from times and states for each interval of the group, in straight lines.

        Stages are the states at their times; the increments of Rosenbrock methods are zero.
        """
        parts, starts = self._trajectories.parts, self._trajectories.starts
        pairs = list(zip(paths, parts, strict=True))
        states = np.concatenate([interpolated(*path, part.times) for path, part in pairs])
        x = self._topology.order.begun(self._segment(states))
        for block, at in zip(self._structure.blocks, self._topology.positions, strict=True):
            number = np.searchsorted(starts, block.which, side="right") - 1
            for row in block.pattern.step_rows:
                if row.column in block.pattern.stages and not row.rosenbrock:
                    s = block.numbers.s_f[:, row.column].numpy()
                    for n in np.unique(number).tolist():
                        own = number == n
                        times, found = paths[n]
                        x[at[row.column][own]] = interpolated(times, found, s[own])
        return x[self._topology.given :]

    def segment(self, starts: Sequence[np.ndarray], x: np.ndarray) -> Segment:
        """The steps with these vectors, from the starts (size,) of the intervals."""
        vectors = self._all(starts, x)
        states = vectors[self._topology.position_of(np.arange(self._trajectories.n_steps + 1))]
        segment = self._segment(states)
        _, stages, halves = parts_of(self._structure, vectors, segment)
        found = Trajectories([part.copy() for part in self._trajectories.parts])
        for part, half in zip(found.parts, () if halves is None else halves, strict=False):
            assert part.half is not None
            part.half = part.half[0], half
        return replace(segment, trajectory=found, stages=stages)

    def unknown_of(self, states: np.ndarray) -> np.ndarray:
        """(N,) int, the numbers among the unknowns of states (N,); negative for starts."""
        return self._topology.position_of(states) - self._topology.given

    def residual(self, starts: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
        """(unknowns, size) R."""
        return self._equations.residual(self._all(starts, x))

    def derivatives(
        self, starts: Sequence[np.ndarray], x: np.ndarray, changes: Sequence[np.ndarray], units: Units
    ) -> tuple[csr_array, np.ndarray]:
        """∂R/∂x, sparse, and ∂R/∂θ (unknowns · size, P), at the vectors of the last residual.

        ``changes``: for each interval the derivative (P, size) of its start. ``units``: how parameters move.
        """
        topology, size = self._topology, self._size
        vectors = self._all(starts, x)
        matrix = self._equations.matrix(vectors)
        entries, given = topology.entries, topology.given
        row, column = (part[topology.below] for part in (entries.row, entries.column - given))
        own = np.arange(topology.unknowns)
        by_x = _of_blocks(
            np.concatenate([own, row]),
            np.concatenate([own, column]),
            np.concatenate([matrix.diagonal, matrix.below])[:, 0],
            (topology.unknowns * size, topology.unknowns * size),
        )
        by_theta = np.zeros((topology.unknowns, size, units.count))
        for name, part in (("f", self._equations.f), ("g", self._equations.g)):
            if part is not None and len(part.at):
                through = units.through(part.dynamics, part.s, torch.from_numpy(vectors[part.at]))
                slopes = self._structure.of_slopes_at_nodes(name)
                by_theta -= (slopes @ through.reshape(len(through), -1)).reshape(by_theta.shape)
        curvatures = self._equations.curvatures(vectors)
        for block, at, curvature in zip(self._structure.blocks, topology.positions, curvatures, strict=True):
            if curvature is not None:
                brackets = units.through_brackets(curvature)
                for one in block.pattern.step_rows:
                    if one.rosenbrock:
                        by_theta[at[one.column] - given] -= brackets[one.index]
        moved = np.stack([changes[n].T for n in self._of_given()]) if given else by_theta[:0]
        row, column = (part[topology.outside] for part in (entries.row, entries.column))
        np.add.at(by_theta, row, matrix.outside[:, 0] @ moved[column])
        return by_x, by_theta.reshape(-1, units.count)

    def _all(self, starts: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.stack([starts[n] for n in self._of_given()]), x])

    def _of_given(self) -> list[int]:
        """For each given state the interval, within the group, that starts from it."""
        return np.searchsorted(self._trajectories.starts, self._topology.known).tolist()


def _of_blocks(row: np.ndarray, column: np.ndarray, blocks: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """The sparse matrix with blocks (N, w, w) at rows and columns (N,) of blocks."""
    inner = np.arange(blocks.shape[1])
    rows = np.broadcast_to((row[:, None] * len(inner) + inner)[:, :, None], blocks.shape)
    columns = np.broadcast_to((column[:, None] * len(inner) + inner)[:, None, :], blocks.shape)
    return csr_array(coo_array((blocks.ravel(), (rows.ravel(), columns.ravel())), shape=shape))
