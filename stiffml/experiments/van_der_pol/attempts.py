"""Ways to train a model of a stiff oscillator, and how each of them ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import stiffml
from stiffml.diagnostics import stiffness
from stiffml.experiments.van_der_pol.models import (
    Data,
    LogTime,
    Network,
    Polynomial,
    TimeMap,
    along_the_curve,
    in_log_time,
)
from stiffml.training import FullSpace, MultipleShooting, Runs, TrainingError, Whole, fit

FIRST = 1e-3
"""Slow time from which logarithmic time is logarithmic."""

REACHED = 1e-2
"""Mean error at unseen times, in half ranges, up to which an attempt has succeeded."""


@dataclass(frozen=True)
class Attempt:
    """A model, and how it is fitted.

    Parameters
    ----------
    name : str
    how : dict
        Arguments of ``fit``.
    model : callable
        Makes it; its dynamics are in the time of ``runs``.
    runs : callable
        From observations in time to what is fitted to.
    """

    name: str
    how: dict[str, Any]
    model: Callable[[], nn.Module] = Polynomial
    runs: Callable[[Runs], Runs] = field(default=lambda runs: runs)


def log_time() -> nn.Module:
    return LogTime(Polynomial(), FIRST)


ADAM: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 5e-2, "iterations": 100_000}
LM: dict[str, Any] = {"target": 1e-5}
ADAPTIVE: dict[str, Any] = {"steps": stiffml.Adaptive(max_steps=20_000), "rtol": 1e-4, "atol": 1e-6}
FINE: dict[str, Any] = {"method": "sdirk3", "steps": stiffml.Grid(8)}
COARSE: dict[str, Any] = {"method": "sdirk3", "steps": stiffml.Grid(1)}
LADDER, WHOLE = {"strategy": MultipleShooting()}, {"strategy": Whole()}
CURVE: dict[str, Any] = {"method": "rk4", "steps": stiffml.Grid(1)}

ATTEMPTS = (
    Attempt("explicit adaptive, AdamW", {"method": "dopri5", **ADAPTIVE, **ADAM}),
    Attempt("implicit adaptive, AdamW", {"method": "bdf", **ADAPTIVE, **ADAM}),
    Attempt("implicit fixed, AdamW", {**FINE, **ADAM}),
    Attempt("implicit fixed, AdamW, ladder", {**FINE, **ADAM, "iterations": None, **LADDER}),
    Attempt("implicit adaptive, LM", {"method": "bdf", **ADAPTIVE, **LM, **WHOLE}),
    Attempt("implicit fixed, LM", {**FINE, **LM, **WHOLE}),
    Attempt("one implicit step each, LM, ladder", {**COARSE, **LM, **LADDER}),
    Attempt("implicit fixed, LM, ladder", {**FINE, **LM, **LADDER}),
    Attempt("implicit fixed, LM, states too", {**FINE, **LM, "strategy": FullSpace()}),
    Attempt(
        "log time, LM, ladder", {**FINE, **LM, **LADDER}, log_time, lambda runs: in_log_time(runs, FIRST)
    ),
    Attempt("time map, explicit, AdamW", {**CURVE, **ADAM}, TimeMap, along_the_curve),
    Attempt("time map, explicit, LM, ladder", {**CURVE, **LM, **LADDER}, TimeMap, along_the_curve),
    Attempt("network, implicit fixed, LM, ladder", {**FINE, **LM, **LADDER}, Network),
)


@dataclass(frozen=True)
class Ended:
    """How an attempt ended; errors in half ranges, infinite where there is no solution to the end.

    ``states``: (unseen times, 2), NaN after the end of the solution. ``fastest``: decay along it, in 1/time.
    """

    outcome: str
    error: float
    unseen: float
    iterations: int
    seconds: float
    fastest: float
    states: np.ndarray


def attempt(one: Attempt, data: Data, seconds: float) -> Ended:
    """Fit for so many seconds of CPU at most, then solve the model with adaptive steps."""
    torch.manual_seed(0)
    model, runs = one.model(), one.runs(data.seen)
    began, count = time.process_time(), 0

    def watch(progress: Any) -> None:
        nonlocal count
        count = len(progress.rows)
        if time.process_time() - began > seconds:
            raise _TimeOver

    error = np.nan
    try:
        result = fit(model, runs, scale=1.0, report=watch, **one.how)
        outcome, error, model = result.outcome, result.error, result.model
    except _TimeOver:
        outcome = "the time was over"
    except (TrainingError, stiffml.SolveError) as failure:
        outcome = "lost: " + " ".join(str(failure).split()).partition(" Try:")[0]
    spent = time.process_time() - began
    states, fastest = judged(model, data)
    there = np.isfinite(states).all()
    unseen = float(np.abs(states - data.unseen[0].values)[1:].mean()) if there else np.inf
    return Ended(outcome, error, unseen, count, spent, fastest, states)


class _TimeOver(Exception):
    """Of an attempt."""


def judged(model: nn.Module, data: Data) -> tuple[np.ndarray, float]:
    """The model's states at the unseen times, by adaptive steps, and its fastest decay along them."""
    (run,) = data.unseen
    if isinstance(model, TimeMap):
        return along_its_own_curve(model, data), float("nan")
    func = model.func if isinstance(model, LogTime) else model
    times, states = torch.from_numpy(run.times.copy()), np.full(run.values.shape, np.nan)
    start = torch.from_numpy(run.values[0].copy())
    try:
        steps = stiffml.Adaptive(max_steps=5000)
        found = stiffml.solve(func, start, times, rtol=1e-6, steps=steps, throw=False)
    except ArithmeticError:
        return states, float("nan")
    assert isinstance(found.y, Tensor)
    states[: len(found.y)] = found.y.detach().numpy()
    if len(found.y) < 2:
        return states, float("nan")
    return states, max(-float(stiffness(found, points=40)["re"].min()), 0.0)


def along_its_own_curve(model: TimeMap, data: Data) -> np.ndarray:
    (run,) = data.unseen
    (curve,) = along_the_curve(data.seen)
    lengths = torch.linspace(0, 1.2 * float(curve.times[-1]), 4000, dtype=torch.float64)
    start = torch.from_numpy(curve.values[0].copy())
    with torch.no_grad():
        found = stiffml.solve(model, start, lengths, method="dopri5", rtol=1e-6, throw=False).y
    assert isinstance(found, Tensor)
    x, v, t = found.numpy().T
    states = [np.interp(run.times, t, one, right=np.nan) for one in (x, v)]
    return np.stack(states, axis=1)
