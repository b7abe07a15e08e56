"""Where the Jacobian of a function may have entries, found by trying the function.

NaN passes through arithmetic, even a product with zero: the rows of f that become NaN where a block of
components is NaN are those that depend on the block. All components are the first block, and blocks are split
in halves down to single components. Which rows depend on a block is known when its halves are tried: blocks
without a row in common are tried in one evaluation, and a row that answers is put down to the one of them
that it depends on. For stencils that is a few evaluations a level, and there are log₂ n levels (J. Gillis &
M. Diehl, Hierarchical seeding for efficient sparsity pattern recovery in automatic differentiation, SIAM
Workshop on Combinatorial Scientific Computing, 2014, who pass bits through an expression graph).

NaN does not pass comparisons, nor should it: ``torch.where(c > 0, a, b)`` has no derivative with respect to
``c``. But a branch that is not taken hides what it depends on. So the pattern is held against what f does at
other states, and with small changes in place of NaN. If more rows answer than it explains, all blocks are
tried in all these ways, and what many rows of a grid show is taken to hold for all of them.

What can still be missed is what shows at none of the states tried, or only at other times; with a small
chance, a few entries that show at the other states only; and what NaN does not reach, say behind
``torch.nan_to_num``, while a small change is lost in rounding. Comparing a product of the Jacobian and a
random vector with one that automatic differentiation yields tells whether an entry is missing at that state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array, csr_array

from stiffml.system.derivatives.colouring import colour_columns, regroup

Evaluate = Callable[[np.ndarray], np.ndarray]

NUDGE = 1e-6
"""Small changes, relative to the component: they show in single precision, and hardly tip comparisons."""

COMMON = 0.1
"""Fraction of the rows that makes an offset of their entries one of all rows, if f has branches."""

SAMPLES = 8
"""Components that are tried one by one at first: a dense Jacobian shows in them."""

PAIRS = 2
"""Pairs of other states at which f is tried."""

MOST_EVALUATIONS = 10_000
"""After these a search is given up, for each way of changing components."""

MOST_GROUPS = 1000
"""However large the state, a Jacobian in more evaluations is no gain."""

SPREAD = 2
"""Evaluations that hold a pattern against what f does, for each entry of its longest row and one more."""

MOST_TRIALS = 128
"""And how many there are at most."""


def detect_sparsity(evaluate: Evaluate, u: np.ndarray, densest: float = 0.125) -> csr_array | None:
    """Where ∂f/∂u may have entries, at ``u`` and elsewhere; None where that is no gain or cannot be told.

    Parameters
    ----------
    evaluate : callable
        f, from a float64 state (n,) to (n,).
    u : ndarray
        (n,) the state around which to look.
    densest : float
        What is a gain: at most n · ``densest`` groups of columns without a row in common, and at most
        ``MOST_GROUPS``, since the Jacobian takes one evaluation a group.

    Returns
    -------
    csr_array or None
        (n, n) bool with sorted indices. None if there are more groups, or if the rows that single components
        change are as many; if a search takes more than 3 n or ``MOST_EVALUATIONS``, for each way of changing
        components; if f is NaN at ``u`` or raises an exception for NaN; and if a pattern found in all ways
        does not explain what f does.
    """
    u = np.array(u, dtype=np.float64)
    plain = _Way(evaluate, u, np.array(evaluate(u.copy())), None)
    if np.isnan(plain.value).any():
        return None
    try:
        return _detect(plain, min(densest * u.size, MOST_GROUPS))
    except _Undetectable:
        return None


class _Undetectable(Exception):
    """The pattern cannot be told, or is of no use."""


@dataclass(frozen=True)
class _Way:
    """A way of changing components: from those of ``state``, where f is ``value``, to ``other``.

    ``other`` is None for NaN; ``value`` has no NaN.
    """

    evaluate: Evaluate
    state: np.ndarray
    value: np.ndarray
    other: np.ndarray | None

    def answers(self, chosen: np.ndarray) -> np.ndarray:
        """(n,) bool: the rows of f that change with the components ``chosen`` (n,) bool."""
        changed = _evaluated(
            self.evaluate, np.where(chosen, np.nan if self.other is None else self.other, self.state)
        )
        # Where NaN leads to another number, it was only compared.
        return np.isnan(changed) if self.other is None else changed != self.value


def _evaluated(evaluate: Evaluate, u: np.ndarray) -> np.ndarray:
    """f, where an exception means no more than that this state is not for f."""
    try:
        with np.errstate(all="ignore"):
            return evaluate(u)
    except Exception as error:  # the user's function may raise anything
        raise _Undetectable from error


def _detect(plain: _Way, allowed: float) -> csr_array:
    if _is_dense(plain, allowed):
        raise _Undetectable
    pattern = _search([plain], allowed)
    ways = list(_ways(plain))
    random = np.random.default_rng(0)
    if not all(_explains(pattern, way, random) for way in ways):
        pattern = _completed(_search(ways, allowed))
        if colour_columns(pattern).max() >= allowed:
            raise _Undetectable
        if not all(_explains(pattern, way, random) for way in ways):
            raise _Undetectable
    return pattern


def _is_dense(way: _Way, allowed: float) -> bool:
    """Whether components change more rows than allowed, all of a few. A search would take much longer."""
    numbers = np.arange(way.state.size)
    few = np.linspace(0, numbers[-1], min(SAMPLES, len(numbers))).astype(int)
    return all(way.answers(numbers == number).sum() > allowed for number in few)


def _ways(plain: _Way) -> Iterator[_Way]:
    """All ways: NaN and a nudge, at ``u`` and far away from it to both sides, twice, if f is defined there.

    Each component lies between its values at two such states, and far from those of others, so that
    comparisons with numbers and among components come out either way. Where f is not defined that far away,
    having a logarithm in it, components grow and shrink but keep their signs.
    """
    u = plain.state
    random = np.random.default_rng(0)
    yield from (plain, _nudge(plain))
    for _ in range(PAIRS):
        reach, side = 10 ** random.uniform(1, 3, u.size), random.choice([-1.0, 1.0], u.size)
        step = reach * (1 + np.abs(u))
        grown, shrunk = u + np.copysign(step, u), u / reach
        across = (u + side * step, u - side * step)
        within = (np.where(side > 0, grown, shrunk), np.where(side > 0, shrunk, grown))
        for pair in (across, within):
            ways = [_way_from(plain.evaluate, state) for state in pair]
            if None not in ways:
                yield from (each for way in ways if way is not None for each in (way, _nudge(way)))
                break


def _way_from(evaluate: Evaluate, state: np.ndarray) -> _Way | None:
    """NaN at another state, if f is defined there."""
    try:
        value = np.array(_evaluated(evaluate, state.copy()))
    except _Undetectable:
        return None
    return None if np.isnan(value).any() else _Way(evaluate, state, value, None)


def _nudge(way: _Way) -> _Way:
    size = np.abs(way.state)
    size[size == 0] = size.max() or 1
    return _Way(way.evaluate, way.state, way.value, way.state + NUDGE * size)


def _explains(pattern: csr_array, way: _Way, random: np.random.Generator) -> bool:
    """Whether only those rows change that have an entry in the pattern, for any of some random components.

    A row that has an entry among them tells nothing of the others. In each way the components are others, so
    that hardly a row is silent in all.
    """
    n = way.state.size
    longest = int(np.diff(pattern.indptr).max())
    trials = min(n, MOST_TRIALS, SPREAD * (longest + 1))
    numbers = random.permutation(n) % trials
    for number in range(trials):
        chosen = numbers == number
        if (way.answers(chosen) & ~(pattern @ chosen)).any():
            return False
    return True


def _completed(pattern: csr_array) -> csr_array:
    """With the offsets from the diagonal that many rows have in all rows, round the end to the beginning.

    On a grid, rows are alike but for the branches that they take at the states tried: with a limiter, each
    row may take three, and few states bring out all three everywhere. Entries too many do no harm.
    """
    n = pattern.shape[0]
    entries = pattern.tocoo()
    common = np.flatnonzero(np.bincount((entries.col - entries.row) % n, minlength=n) >= COMMON * n)
    rows = np.tile(np.arange(n), len(common))
    columns = (rows + np.repeat(common, n)) % n
    places = (np.concatenate([entries.row, rows]), np.concatenate([entries.col, columns]))
    completed = csr_array((np.ones(len(places[0]), dtype=bool), places), shape=(n, n))
    completed.sum_duplicates()
    return completed


def _search(ways: list[_Way], allowed: float) -> csr_array:
    """The pattern found by changing blocks in any of the ways."""
    n = ways[0].state.size
    # Blocks of ``size`` components that rows depend on, their groups, and (n, blocks) which rows those are.
    size = 1 << (n - 1).bit_length()
    blocks: np.ndarray = np.zeros(1, dtype=np.int64)
    groups: np.ndarray = np.zeros(1, dtype=np.int64)
    touched = csc_array(_any_answers(ways, np.ones(n, dtype=bool))[:, None])
    evaluations = 0
    while size > 1 and touched.nnz:
        evaluations += 2 * (int(groups.max()) + 1)
        if evaluations > min(3 * n, MOST_EVALUATIONS):
            raise _Undetectable
        size //= 2
        halves = _halves(ways, touched, blocks, groups, size)
        numbers = (2 * blocks[:, None] + [0, 1]).reshape(-1)
        # A row can answer for a half that lies behind the end only if f is not the same twice.
        kept = np.flatnonzero((np.diff(halves.indptr) > 0) & (numbers * size < n))
        blocks, groups, touched = numbers[kept], 2 * groups[kept // 2] + kept % 2, halves[:, kept]
        if np.bincount(touched.indices, minlength=1).max() > allowed:
            raise _Undetectable
        # Halves on the same side of blocks of one group have no row in common either.
        groups = regroup(touched, groups)
    if not touched.nnz:
        return csr_array((n, n), dtype=bool)
    if groups.max() >= allowed:
        raise _Undetectable
    counts = np.zeros(n + 1, dtype=np.int64)
    counts[blocks + 1] = np.diff(touched.indptr)
    return csc_array((touched.data, touched.indices, counts.cumsum()), shape=(n, n)).tocsr()


def _halves(
    ways: list[_Way], touched: csc_array, blocks: np.ndarray, groups: np.ndarray, size: int
) -> csc_array:
    """(n, 2 · blocks) bool: which rows depend on the first and second halves, of ``size`` components each."""
    n = touched.shape[0]
    rows, halves = [], []
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        part = touched[:, members]
        owner = np.full(n, -1)
        owner[part.indices] = np.repeat(members, np.diff(part.indptr))
        for side in (0, 1):
            chosen = np.zeros((n - 1) // size + 2, dtype=bool)
            chosen[2 * blocks[members] + side] = True
            answering = np.flatnonzero(_any_answers(ways, np.repeat(chosen, size)[:n]) & (owner >= 0))
            rows.append(answering)
            halves.append(2 * owner[answering] + side)
    places = (np.concatenate(rows), np.concatenate(halves))
    return csc_array((np.ones(len(places[0]), dtype=bool), places), shape=(n, 2 * len(blocks)))


def _any_answers(ways: list[_Way], chosen: np.ndarray) -> np.ndarray:
    return np.logical_or.reduce([way.answers(chosen) for way in ways])
