"""Components that must change with those in which something is missing, for sums to be conserved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.linalg import null_space

from stiffml.closures.missing import MissingRate

STILL = 1e-9
"""Part of a component in directions of length 1 that conserve, below which it cannot change."""

ACCURACY = 0.05
"""Of the largest rate in an interval: errors of the rule reach that, whatever they are estimated to be."""

MOST = 3
"""Partners that are looked for in the balances."""


def moves(rows: np.ndarray, at: Sequence[int]) -> np.ndarray:
    """(len(at),) whether each can change if these alone do, with the sums ``rows`` (m, n) conserved."""
    free = null_space(rows[:, list(at)])
    return np.abs(free).max(axis=1, initial=0.0) > STILL


def hidden_partners(
    found: MissingRate, at: Sequence[int], rows: np.ndarray, content: np.ndarray
) -> list[int]:
    """What errors could hide, of all that shares a sum with a component that cannot change without."""
    scale, limit = content * found.scale.numpy(), content * found.limit.numpy()
    added: list[int] = []
    for i, free in zip(at, moves(rows, at), strict=True):
        if free:
            continue
        for j in range(len(scale)):
            together = (rows[:, i] != 0) & (rows[:, j] != 0)
            if j not in (*at, *added) and together.any() and limit[j] >= scale[i]:
                added.append(j)
    return added


class Balance:
    """How well rates of some components alone, which conserve the sums, explain what data lack.

    In each interval rates x of the chosen components, with R x = 0, are as near as may be to those that data
    lack, d (intervals, n) with errors e, and others are 0. What is left is taken by Cauchy's robust loss;
    each component adds the logarithm of the number of intervals.
    """

    def __init__(self, d: np.ndarray, e: np.ndarray, rows: np.ndarray, content: np.ndarray) -> None:
        d, e = d * content, e * content
        self._d, self._rows, self._content = d, rows / np.where(content > 0, content, np.inf), content
        largest = np.abs(d).max(axis=1, keepdims=True, initial=np.finfo(float).tiny)
        self._variance = e**2 + (ACCURACY * largest) ** 2
        self._alone = np.where(content > 0, d**2 / self._variance, 0.0)

    def score(self, chosen: Sequence[int]) -> float:
        """The less, the likelier."""
        at = list(chosen)
        rows, d, variance = self._rows[:, at], self._d[:, at], self._variance[:, at]
        weight = np.einsum("ai,ki,bi->kab", rows, variance, rows)
        left = d @ rows.T
        held = np.einsum("ka,kab,kb->k", left, np.linalg.pinv(weight, hermitian=True), left)
        rest = self._alone.sum(axis=1) - self._alone[:, at].sum(axis=1)
        return float(np.log1p(held + rest).sum() + len(at) * np.log(len(d)))

    def needed(self, at: Sequence[int]) -> list[int]:
        """Those without the ones whose change the others explain as well."""
        left = list(at)
        while len(left) > 1:
            now = self.score(left)
            without = [[i for i in left if i != j] for j in left]
            best = min(without, key=self.score)
            if self.score(best) >= now:
                break
            left = best
        return left

    def partners(self, at: Sequence[int]) -> list[int]:
        """The likeliest others with which all can change, at most three; none if no three would do."""
        involved = (self._content > 0) & self._rows.any(axis=0)
        others = [j for j in np.flatnonzero(involved).tolist() if j not in at]
        best: tuple[float, list[int]] = np.inf, []
        for size in range(1, MOST + 1):
            for added in itertools.combinations(others, size):
                if moves(self._rows, [*at, *added]).all():
                    best = min(best, (self.score([*at, *added]), list(added)))
        return best[1]
