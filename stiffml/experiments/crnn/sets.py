"""What is found in one set of observations: reactions, constants with intervals, errors at unseen runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from stiffml.closures import CRNN
from stiffml.experiments.crnn import robertson
from stiffml.experiments.crnn.cases import CASES, GAS_CONSTANT, Case, observed, solved, trajectories
from stiffml.experiments.crnn.discovery import fitted, matched, order_of, rounded
from stiffml.training import Result

EVERY = {**CASES, robertson.ROBERTSON.name: robertson.ROBERTSON}
UNSEEN, UNSEEN_SEED = 10, 1000


@dataclass(frozen=True)
class Size:
    """Of a form: cases, sets of observations, runs and times of each, random starts, steps of Adam, fits.

    ``robertson``: runs of Robertson's reactions, at that case's own times and with all its candidates.
    ``tried``: further sets, in which the reactions are known and only intervals are tried.
    """

    cases: tuple[str, ...] = tuple(EVERY)
    sets: int = 2
    runs: int = 20
    robertson: int = 25
    points: int | None = None
    starts: int = 48
    steps: int = 1500
    candidates: int = 6
    iterations: int = 60
    tried: int = 16

    def runs_of(self, case: Case) -> int:
        return self.robertson if case is robertson.ROBERTSON else self.runs

    def points_of(self, case: Case) -> int | None:
        return None if case is robertson.ROBERTSON else self.points


@dataclass(frozen=True)
class Found:
    """One set of observations: names of constants, true and found values and intervals (k,), errors (n,)."""

    exact: bool
    names: list[str]
    true: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rates: float
    unseen: float
    seconds: float
    states: np.ndarray


def discovered(case: Case, size: Size, number: int) -> Found:
    """What is found in set ``number``."""
    times, exact = solved(case, size.runs_of(case), number, size.points_of(case))
    began = time.process_time()
    if case is robertson.ROBERTSON:
        steps, result = robertson.discovered(case, times, exact, 100 + number, size.iterations)
        seconds = time.process_time() - began
        order = [steps.index(one) for one in robertson.TRUE] if set(steps) == set(robertson.TRUE) else None
        prefix = ""
    else:
        data = observed(case, times, exact, 100 + number)
        networks = matched(case, data, size.starts, size.steps)[: size.candidates]
        result = rounded(case, fitted(networks, data, size.iterations), size.iterations)
        seconds = time.process_time() - began
        assert isinstance(result.model, CRNN)
        order, prefix = order_of(case, result.model.stoichiometry.detach().numpy()), "constants."
    _, wanted = solved(case, UNSEEN, UNSEEN_SEED, size.points_of(case))
    y = trajectories(result.model, wanted[:, 0].copy(), times)
    of = len(case.species)
    off = np.abs(y - wanted)[:, 1:, :of] / np.ptp(wanted[..., :of], axis=(0, 1))
    names, true = constants(case)
    low = high = np.full(len(true), np.nan)
    rates = np.nan
    if order is not None:
        low, high = intervals_of(case, result, order, prefix)
        rates = error_of_rates(case, result, order)
    values = (low + high) / 2
    return Found(
        order is not None, names, true, values, low, high, rates, float(off.mean()), seconds, y[0][:, :of]
    )


def intervals_of(case: Case, result: Result, order: list[int], prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Ends of 95 % intervals (k,), each, of constants in the order of the true ones."""
    assert result.covariance is not None
    found = result.covariance.intervals()
    energies = [f"{prefix}energy[{i}]" for i in order] if case.temperatures else []
    which = [f"{prefix}log_k[{i}]" for i in order] + energies
    low, high = np.array([found[one] for one in which]).T
    return low, high


def error_of_rates(case: Case, result: Result, order: list[int]) -> float:
    """The largest relative error of a rate constant, at five temperatures if there are any."""
    model = result.model
    if isinstance(model, robertson.Reactions):
        found = model.log_k.detach().exp().numpy()[order]
        return float(np.abs(found / np.array(case.rates) - 1).max())
    assert isinstance(model, CRNN)
    least, largest = case.temperatures or (1000.0, 1000.0)  # nothing depends on the latter
    T = torch.linspace(least, largest, 5, dtype=torch.float64)
    with torch.no_grad():
        return float((model.constants(T)[:, order] / case.constants(T) - 1).abs().max())


def constants(case: Case) -> tuple[list[str], np.ndarray]:
    """Names and values of what is learned: ln k and E/(R T) at the middle temperature."""
    number = range(1, len(case.rates) + 1)
    names, values = [f"ln k{i}" for i in number], np.log(case.rates)
    if not case.temperatures:
        return names, values
    energies = np.array(case.energies) / (GAS_CONSTANT * case.middle)
    return [*names, *(f"E{i}/RT" for i in number)], np.concatenate([values, energies])
