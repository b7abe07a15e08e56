"""Which reactions are found, how well their constants, over several sets of observations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray
from matplotlib.figure import Figure as AnyFigure
from scipy import stats

from stiffml.experiments.crnn.cases import NOISE, Case, solved
from stiffml.experiments.crnn.coverage import covered
from stiffml.experiments.crnn.sets import EVERY, UNSEEN, UNSEEN_SEED, Found, Size, constants, discovered
from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.plotting import DATA, Figure, series, styled

RATES, COVERED = 0.05, 0.9
FIRST_TRIED = 201
"""The number of the first set in which only intervals are tried."""

PUBLISHED = {"Robertson": "their code trains 6 reactions for the 3, from 25 initial states"}
FOUND = "found, by AdamW over thousands of epochs, some coefficients pruned"
OWN = {
    "Robertson": "noise of 5 %; 3 of the 24 steps that one molecule can take, by itself or with another, in "
    "place of 6 reactions of any orders; starts with B of 1e-6 to 0.1"
}
"""What differs in a set-up of our own."""

SIZES: Mapping[Form, Size] = {
    "quick": Size(
        ("case 1", "Robertson"),
        sets=1,
        runs=6,
        robertson=12,
        points=25,
        starts=8,
        steps=150,
        candidates=1,
        iterations=10,
        tried=0,
    ),
    "medium": Size(sets=1, points=50, candidates=3, tried=1),
    "full": Size(),
}


def run(form: Form, report: Report) -> Outcome:
    size = SIZES[form]
    findings: list[Finding] = []
    variables: dict[str, xarray.DataArray] = {}
    done, parts = 0, (size.sets + size.tried) * len(size.cases)
    for name in size.cases:
        case, results = EVERY[name], []
        for number in range(1, size.sets + 1):
            results.append(discovered(case, size, number))
            done += 1
            found = results[-1]
            report(done, parts, f"{name}, set {number}: {'found' if found.exact else 'lost'}")
        held = []
        for number in range(FIRST_TRIED, FIRST_TRIED + size.tried):
            held.append(covered(case, size, number))
            done += 1
            report(done, parts, f"{name}, set {number}: {held[-1].sum()} of {held[-1].size} intervals hold")
        findings += [*findings_of(case, results, size), *of_intervals(case, held, size)]
        variables |= variables_of(case, results, size)
    about = {
        "noise": f"{NOISE:g} of each value, normal",
        "seeds": f"set s: starts from seed s, errors from 100 + s; sets from {FIRST_TRIED} on have intervals "
        f"alone; unseen runs from {UNSEEN_SEED}",
        "set-up": f"{size.runs} runs, {size.starts} random networks, {size.steps} steps of Adam on rates; "
        f"of Robertson's {size.robertson} runs",
    }
    return Outcome(xarray.Dataset(variables, attrs=about), tuple(findings))


def findings_of(case: Case, results: list[Found], size: Size) -> list[Finding]:
    runs = f"{size.runs_of(case)} runs"
    sets = f"{len(results)} sets of {runs}" if len(results) > 1 else runs
    full = size == SIZES["full"]
    bounded = full or case.name == "Robertson"  # of which fewer runs are enough
    found = [one for one in results if one.exact]
    held = [bool(h) for one in found for h in (one.low <= one.true) & (one.true <= one.high)]
    differs = "; ".join(filter(None, (OWN.get(case.name, ""), "" if full else "smaller than published")))
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
            at_least=1.0 if bounded else None,
            published=PUBLISHED.get(case.name, FOUND),
            differs=why,
        ),
        Finding(
            f"{case.name}: largest error of a rate constant"
            + (f", {case.temperatures[0]:g} to {case.temperatures[1]:g} K" if case.temperatures else ""),
            max((one.rates for one in found), default=np.nan),
            at_most=RATES if bounded else None,
            differs="; ".join(filter(None, (differs, "of sets whose reactions are found" if missed else ""))),
        ),
        Finding(
            f"{case.name}: share of 95 % intervals that hold the true constant, of {len(held)}",
            float(np.mean(held)) if held else np.nan,
            differs="; ".join(filter(None, (why, by_chance(sum(held), len(held))))),
        ),
        Finding(
            f"{case.name}: mean error at {UNSEEN} unseen runs, in ranges, the worst set",
            max(one.unseen for one in results),
            differs=differs,
        ),
        Finding(f"{case.name}: time of a set, the longest", max(one.seconds for one in results), units="s"),
    ]


def of_intervals(case: Case, held: list[np.ndarray], size: Size) -> list[Finding]:
    """Of the sets in which only intervals are tried."""
    if not held:
        return []
    every = np.concatenate(held)
    known = f"{len(held)} further sets, reactions known"
    return [
        Finding(
            f"{case.name}: share of 95 % intervals that hold, {every.sum()} of {every.size}, of {known}",
            float(every.mean()),
            at_least=COVERED if size == SIZES["full"] else None,
            differs=by_chance(int(every.sum()), every.size),
        )
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
    times, exact = solved(case, UNSEEN, UNSEEN_SEED, size.points_of(case))
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
        stiff = key == "Robertson"
        first, every = (1, 2) if stiff else (0, 5)  # a logarithmic axis has no 0
        for number, name in enumerate(exact[f"{key}_species"].values):
            look = series(number)
            panel.plot(t[first:], model[first:, number], color=look["color"], ls=look["ls"], lw=1.5)
            marks = {"marker": look["marker"], "ls": "", "mfc": "none", "color": look["color"], "ms": 5}
            panel.plot(t[first::every], exact[first::every, number], label=str(name), **marks)
        if stiff:
            panel.set(xscale="log", yscale="log")
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
        "Splines through the data start many networks at once; Levenberg-Marquardt fits the trajectories. "
        "Robertson's stiff reactions, with catalysts, are found among all steps of one or two molecules."
    ),
    source="W. Ji & S. Deng, J. Phys. Chem. A 125 (2021) 1082, cases 1 and 2; the third is of their code",
    run=run,
    draw=draw,
)
