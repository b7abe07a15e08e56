"""How large what is missing is, from data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from stiffml.checks import described
from stiffml.closures.balances import Balances
from stiffml.display import Table, printed
from stiffml.training.data import Runs

_SURE = 3.0
"""Rates count as found from this many times the least that errors let be seen."""

_SURE_OF_PARTS = 10.0
"""The same in parts of runs, of which there are many."""

_LEAST, _PARTS = 8, 32
"""Intervals of a part of a run at least, and parts of a run at most."""


@printed
@dataclass(frozen=True, eq=False)
class MissingRate:
    """The magnitude of dy/dt − known(t, y).

    Attributes
    ----------
    components : tuple of str
    scale : Tensor
        (n,) root mean square over times and runs, what errors explain left out; 0 where they explain all.
    limit : Tensor
        (n,) below which it could not have been seen.

    Examples
    --------
    >>> from stiffml.closures import missing_rate
    >>> found = missing_rate(lambda t, y: 0 * y, runs)  # all of −3 A is missing
    >>> found.where, found.scale.shape
    (('A',), torch.Size([1]))
    """

    components: tuple[str, ...]
    scale: Tensor
    limit: Tensor

    @property
    def where(self) -> tuple[str, ...]:
        """Components in which something is missing: ``scale`` is at least three times ``limit``."""
        return tuple(
            c for c, s, e in zip(self.components, self.scale, self.limit, strict=True) if s > _SURE * e
        )

    def _table(self) -> Table:
        found = zip(self.components, self.scale.tolist(), self.limit.tolist(), strict=True)
        rows = [(c, f"{s:.2e}", f"{e:.2e}", "*" if c in self.where else "") for c, s, e in found]
        return ("component", "missing", "limit", ""), rows

    def __str__(self) -> str:
        wide = max(map(len, self.components))
        rows = [
            f"{c:<{wide}}  {s:9.2e}  {e:9.2e}{'  *' if c in self.where else ''}"
            for c, s, e in zip(self.components, self.scale.tolist(), self.limit.tolist(), strict=True)
        ]
        return "\n".join([f"{'':<{wide}}  {'missing':>9}  {'limit':>9}", *rows])


def missing_rate(known: Callable[[Tensor, Tensor], Tensor], runs: Runs) -> MissingRate:
    """The scale of what ``known`` lacks of dy/dt, for each component, before anything is fitted.

    Between two times what is missing is (y₂ − y₁)/(t₂ − t₁) less the mean of known(t, y) at both, by the
    trapezoidal rule. The error of that rule is taken to be a half of the difference of these two, as far as
    noise does not explain it, and that of observations is known where ``runs.noise`` is, also what
    it makes of known(t, y) by ∂known/∂y. Of differences d_k with errors e_k the scale is the s for which d_k
    ~ N(0, s² + e_k²) is most likely: intervals that resolve nothing, such as those of a transient, hardly
    count. Under noise a component for which single intervals show nothing is looked at over 2, 4, 8, … of
    them together, and the whole run.

    Fast components, whose sources and losses balance long before the next observation, do not show what is
    missing in their own derivative, but in this balance: −known(t, y) of what was observed is then the
    source. It may be thousands of times range/t_end, and a closure scaled by that could not reach it.

    What is missing only in a part of a run, such as an ignition, is hidden among intervals in which much less
    would show. So where whole runs show nothing, halves, quarters, … of each run are looked at, of 8
    intervals at least. Those parts count in which one component is ten times its limit; the scale of each is
    that of the part in which it is largest.

    Limits: a component that changes much within single intervals may be named where nothing is missing, since
    the rule's error is only estimated. All components must be observed, and as accurately as the balance
    needs: where known has ∂known_i/∂y_j, an error of y_j adds that times the error.
    A transient shorter than the first interval is not seen. Runs with forcing are refused, since ``known``
    does not see it.

    Parameters
    ----------
    known : callable
        known(t, y) -> dy/dt of states (n,) and (batch, n), t as one number or (batch,).
    runs : Runs
        Where a component is missing at some times, it is interpolated linearly.

    Raises
    ------
    TypeError, ValueError
        For what are no runs, a component that a run has fewer than 2 observations of, or values of ``known``
        in another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from stiffml.closures import missing_rate
    >>> from stiffml.training.data import Run, Runs
    >>> t = np.linspace(0, 1, 20)
    >>> runs = Runs([Run("a", t, np.stack([np.exp(-3 * t), 0 * t], axis=1))], ["A", "B"])
    >>> found = missing_rate(lambda t, y: -y, runs)  # of A' = −3 A the part −2 A is missing
    >>> found.where, bool(abs(found.scale[0] - 0.8) < 0.1)
    (('A',), True)
    """
    if not callable(known):
        raise TypeError(f"known must be callable as known(t, y), not {described(known)}")
    if not isinstance(runs, Runs):
        raise TypeError(f"runs must be Runs, not {described(runs)}")
    found = [Balances.of(known, run, runs) for run in runs]
    n = len(runs.components)
    scale, limit = np.zeros(n), np.zeros(n)
    longest = max(len(one.times) for one in found) - 1
    strides = [2**p for p in range(longest.bit_length()) if 2**p < longest] + [longest]
    by_stride = []
    for stride in strides:
        parts = [one.joined(stride) for one in found if len(one.times) > 1]
        by_stride.append(tuple(np.concatenate([part[i] for part in parts]) for i in (0, 1)))
    for c in range(n):
        for d, e in by_stride:
            scale[c], limit[c] = _likeliest(d[:, c], e[:, c])
            if scale[c] > _SURE * limit[c] or np.isnan(runs.noise[c]):
                break
    if (scale <= _SURE * limit).all():
        scale, limit = _in_parts(found) or (scale, limit)
    return MissingRate(runs.components, torch.from_numpy(scale), torch.from_numpy(limit))


def _in_parts(found: Sequence[Balances]) -> tuple[np.ndarray, np.ndarray] | None:
    """Scales and limits (n,) from parts of runs in which some component shows; None if none does."""
    seen = []  # (2, n), by part
    for d, e in _parts(found):
        here = np.array([_likeliest(*column) for column in zip(d.T, e.T, strict=True)]).T
        if (here[0] > _SURE_OF_PARTS * here[1]).any():
            seen.append(here)
    if not seen:
        return None
    scales, limits = np.stack(seen, axis=1)
    scales = np.where(scales > _SURE * limits, scales, 0.0)
    best = np.where(scales.any(axis=0), scales.argmax(axis=0), limits.argmax(axis=0))
    of = np.arange(len(best))
    return scales[best, of], limits[best, of]


def _parts(found: Sequence[Balances]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Differences and errors (m, n) in overlapping parts of each run."""
    for d, e in (one.joined(1) for one in found if len(one.times) > 1):
        length = len(d) // 2
        while length >= max(_LEAST, len(d) // _PARTS):
            for first in range(0, len(d) - length + 1, length // 2):
                yield d[first : first + length], e[first : first + length]
            length //= 2


def _likeliest(d: np.ndarray, e: np.ndarray) -> tuple[float, float]:
    """The s for which d ~ N(0, s² + e²) is most likely, and the least s that differs from 0."""
    rounding = 1e-12 * float(np.abs(d).max(initial=0.0)) + np.finfo(float).tiny ** 0.25
    e = np.maximum(e, rounding)
    unit = float(np.abs(d).max() + e.max())
    d, e = d / unit, e / unit

    def slope(log_s: float) -> float:
        total = np.exp(2 * log_s) + e**2
        return float(np.sum((d**2 - total) / total**2) * np.exp(2 * log_s))

    limit = unit * float(np.sum(e**-4.0) ** -0.25)  # from the curvature of the likelihood at 0
    low, high = np.log(max(1e-15, e.min() * 1e-3)), np.log(10.0)
    if slope(low) <= 0:
        return 0.0, limit
    return unit * float(np.exp(brentq(slope, low, high))), limit


def rate_scale(runs: Runs) -> Tensor:
    """(n,) range/t_end of observations, the scale of rates of S. Kim et al., Chaos 31 (2021) 093122.

    It is right for components that change over the whole run, and far too small for fast ones: see
    :func:`missing_rate`.

    Parameters
    ----------
    runs : Runs
        t_end is the longest of them.

    Raises
    ------
    ValueError
        For a component without observations, or whose observations are all the same.

    Examples
    --------
    >>> from stiffml.closures import rate_scale
    >>> rate_scale(runs)  # A goes from 1 to 0.002 in 2 units of time
    tensor([0.4994], dtype=torch.float64)
    """
    if not isinstance(runs, Runs):
        raise TypeError(f"runs must be Runs, not {described(runs)}")
    span = max(run.times[-1] - run.times[0] for run in runs)
    values = runs.values
    for name, column in zip(runs.components, values.T, strict=True):
        seen = column[~np.isnan(column)]
        if not seen.size or seen.min() == seen.max():
            raise ValueError(f"runs: {name} has no observations that differ, so that it has no range")
    return torch.from_numpy((np.nanmax(values, axis=0) - np.nanmin(values, axis=0)) / span)
