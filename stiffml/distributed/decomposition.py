"""The division of a field's points among processes, by a PETSc DMDA."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stiffml.petsc.library import PETSc

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Decomposition:
    """A box of points for each process.

    Points are numbered by process, and within one with the last axis fastest.

    Attributes
    ----------
    shape : tuple of int
        Points along each axis of the whole grid.
    periodic : tuple of bool
        Whether each axis closes upon itself.
    width : int
        Points of margin.
    ranges : tuple of tuple of (start, stop)
        Each process's box, along each axis.
    own : tuple of (start, stop)
        That of this process.
    first : ndarray of int
        (processes + 1,): the number of each process's first point.
    ghosted : ndarray of int
        This process's box with a margin of ``width`` points on all sides: the number of the point whose
        value belongs at each place. The margin wraps around periodic axes, and repeats the point at the
        edge outside others.
    """

    shape: tuple[int, ...]
    periodic: tuple[bool, ...]
    width: int
    ranges: tuple[Ranges, ...]
    own: Ranges
    first: np.ndarray
    ghosted: np.ndarray

    def unknowns(self, points: np.ndarray, species: int) -> np.ndarray:
        """Numbers of points (…) -> numbers of all species there in a vector of a field, (species, …).

        A process's part of such a vector has one species after the other.
        """
        owner = np.searchsorted(self.first, points, side="right") - 1
        start, count = self.first[owner], self.first[owner + 1] - self.first[owner]
        number = np.arange(species).reshape(-1, *[1] * points.ndim)
        return species * start + number * count + (points - start)


def decompose(shape: tuple[int, ...], periodic: tuple[bool, ...], width: int, comm: Any) -> Decomposition:
    """Divide the points of ``shape`` among the processes of a PETSc communicator; collective."""
    grid = process_grid(shape, periodic, width, comm.getSize())
    kinds = PETSc.DM.BoundaryType
    # PETSc's first axis is the fastest, ours the last: what has one entry an axis is reversed.
    dm = PETSc.DMDA().create(
        sizes=shape[::-1],
        proc_sizes=grid[::-1],
        boundary_type=[kinds.PERIODIC if p else kinds.GHOSTED for p in periodic[::-1]],
        stencil_type=PETSc.DMDA.StencilType.BOX,  # with corners, which convolutions use
        stencil_width=width,
        comm=comm,
    )
    bounds = [np.cumsum([0, *counts]).tolist() for counts in dm.getOwnershipRanges()[::-1]]
    places = [np.unravel_index(rank, grid) for rank in range(comm.getSize())]
    ranges = tuple(
        tuple((ends[i], ends[i + 1]) for ends, i in zip(bounds, place, strict=True)) for place in places
    )
    sizes = [math.prod(stop - start for start, stop in box) for box in ranges]
    own = ranges[comm.getRank()]
    margins = [
        _inside(start, stop, points, width, wraps)
        for (start, stop), points, wraps in zip(own, shape, periodic, strict=True)
    ]
    numbers = dm.getLGMap().getIndices().reshape([len(margin) for margin in margins])
    ghosted = numbers[np.ix_(*margins)].astype(np.int64)
    dm.destroy()
    first = np.concatenate([[0], np.cumsum(sizes)])
    return Decomposition(shape, periodic, width, ranges, own, first, ghosted)


def _inside(start: int, stop: int, points: int, width: int, wraps: bool) -> np.ndarray:
    """Along one axis of the box with its margin: the place in it that each place takes its value from."""
    places = np.arange(start - width, stop + width)
    return (places if wraps else places.clip(0, points - 1)) - (start - width)


def process_grid(
    shape: Sequence[int], periodic: Sequence[bool], width: int, processes: int
) -> tuple[int, ...]:
    """The number of processes along each axis, such that the fewest neighbouring points are separated.

    Each process gets at least ``width`` points along each axis. PETSc demands that, but its own choice does
    not ensure it. Of equal choices, the one that cuts earlier axes is taken: their margins are contiguous in
    memory.
    """
    most = [points // width for points in shape]

    def cut(grid: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        cuts = [p if wraps and p > 1 else p - 1 for p, wraps in zip(grid, periodic, strict=True)]
        area = sum(c * math.prod(shape) // points for c, points in zip(cuts, shape, strict=True))
        return area, tuple(-p for p in grid)

    def fitting(number: int) -> list[tuple[int, ...]]:
        return [g for g in _factors(number, len(shape)) if all(p <= m for p, m in zip(g, most, strict=True))]

    grids = fitting(processes)
    if not grids:
        axis = int(np.argmin(most))
        if most[axis] == 0:
            raise ValueError(
                f"Field: width={width} is more than the {shape[axis]} points along axis {axis} of "
                f"shape {tuple(shape)}"
            )
        fewer = next(number for number in range(processes - 1, 0, -1) if fitting(number))
        raise ValueError(
            f"Field: shape {tuple(shape)} cannot be divided among {processes} processes so that each has at "
            f"least width={width} points along every axis; start {fewer} (mpiexec -n {fewer}), "
            f"pass a communicator of that many as comm, or take a larger shape"
        )
    return min(grids, key=cut)


def _factors(number: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a number as an ordered product of ``count`` factors."""
    if count == 1:
        yield (number,)
        return
    for factor in range(1, number + 1):
        if number % factor == 0:
            for rest in _factors(number // factor, count - 1):
                yield (factor, *rest)
