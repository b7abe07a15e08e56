"""POLLU without its reactions 9 and 14, C2O3 + NO and NO2 + OH, learned from runs of its 20 species."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import problems
from stiffml import Adaptive, SolveError, odeint
from stiffml.closures import Closure
from stiffml.training import Run, Runs, Whole, fit

POLLU = problems.load("pollu")
FUNC, LACKING = POLLU.func(), POLLU.make(k9=0.0, k14=0.0).func()
"""One of each, so that it is compiled once."""

TIMES = POLLU.times(20).numpy()

RTOL, ATOL, MOST = 1e-8, 1e-16, 5000
"""Of models solved again, atol in ppm, and their steps at most: far from the data some run away."""

EXACT = 1e-10
"""The rtol of POLLU itself."""


@dataclass(frozen=True)
class Learned:
    """A closure fitted to runs, and how near it was before: ``matched`` to the rates in the data.

    Attributes
    ----------
    closure : Closure
        Fitted.
    matched : ndarray
        (count, times, 20) its solutions before the fit.
    seconds : float
        Of CPU, of matching and fitting.
    """

    closure: Closure
    matched: np.ndarray
    seconds: float


def starts(count: int, seed: int, spread: float | None = None) -> np.ndarray:
    """(count, 20), POLLU's own times uniform factors 0.5 … 1.5, or factors of up to ``spread`` either way."""
    generator, shape = np.random.default_rng(seed), (count, len(POLLU.y0))
    if spread is None:
        return POLLU.y0 * generator.uniform(0.5, 1.5, shape)
    return POLLU.y0 * spread ** generator.uniform(-1, 1, shape)


def exact(y0: np.ndarray) -> np.ndarray:
    """(count, times, 20) of POLLU from starts (count, 20), to about 1e-9."""
    t, atol = torch.from_numpy(TIMES), EXACT * ATOL / RTOL
    with torch.no_grad():
        y = odeint(
            FUNC, torch.from_numpy(y0), t, batch_dims=1, method="bdf", rtol=EXACT, atol=atol, compile=True
        )
    assert isinstance(y, Tensor)
    return y.transpose(0, 1).numpy()


def ranges_of(y: np.ndarray) -> np.ndarray:
    """(20,) of solutions (count, times, 20)."""
    return np.ptp(y, axis=(0, 1))


def observed(y: np.ndarray, noise: float) -> Runs:
    """Runs of solutions (count, times, 20), with errors in ranges; initial states are known."""
    deviation = noise * ranges_of(y)
    errors = deviation * np.random.default_rng(0).standard_normal(y.shape)
    errors[:, 0] = 0
    found = [Run(f"{i}", TIMES, one, y0=one[0]) for i, one in enumerate(y + errors)]
    given = {"noise": deviation} if noise else {}
    return Runs(found, POLLU.components, units="ppm", time_units="min", initial="known", **given)


def learned(
    y: np.ndarray, hidden: Sequence[int], noise: float, iterations: int, unseen: np.ndarray
) -> Learned:
    """A closure from observations of solutions (count, times, 20), tried at ``unseen`` starts (count, 20).

    Without hidden layers its rates are powers of concentrations, as by mass action, whose orders are learned.
    """
    data = observed(y, noise)
    began = time.process_time()
    closure = Closure(LACKING, hidden, conserve=POLLU.invariants)
    suited = closure.prepare(data, compile=True)
    seconds = time.process_time() - began
    matched = solved(closure, unseen)
    began = time.process_time()
    fit(closure, data, **{**suited, "strategy": Whole(last=iterations, last_tolerance=1e-4), "compile": True})
    return Learned(closure, matched, seconds + time.process_time() - began)


def solved(model: nn.Module, y0: np.ndarray) -> np.ndarray:
    """(count, times, 20) from starts (count, 20), each by itself; inf where there is no solution."""
    found = np.full((len(y0), len(TIMES), y0.shape[1]), np.inf)
    steps = Adaptive(max_steps=MOST)
    for states, start in zip(found, torch.from_numpy(y0), strict=True):
        try:
            with torch.no_grad():
                y = odeint(
                    model,
                    start,
                    torch.from_numpy(TIMES),
                    method="bdf",
                    rtol=RTOL,
                    atol=ATOL,
                    steps=steps,
                    compile=True,
                )
        except SolveError:
            continue
        assert isinstance(y, Tensor)
        states[:] = y.numpy()
    return found


def drift(y: np.ndarray) -> float:
    """The largest change of a conserved sum along solutions (count, times, 20), relative to the sum."""
    sums = y @ np.stack([np.asarray(row) for row in POLLU.invariants.values()]).T
    return float((np.abs(sums - sums[:, :1]) / np.abs(sums[:, :1])).max())


def errors(found: np.ndarray, true: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """(20,) mean errors in ranges after the start, of solutions (count, times, 20)."""
    return (np.abs(found - true)[:, 1:] / ranges).mean(axis=(0, 1))
