"""Hydrogen's closures at temperatures and pressures that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray

from stiffml.experiments.closure import hydrogen, ignitions
from stiffml.experiments.closure.arrays import Tell, array
from stiffml.experiments.experiment import Finding

LAWS: Mapping[str, tuple[int, ...]] = {"powers": (), "network": (6,)}
"""Hidden layers of what a rate depends on."""

DELAY, DRIFT = 2e-2, 1e-12

BREAKS = (
    "rates per mass of two molecules go with the density, which the closure cannot tell from the temperature "
    "at one pressure; near the explosion limit delays depend on them most"
)


@dataclass(frozen=True)
class Size:
    """Laws, seeds, temperatures in K and times of the runs, pressures in atm; of the fits."""

    laws: int = 2
    seeds: int = 2
    fitted: tuple[float, ...] = ignitions.FITTED
    unseen: tuple[float, ...] = ignitions.OTHERS
    outside: tuple[float, ...] = ignitions.OUTSIDE
    points: int = 150
    pressures: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)
    iterations: int = 40


def learned(size: Size, tell: Tell) -> xarray.Dataset:
    names, temperatures = list(LAWS)[: size.laws], (*size.fitted, *size.unseen, *size.outside)
    whole = ignitions.reactor_at(ignitions.mechanism())
    runs, along = (ignitions.observed(whole, of, size.points) for of in (size.fitted, size.unseen))
    y0 = ignitions.fresh(whole.mechanism, temperatures)
    kinds = [kind for kind in ("fitted", "unseen", "outside") for _ in getattr(size, kind)]
    unseen = [number for number, kind in enumerate(kinds) if kind == "unseen"]
    of_whole = ignitions.delays(whole, y0)
    ends = [ignitions.LONG * of_whole[number] for number in unseen]
    shape = len(names), size.seeds
    matched, fitted = (np.empty((*shape, len(temperatures))) for _ in range(2))
    drift, seconds = np.empty(shape), np.empty(shape)
    models, rates = [], []
    for place, name in enumerate(names):
        for seed in range(size.seeds):
            at = place, seed
            found = hydrogen.learned(runs, LAWS[name], seed, size.iterations, y0)
            model, matched[at], seconds[at] = found.closure, found.matched, found.seconds
            fitted[at] = ignitions.delays(hydrogen.at(model, 1.0), y0)
            drift[at] = ignitions.element_drift(hydrogen.at(model, 1.0), whole.mechanism, y0[unseen], ends)
            if seed == 0:
                models.append(model)
                rates.append(hydrogen.rates_along(along, whole, model))
            tell(f"hydrogen, {name}, seed {seed}: {', '.join(model.reactions)}")
    true, lacking = (np.empty((len(size.pressures), len(temperatures))) for _ in range(2))
    closure, density = (np.empty((len(names), *true.shape)) for _ in range(2))
    for column, atmospheres in enumerate(size.pressures):
        lacking[column] = ignitions.delays(hydrogen.at(models[0], atmospheres, 0.0), y0)
        if atmospheres == 1.0:  # where all else is known
            true[column], closure[:, column], density[:, column] = of_whole, fitted[:, 0], fitted[:, 0]
        else:
            true[column] = ignitions.delays(ignitions.reactor_at(whole.mechanism, atmospheres), y0)
            for row, model in enumerate(models):
                at = row, column
                closure[at] = ignitions.delays(hydrogen.at(model, atmospheres), y0)
                density[at] = ignitions.delays(hydrogen.at(model, atmospheres, atmospheres), y0)
        tell(f"hydrogen at {atmospheres:g} atm")
    every, along_runs = ("law", "seed"), ("unseen_temperature", "point")
    made = "rate at which what is missing makes OH"
    where = ("pressure", "temperature")
    return xarray.Dataset(
        {
            "delay_matched": array((*every, "temperature"), matched, "delay at 1 atm before the fit", "s"),
            "delay_fitted": array((*every, "temperature"), fitted, "delay at 1 atm by closures", "s"),
            "delay_true": array(where, true, "delay by all reactions", "s"),
            "delay_lacking": array(where, lacking, "delay without the reaction", "s"),
            "delay_closure": array(("law", *where), closure, "delay by closures of seed 0", "s"),
            "delay_density": array(("law", *where), density, "delay by the same times pressure/1 atm", "s"),
            "element_drift": array(every, drift, "largest change of an element's mass fraction"),
            "hydrogen_seconds": array(every, seconds, "CPU time from the data to the closure", "s"),
            "rate_time": array(along_runs, rates[0].times, "time", "s"),
            "rate_true": array(along_runs, rates[0].true, made, "1/s"),
            "rate_learned": array(
                ("law", *along_runs), np.stack([one.learned for one in rates]), f"{made}, learned", "1/s"
            ),
        },
        {
            "law": names,
            "pressure": ("pressure", list(size.pressures), {"units": "atm"}),
            "temperature": ("temperature", list(temperatures), {"units": "K"}),
            "kind": ("temperature", kinds),
            "unseen_temperature": ("unseen_temperature", list(size.unseen), {"units": "K"}),
        },
        {
            "hydrogen_data": f"{size.points} times of each run, all species and T, no noise, at 1 atm",
            "hydrogen_missing": hydrogen.MISSING,
        },
    )


def error_of(data: xarray.Dataset, kind: str, what: str) -> xarray.DataArray:
    """|delay/true − 1| at the temperatures of a kind; inf where there is no delay."""
    true = data["delay_true"] if "pressure" in data[what].dims else data["delay_true"].sel(pressure=1.0)
    error = abs(data[what] / true - 1)
    return error.where(data["kind"] == kind, drop=True).fillna(np.inf)


def findings(data: xarray.Dataset, full: bool) -> list[Finding]:
    found, differs = [], "" if full else "fewer runs or iterations"
    seeds = f", the worst of {data.sizes['seed']} seeds" if data.sizes["seed"] > 1 else ""
    count = data.sizes["unseen_temperature"]
    lacking = error_of(data, "unseen", "delay_lacking")
    what = f"hydrogen: largest error of a delay at {count} unseen temperatures, 1 atm"
    found.append(Finding(f"{what}, reaction left out", float(lacking.sel(pressure=1.0).max())))
    for law in data["law"].values:
        fitted, matched = (
            error_of(data, "unseen", name).sel(law=law) for name in ("delay_fitted", "delay_matched")
        )
        found += [
            Finding(
                f"{what}, {law}{seeds}",
                float(fitted.max()),
                at_most=DELAY if full else None,
                differs=differs,
            ),
            Finding(f"{what}, {law}, before the fit", float(matched.max())),
        ]
        outside = error_of(data, "outside", "delay_fitted").sel(law=law)
        for temperature in outside["temperature"].values:
            off = float(outside.sel(temperature=temperature).max())
            found.append(Finding(f"hydrogen: the same at {temperature:g} K, outside of the data, {law}", off))
    for pressure in data["pressure"].values:
        if pressure == 1.0:
            continue
        where = f"hydrogen: largest error of a delay at {count} unseen temperatures, {pressure:g} atm"
        found.append(Finding(f"{where}, reaction left out", float(lacking.sel(pressure=pressure).max())))
        for model, text, why in (
            ("delay_closure", "closures as learned at 1 atm", BREAKS),
            ("delay_density", "closures times pressure/1 atm", ""),
        ):
            error = error_of(data, "unseen", model).sel(pressure=pressure)
            found.append(Finding(f"{where}, {text}", float(error.max()), differs=why))
    return [
        *found,
        Finding(
            "hydrogen: largest change of an element's mass fraction",
            float(data["element_drift"].max()),
            at_most=DRIFT,
        ),
        Finding(
            "hydrogen: CPU time from the data to the closure, the longest",
            float(data["hydrogen_seconds"].max()),
            units="s",
        ),
    ]
