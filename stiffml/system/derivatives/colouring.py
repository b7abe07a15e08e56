"""Groups of columns of a sparse matrix that one product can evaluate: colourings of its pattern.

If no two columns of a group have an entry in the same row, the product with the sum of their unit vectors
holds all their entries apart (A. R. Curtis, M. J. D. Powell & J. K. Reid, J. Inst. Math. Appl. 13 (1974)
117-119). To find few groups is to colour a graph (T. F. Coleman & J. J. Moré, SIAM J. Numer. Anal. 20 (1983)
187-209; A. H. Gebremedhin, F. Manne & A. Pothen, SIAM Review 47 (2005) 629-705).
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.sparse import csc_array, csr_array

PASSES = 9
"""The number of times that groups are formed anew from the ones before."""

PORTIONS = 32
"""The least number of portions in which columns are first grouped."""

MANY = 500
"""The number of groups above which the first grouping is not improved."""

FREQUENT = 0.25
"""The share of rows that have an entry at the distance of neighbours of a grid along one of its axes."""

REACH = 4
"""The most points along an axis to which a stencil reaches for its grid to be recognised."""

MOST_AXES = 4
"""Axes of a grid, with one for several components."""

TRIED = 64
"""The number of sums Σ a_i x_i that are tried out on a whole pattern."""

BITS = 62
"""Groups in one word of a mask: the bits that an int64 shifts without touching its sign."""


def colour_columns(pattern: csr_array) -> np.ndarray:
    """Groups of columns such that no two of a group have an entry in the same row; few, if not fewest.

    No grouping has fewer groups than the longest row has entries. Numbering the columns modulo that often
    suffices on grids that are not periodic, and so does Σ a_i x_i modulo a number for points x of a grid with
    stars of neighbours, such as x + 2y modulo 5. Otherwise columns are grouped greedily in random order, and
    the groups are then formed anew, group by group, which never takes more of them (J. C. Culberson & F. Luo,
    in: Cliques, Coloring, and Satisfiability, AMS (1996) 245-284).

    Parameters
    ----------
    pattern : csr_array
        (rows, columns); what is stored counts, whatever its value. Its transpose groups rows.

    Returns
    -------
    ndarray
        (columns,) int: the group of every column, numbered from 0. The same for the same pattern.
    """
    count = pattern.shape[1]
    columns = csc_array(pattern)
    used = np.flatnonzero(np.diff(columns.indptr))
    groups = np.zeros(count, dtype=np.int64)
    if not len(used):
        return groups
    least = int(np.diff(pattern.indptr).max())
    if 2 * least >= count:  # little to gain, and a long search
        return np.arange(count)
    period, lattice = _period(pattern, least), None
    if period != least:
        lattice = _lattice(pattern, least)
    regular = [np.arange(count) % period] if period is not None else []
    regular += [] if lattice is None else [lattice]
    best = min(regular, key=np.max) if regular else None
    if best is not None and best.max() + 1 == least:
        return best
    groups[used] = _greedy(columns[:, used], least)
    return best if best is not None and best.max() <= groups.max() else groups


def regroup(columns: csc_array, groups: np.ndarray) -> np.ndarray:
    """Put every column into the first group that is free in all its rows: as many groups or fewer.

    Columns of one group share no row, so that a whole group is placed at a time. The columns that come last
    join the first groups.

    Parameters
    ----------
    columns : csc_array
        (rows, columns), with no column empty.
    groups : ndarray
        (columns,) int: a valid grouping; those with low numbers come first.
    """
    order = np.argsort(groups, kind="stable")
    placed = columns[:, order]
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    found = np.empty(len(groups), dtype=np.int64)
    # taken[w][r] has bit b set if row r has an entry in the group w · BITS + b.
    taken: list[np.ndarray] = []
    for start, stop in zip(first, np.append(first[1:], len(groups)), strict=True):
        ends = placed.indptr[start : stop + 1]
        rows, begins, lengths = placed.indices[ends[0] : ends[-1]], ends[:-1] - ends[0], np.diff(ends)
        number = np.full(stop - start, -1)
        word = 0
        while (number < 0).any():
            if word == len(taken):
                taken.append(np.zeros(columns.shape[0], dtype=np.int64))
            free = ~np.bitwise_or.reduceat(taken[word][rows], begins) & ((1 << BITS) - 1)
            lowest = np.where(number < 0, free & -free, 0)
            taken[word][rows] |= np.repeat(lowest, lengths)
            number = np.where(lowest > 0, word * BITS + np.frexp(lowest.astype(float))[1] - 1, number)
            word += 1
        found[order[start:stop]] = number
    return found


def _greedy(columns: csc_array, least: int) -> np.ndarray:
    """Groups of columns, none of them empty; formed anew until they are few."""
    groups = regroup(columns, _apart(columns, max(PORTIONS, 2 * least)))
    random = np.random.default_rng(0)
    for number in range(PASSES):
        count = int(groups.max()) + 1
        if count == least or count > MANY:
            break
        # Backwards: the last join the first. Largest first: little is left over. Random: out of a dead end.
        backwards = np.arange(count)[::-1]
        largest = np.argsort(np.argsort(-np.bincount(groups), kind="stable"))
        ranks = (backwards, random.permutation(count), largest)[number % 3]
        groups = regroup(columns, ranks[groups])
    return groups


def _apart(columns: csc_array, portions: int) -> np.ndarray:
    """Many small groups of columns, at little cost.

    The columns of a portion write their numbers into their rows. Those that then find their own number in all
    their rows share no row with each other; the others wait for the next round. The order is random, so that
    no column waits for a long chain of others.
    """
    waiting = np.random.default_rng(0).permutation(columns.shape[1])
    groups = np.empty(columns.shape[1], dtype=np.int64)
    last = np.empty(columns.shape[0], dtype=np.int64)
    count = 0
    while len(waiting):
        placed = columns[:, waiting]
        edges = np.linspace(0, len(waiting), min(portions, len(waiting)) + 1).astype(int)
        done = np.zeros(len(waiting), dtype=bool)
        for start, stop in itertools.pairwise(edges):
            ends = placed.indptr[start : stop + 1]
            rows = placed.indices[ends[0] : ends[-1]]
            own = np.repeat(np.arange(start, stop), np.diff(ends))
            last[rows] = own
            done[start:stop] = np.logical_and.reduceat(last[rows] == own, ends[:-1] - ends[0])
            groups[waiting[start:stop][done[start:stop]]] = count
            count += 1
        waiting = waiting[~done]
    return groups


def _period(pattern: csr_array, least: int) -> int | None:
    """The least k, up to 2 · ``least``, such that columns k apart never share a row; None without one."""
    rows, columns = pattern.shape
    longest = int(np.diff(pattern.indptr).argmax())
    one = pattern.indices[pattern.indptr[longest] : pattern.indptr[longest + 1]]
    numbers = np.repeat(np.arange(rows), np.diff(pattern.indptr))
    for k in range(least, min(2 * least, columns) + 1):
        if len(np.unique(one % k)) < least:  # one row is enough to rule most out
            continue
        if np.bincount(numbers * k + pattern.indices % k, minlength=1).max() == 1:
            return k
    return None


def _lattice(pattern: csr_array, least: int) -> np.ndarray | None:
    """Groups Σ a_i x_i mod k of the points x of a grid, with the least k < 2 · ``least``; None without such.

    The strides of the grid are read off the pattern: distances of a column from its row that are frequent.
    """
    rows, count = pattern.shape
    if rows != count:
        return None
    numbers = np.repeat(np.arange(rows), np.diff(pattern.indptr))
    distances, often = np.unique(pattern.indices - numbers, return_counts=True)
    axes = _coordinates(distances[(distances > 0) & (often > FREQUENT * rows)], count)
    if not 1 < len(axes) <= MOST_AXES:
        return None
    longest = int(np.diff(pattern.indptr).argmax())
    one = pattern.indices[pattern.indptr[longest] : pattern.indptr[longest + 1]]
    tried = 0
    places = np.stack(axes)
    for k in range(least, 2 * least):
        for factors in itertools.product(range(k), repeat=len(axes) - 1):
            weights = np.array([1, *factors])
            if len(np.unique(weights @ places[:, one] % k)) < least:
                continue  # one row is enough to rule most out
            tried += 1
            if tried > TRIED:
                return None
            groups: np.ndarray = weights @ places % k
            if np.bincount(numbers * k + groups[pattern.indices], minlength=1).max() == 1:
                return groups
    return None


def _coordinates(distances: np.ndarray, count: int) -> list[np.ndarray]:
    """The places of numbers 0 … count − 1 along the axes of a grid, by the distances of neighbours."""
    strides: list[int] = []
    for distance in distances.tolist():
        if not strides or distance > REACH * strides[-1]:
            strides.append(distance)
    ends = [*strides[1:], count]
    if not strides or any(end % stride for stride, end in zip(strides, ends, strict=True)):
        return []
    number = np.arange(count)
    return [number // stride % (end // stride) for stride, end in zip(strides, ends, strict=True)]
