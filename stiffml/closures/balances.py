"""What known physics leaves of the change between observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.training.data import Run, Runs

_ROUNDING = 1e-12
"""Of observations, relative: what rounding sums up to in a solve looks like a rate over short intervals."""


@dataclass(frozen=True)
class Balances:
    """Of one run: times (m,), values, known rates, and variances of both, each (m, n)."""

    times: np.ndarray
    values: np.ndarray
    rates: np.ndarray
    noise: np.ndarray
    rate_noise: np.ndarray

    @classmethod
    def of(cls, known: Callable[[Tensor, Tensor], Tensor], run: Run, runs: Runs) -> Balances:
        if run.forcing is not None:
            raise ValueError(f"runs: run {run.name} has forcing, which known(t, y) does not see")
        values = run.observations
        for c, name in enumerate(runs.components):
            seen = ~np.isnan(values[:, c])
            if seen.sum() < 2:
                raise ValueError(
                    f"runs: run {run.name} has {int(seen.sum())} observations of {name}; what is missing "
                    "can be found only where all components are observed"
                )
            values[:, c] = np.interp(run.times, run.times[seen], values[seen, c])
        t, y = torch.from_numpy(run.times.copy()), torch.from_numpy(values)
        with torch.no_grad():
            rates = torch.as_tensor(known(t, y))
        if rates.shape != y.shape:
            raise ValueError(f"known must return the shape of y, {tuple(y.shape)}, not {tuple(rates.shape)}")
        variance = np.nan_to_num(runs.noise) ** 2 * np.ones_like(values)
        if variance.any():
            slopes = torch.func.vmap(torch.func.jacrev(known, argnums=1))(t, y).detach().numpy()
            rate_variance = (slopes**2 * variance[:, None, :]).sum(axis=-1)
        else:
            rate_variance = np.zeros_like(values)
        return cls(run.times, values, rates.numpy(), variance, rate_variance)

    def joined(self, stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Missing rates over so many intervals together, and their errors, each (…, n)."""
        stride = min(stride, len(self.times) - 1)
        steps = np.diff(self.times)[:, None]
        first = np.arange(0, len(self.times) - stride, stride)
        span = (self.times[first + stride] - self.times[first])[:, None]

        def summed(intervals: np.ndarray, less: int = 0) -> np.ndarray:
            total = np.concatenate([np.zeros((1, intervals.shape[1])), np.cumsum(intervals, axis=0)])
            return (total[first + stride - less] - total[first]) / span

        known = summed(steps * (self.rates[1:] + self.rates[:-1]) / 2)
        change = np.diff(self.rates, axis=0) ** 2 - 4 * (self.rate_noise[1:] + self.rate_noise[:-1])
        rule = summed(steps * np.sqrt(np.maximum(change, 0)) / 2)
        rounding = np.square(
            _ROUNDING * np.maximum(np.abs(self.values[first]), np.abs(self.values[first + stride]))
        )
        noise = (self.noise[first + stride] + self.noise[first] + rounding) / span**2
        # Of the trapezoidal rule: a time between two intervals has half of both, those at the ends of one.
        inner = np.zeros_like(self.rate_noise)
        inner[:-2] = ((steps[1:] + steps[:-1]) / 2) ** 2 * self.rate_noise[1:-1]
        last = first + stride
        ends = (steps[first] / 2) ** 2 * self.rate_noise[first]
        ends += (steps[last - 1] / 2) ** 2 * self.rate_noise[last]
        through = (summed(inner[:-1], less=1) + ends / span) / span
        d = (self.values[first + stride] - self.values[first]) / span - known
        return d, np.sqrt(rule**2 + noise + through)
