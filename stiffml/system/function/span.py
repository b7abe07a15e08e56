"""The times at which a function may be evaluated, and its values beyond them by extrapolation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SHARPNESS = 16
"""The exponent p by which long distances from the span are shortened: d / (1 + (q d/length)ᵖ)^(1/p)."""

FRACTIONS = (0.3719, 0.7321)
"""Times at which functions of time are tried, as fractions of the span."""


class Expanded(NamedTuple):
    """f at times s beyond the span by f within it: f(sₖ) = Σ weightsₚ f(timesₚ) over all p with rowsₚ = k.

    ``rows`` (P,) int, ``times`` (P,), ``weights`` (P,).
    """

    rows: Tensor
    times: Tensor
    weights: Tensor


class Span:
    """The times from the first to the last of a solve. A function of time need not exist outside.

    A stage that rounding puts a little beyond an end is moved to the end. Stages of some methods lie beyond
    their step on purpose. Near an end e of the span f is then extrapolated in time, at the same state, from q
    + 1 times at the end and within the span, as far apart as the stage s is from the end:

        f(s, u) = Σ_{j=0…q} (−1)ʲ C(q + 1, j + 1) f(e − j (s − e), u),

    which is exact for polynomials in time of degree q, and goes over into f(s, u) smoothly as s approaches e.
    The farthest of these times must lie in the span. So of the distance d = |s − e| there remains
    d (1 + (q d/length)¹⁶)^(−1/16): nearly all where the span has room for q times as much, length/q where it
    is far too short.

    Parameters
    ----------
    begin, end : float
        In solver time. Default: unbounded.
    direction : int
        Of the function's own time: that is ``direction`` · s.
    dtype : torch.dtype
        In which the function is given its time.
    degree : int
        q; 0 for methods whose stages lie within their steps.

    Attributes
    ----------
    rounding : float
        How far beyond an end a time still counts as the end.
    """

    def __init__(
        self,
        begin: float = -math.inf,
        end: float = math.inf,
        direction: int = 1,
        dtype: torch.dtype = torch.float64,
        degree: int = 0,
    ) -> None:
        self.begin, self.end, self.degree = begin, end, degree
        largest = max(abs(begin), abs(end))
        self.rounding = 4 * np.spacing(largest) if math.isfinite(largest) else 0.0
        low, high = sorted((direction * begin, direction * end))
        self._low, self._high = _rounded_inwards(low, high, dtype)

    def trim(self, s: float) -> float:
        """The time, or the end of the span nearest to it unless f is extrapolated there."""
        if self.begin <= s <= self.end:
            return s
        nearest = min(max(s, self.begin), self.end)
        return s if self.degree and abs(s - nearest) > self.rounding else nearest

    def times_within(self, dtype: torch.dtype) -> list[float]:
        """Some times inside; none if the span is unbounded, or shorter than the dtype resolves well."""
        length = self.end - self.begin
        if not math.isfinite(length):
            return []
        if not length > 1e4 * torch.finfo(dtype).eps * max(abs(self.begin), abs(self.end)):
            return []
        return [self.begin + fraction * length for fraction in FRACTIONS]

    def own_time(self, t: float) -> float:
        """The function's own time, moved into the span as far as its dtype has rounded it out of it."""
        return min(max(t, self._low), self._high)

    def own_times(self, t: Tensor) -> Tensor:
        """The same for times in the function's dtype, with the derivative of the time given."""
        return t.detach().clamp(self._low, self._high) + (t - t.detach())

    def ends(self) -> Tensor:
        """(2,) begin and end, which f at times beyond them depends on."""
        return torch.tensor([self.begin, self.end], dtype=torch.float64)

    def expanded(self, s: Tensor, ends: Tensor | None = None) -> Expanded | None:
        """Values at times s (K,) in terms of values within the span; None if all times are within.

        The result is differentiable with respect to ``s`` and ``ends``.
        """
        values = s.detach().numpy()
        before, after = values < self.begin, values > self.end
        beyond = before | after
        if not beyond.any():
            return None
        far = beyond & (np.abs(values - np.clip(values, self.begin, self.end)) > self.rounding)
        counts = np.where(far, self.degree + 1, 1)
        rows = np.repeat(np.arange(len(values)), counts)
        j = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs = zip(j.tolist(), counts[rows].tolist(), strict=True)
        weights = torch.tensor([(-1) ** i * math.comb(n, i + 1) for i, n in pairs], dtype=torch.float64)
        which, is_far = torch.from_numpy(rows), torch.from_numpy(far[rows])
        begin, end = self.ends() if ends is None else ends
        nearest = torch.where(torch.from_numpy(after[rows]), end, begin)
        distance = s[which] - nearest
        reached = 1 + (self.degree * distance / (end - begin)) ** SHARPNESS
        inwards = torch.from_numpy(j.astype(float)) * distance * reached ** (-1 / SHARPNESS)
        times = torch.where(is_far, nearest - inwards, s[which])
        return Expanded(which, times.detach().clamp(self.begin, self.end) + (times - times.detach()), weights)


def _rounded_inwards(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest number of a dtype from ``low`` to ``high``; if there is none, the nearest."""
    if dtype == torch.float64:
        return low, high
    ends = torch.tensor([low, high], dtype=dtype)
    inwards = torch.nextafter(ends, ends.flip(0))
    first = float(ends[0] if float(ends[0]) >= low else inwards[0])
    last = float(ends[1] if float(ends[1]) <= high else inwards[1])
    return (first, last) if first <= last else (float(ends[0]), float(ends[0]))
