"""Which reactions are found, how well their constants, over several sets of observations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure as AnyFigure
from scipy import stats

from stiffml.closures import CRNN
from stiffml.experiments.crnn.cases import CASES, NOISE, Case, observed, solved, trajectories
from stiffml.experiments.crnn.discovery import fitted, matched, order_of, rounded
from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.plotting import DATA, Figure, series, styled

RUNS, UNSEEN = 20, 10
RATES, COVERED = 0.05, 0.9
UNSEEN_SEED = 1000


@dataclass(frozen=True)
class Size:
    """Of a form: cases, sets of observations, runs and times of each, random starts, steps of Adam, fits."""

    cases: tuple[str, ...] = ("case 1", "biodiesel")
    sets: int = 2
    runs: int = RUNS
    points: int | None = None
    starts: int = 48
    steps: int = 1500
    candidates: int = 6
    iterations: int = 60


SIZES: Mapping[Form, Size] = {
    "quick": Size(("case 1",), sets=1, runs=6, points=25, starts=12, steps=300, candidates=1, iterations=20),
    "medium": Size(sets=1, points=50, candidates=3),
    "full": Size(),
}


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


def run(form: Form, report: Report) -> Outcome:
    size = SIZES[form]
    findings: list[Finding] = []
    variables: dict[str, xarray.DataArray] = {}
    done = 0
    for name in size.cases:
        case, results = CASES[name], []
        for number in range(1, size.sets + 1):
            results.append(discovered(case, size, number))
            done += 1
            found = results[-1]
            report(
                done,
                size.sets * len(size.cases),
                f"{name}, set {number}: {'found' if found.exact else 'lost'}",
            )
        findings += findings_of(case, results, size)
        variables |= variables_of(case, results, size)
    about = {
        "noise": f"{NOISE:g} of each value, normal",
        "seeds": f"set s: starts from seed s, errors from 100 + s; unseen runs from {UNSEEN_SEED}",
        "set-up": f"{size.runs} runs, {size.starts} random networks, {size.steps} steps of Adam on rates",
    }
    return Outcome(xarray.Dataset(variables, attrs=about), tuple(findings))


def discovered(case: Case, size: Size, number: int) -> Found:
    """What is found in set ``number``."""
    times, exact = solved(case, size.runs, number, size.points)
    data = observed(case, times, exact, 100 + number)
    began = time.process_time()
    networks = matched(case, data, size.starts, size.steps)[: size.candidates]
    result = rounded(case, fitted(networks, data, size.iterations), size.iterations)
    seconds = time.process_time() - began
    model = result.model
    assert isinstance(model, CRNN)
    assert result.covariance is not None
    _, wanted = solved(case, UNSEEN, UNSEEN_SEED, size.points)
    y = trajectories(model, wanted[:, 0].copy(), times)
    of = len(case.species)
    off = np.abs(y - wanted)[:, 1:, :of] / np.ptp(wanted[..., :of], axis=(0, 1))
    order = order_of(case, model.stoichiometry.detach().numpy())
    names, true = constants(case)
    values = low = high = np.full(len(true), np.nan)
    rates = np.nan
    if order is not None:
        energies = [f"constants.energy[{i}]" for i in order] if case.temperatures else []
        intervals = result.covariance.intervals()
        which = [f"constants.log_k[{i}]" for i in order] + energies
        low, high = np.array([intervals[one] for one in which]).T
        values = (low + high) / 2
        least, largest = case.temperatures or (1000.0, 1000.0)  # nothing depends on the latter
        T = torch.linspace(least, largest, 5, dtype=torch.float64)
        with torch.no_grad():
            rates = float((model.constants(T)[:, order] / case.constants(T) - 1).abs().max())
    return Found(
        order is not None, names, true, values, low, high, rates, float(off.mean()), seconds, y[0][:, :of]
    )


def constants(case: Case) -> tuple[list[str], np.ndarray]:
    """Names and values of what is learned: ln k and E/(R T) at the middle temperature."""
    number = range(1, len(case.rates) + 1)
    names, values = [f"ln k{i}" for i in number], np.log(case.rates)
    if not case.temperatures:
        return names, values
    energies = np.array(case.energies) / (8.31446261815324 * case.middle)
    return [*names, *(f"E{i}/RT" for i in number)], np.concatenate([values, energies])


def findings_of(case: Case, results: list[Found], size: Size) -> list[Finding]:
    sets = f"{len(results)} sets of {size.runs} runs" if len(results) > 1 else f"{size.runs} runs"
    full = size == SIZES["full"]
    found = [one for one in results if one.exact]
    held = [bool(h) for one in found for h in (one.low <= one.true) & (one.true <= one.high)]
    differs = "" if full else "smaller than published"
    missed = (
        ""
        if len(found) == len(results)
        else f"{len(results) - len(found)} of {len(results)} ended in another minimum"
    )
    why = "; ".join(filter(None, (differs, missed)))
    return [
        Finding(
            f"{case.name}: share of sets in which exactly the true reactions are found, {sets}",
            len(found) / len(results),
            at_least=1.0 if full else None,
            published="found, by AdamW over thousands of epochs, some coefficients pruned",
            differs=why,
        ),
        Finding(
            f"{case.name}: largest error of a rate constant"
            + (f", {case.temperatures[0]:g} to {case.temperatures[1]:g} K" if case.temperatures else ""),
            max((one.rates for one in found), default=np.nan),
            at_most=RATES if full else None,
            differs="; ".join(filter(None, (differs, "of sets whose reactions are found" if missed else ""))),
        ),
        Finding(
            f"{case.name}: share of 95 % intervals that hold the true constant, of {len(held)}",
            float(np.mean(held)) if held else np.nan,
            at_least=COVERED if full else None,
            differs="; ".join(filter(None, (why, by_chance(sum(held), len(held))))),
        ),
        Finding(
            f"{case.name}: mean error at {UNSEEN} unseen runs, in ranges, the worst set",
            max(one.unseen for one in results),
            differs=differs,
        ),
        Finding(f"{case.name}: time of a set, the longest", max(one.seconds for one in results), units="s"),
    ]


def by_chance(held: int, count: int) -> str:
    """What it means that so many of the intervals hold; "" where they are as many as wanted."""
    if not count or held >= COVERED * count:
        return ""
    share = stats.binom.cdf(held, count, 0.95)
    return f"few intervals: right ones would hold {held} of {count} times, or less, in {share:.0%} of cases"


def variables_of(case: Case, results: list[Found], size: Size) -> dict[str, xarray.DataArray]:
    key = case.name.replace(" ", "")
    names, true = constants(case)
    times, exact = solved(case, UNSEEN, UNSEEN_SEED, size.points)
    rows = {"low": "lower end", "values": "middle", "high": "upper end"}
    found = {
        f"{key}_{part}": xarray.DataArray(
            np.stack([getattr(one, part) for one in results]),
            dims=(f"{key}_set", f"{key}_constant"),
            attrs={"long_name": f"{what} of the 95 % interval of a constant", "units": "1"},
        )
        for part, what in rows.items()
    }
    found[f"{key}_true"] = xarray.DataArray(
        true,
        dims=f"{key}_constant",
        coords={f"{key}_constant": names},
        attrs={"long_name": "true constants", "units": "1"},
    )
    dims, coords = (f"{key}_time", f"{key}_species"), {f"{key}_species": list(case.species)}
    for part, values, what in (
        ("exact", exact[0][:, : len(case.species)], "of the first unseen run"),
        ("model", results[0].states, "of the same by the reactions of the first set"),
    ):
        found[f"{key}_{part}"] = xarray.DataArray(
            values,
            dims=dims,
            coords={**coords, f"{key}_time": times},
            attrs={"long_name": f"concentrations {what}", "units": "1"},
        )
    found[f"{key}_exact"][f"{key}_time"].attrs["units"] = case.time_units
    return found


def draw(data: xarray.Dataset) -> dict[str, AnyFigure]:
    keys = [str(name).removesuffix("_true") for name in data.data_vars if str(name).endswith("_true")]
    with styled():
        return {"constants": _constants(data, keys), "unseen": _unseen(data, keys)}


def _constants(data: xarray.Dataset, keys: list[str]) -> Figure:
    """Errors of constants in units of what the 95 % intervals allow."""
    figure = Figure(figsize=(4.8 * len(keys), 3.2))
    for panel, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        true = data[f"{key}_true"]
        off = 2 * (data[f"{key}_values"] - true) / (data[f"{key}_high"] - data[f"{key}_low"])
        places = np.arange(len(true))
        panel.axhspan(-1, 1, color=DATA, alpha=0.12, lw=0, label="95 % interval")
        for number, one in enumerate(off):
            at = places + 0.12 * (number - (len(off) - 1) / 2)
            panel.plot(at, one, label=f"set {number + 1}", **{**series(number), "ls": ""})
        panel.axhline(0, color=DATA, lw=1)
        panel.set_xticks(places, list(true[f"{key}_constant"].values))
        panel.set(title=key, ylabel="(found − true) / half-width", ylim=(-2, 2))
        panel.legend(fontsize=8, ncols=3)
    return figure


def _unseen(data: xarray.Dataset, keys: list[str]) -> Figure:
    figure = Figure(figsize=(4.8 * len(keys), 3.4))
    for panel, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        exact, model = data[f"{key}_exact"], data[f"{key}_model"]
        t = exact[f"{key}_time"]
        for number, name in enumerate(exact[f"{key}_species"].values):
            look = series(number)
            panel.plot(t, model[:, number], color=look["color"], ls=look["ls"], lw=1.5)
            marks = {"marker": look["marker"], "ls": "", "mfc": "none", "color": look["color"], "ms": 5}
            panel.plot(t[::5], exact[::5, number], label=str(name), **marks)
        panel.set(
            xlabel=f"time [{t.attrs['units']}]",
            ylabel="concentration",
            title=f"{key}: unseen run (points) and model",
        )
        panel.legend(fontsize=8, ncols=2)
    return figure


EXPERIMENT = Experiment(
    title="Reactions from noisy concentrations: chemical reaction neural networks",
    question=(
        "Are reactions and rate constants found from 20 noisy runs, with the whole numbers that they have? "
        "Splines through the data start many networks at once; Levenberg-Marquardt fits the trajectories."
    ),
    source="W. Ji & S. Deng, J. Phys. Chem. A 125 (2021) 1082, cases 1 and 2",
    run=run,
    draw=draw,
)
