"""The times between which a function may be asked for, and its values beyond them by extrapolation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

EXACT = 1e-9
"""By how much, relative to it, the span may fall short of a multiple of a distance beyond its ends."""


FRACTIONS = (0.3719, 0.7321)
"""Of the span: times inside it, at which functions of time are tried."""


class Expanded(NamedTuple):
    """f at times s beyond the span by f within it: f(sₖ) = Σ weightsₚ f(timesₚ) over all p with rowsₚ = k.

    ``rows`` (P,) int, ``times`` (P,), ``weights`` (P,).
    """

    rows: Tensor
    times: Tensor
    weights: Tensor


class Span:
    """From the first to the last time of a solve: a function of time need not exist outside.

    Rounding may put a stage a little beyond an end, which is then taken in its place. Stages of some methods
    lie beyond their step on purpose. Near the ends of the span f is then extrapolated in time, at the same
    state: from q + 1 times at the end e and within, as far apart as the stage s is from the end,

        f(s, u) = Σ_{j=0…q} (−1)ʲ C(q + 1, j + 1) f(e − j (s − e), u),

    which is exact for polynomials in time of degree q. Where the span is shorter than q times that distance,
    q is as large as it allows; 0 means f at the end.

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
        self._rounding = 4 * np.spacing(largest) if math.isfinite(largest) else 0.0
        low, high = sorted((direction * begin, direction * end))
        self._low, self._high = _rounded_inwards(low, high, dtype)

    def trim(self, s: float) -> float:
        """A time, or the end of the span that it lies beyond, unless f is to be extrapolated to it."""
        if self.begin <= s <= self.end:
            return s
        nearest = min(max(s, self.begin), self.end)
        return s if self.degree and abs(s - nearest) > self._rounding else nearest

    def times_within(self, dtype: torch.dtype) -> list[float]:
        """Some times inside; none where the span is unbounded, or shorter than a dtype resolves well."""
        length = self.end - self.begin
        if not math.isfinite(length):
            return []
        if not length > 1e4 * torch.finfo(dtype).eps * max(abs(self.begin), abs(self.end)):
            return []
        return [self.begin + fraction * length for fraction in FRACTIONS]

    def own_time(self, t: float) -> float:
        """A time of the function's own as its dtype can hold it without leaving the span."""
        return min(max(t, self._low), self._high)

    def own_times(self, t: Tensor) -> Tensor:
        """The same for times in the function's dtype, with the derivative of the time given."""
        return t.detach().clamp(self._low, self._high) + (t - t.detach())

    def ends(self) -> Tensor:
        """(2,) begin and end, which f at times beyond them depends on."""
        return torch.tensor([self.begin, self.end], dtype=torch.float64)

    def expanded(self, s: Tensor, ends: Tensor | None = None) -> Expanded | None:
        """Times s (K,), some of them beyond the span, by times within; None if all of them are within.

        Differentiable functions of ``s`` and ``ends``.
        """
        values = s.detach().numpy()
        before, after = values < self.begin, values > self.end
        beyond = before | after
        if not beyond.any():
            return None
        distances = np.where(before, self.begin - values, values - self.end)
        room = np.full(len(values), float(self.degree))
        far = distances > self._rounding
        room[far] = np.minimum(room[far], (self.end - self.begin) / distances[far] * (1 + EXACT))
        room[~far] = 0
        counts = room.astype(int) + 1
        rows = np.repeat(np.arange(len(values)), counts)
        j = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        weights = [
            (-1) ** i * math.comb(n, i + 1) for i, n in zip(j.tolist(), counts[rows].tolist(), strict=True)
        ]
        which = torch.from_numpy(rows)
        ends = self.ends() if ends is None else ends
        end = torch.where(torch.from_numpy(after[rows]), ends[1], ends[0])
        inside = torch.where(
            torch.from_numpy(beyond[rows]),
            end - torch.from_numpy(j.astype(float)) * (s[which] - end),
            s[which],
        )
        within = inside.detach().clamp(self.begin, self.end) + (inside - inside.detach())
        return Expanded(which, within, torch.tensor(weights, dtype=torch.float64))


def _rounded_inwards(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest number of a dtype from ``low`` to ``high``; if there is none, the nearest."""
    if dtype == torch.float64:
        return low, high
    ends = torch.tensor([low, high], dtype=dtype)
    inwards = torch.nextafter(ends, ends.flip(0))
    first = float(ends[0] if float(ends[0]) >= low else inwards[0])
    last = float(ends[1] if float(ends[1]) <= high else inwards[1])
    return (first, last) if first <= last else (float(ends[0]), float(ends[0]))
