"""POLLU's closures at starts that they have not seen, near those of the data and further away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray

from stiffml.experiments.closure import pollu
from stiffml.experiments.closure.arrays import Tell, array
from stiffml.experiments.experiment import Finding

SETUPS: Mapping[str, tuple[tuple[int, ...], float]] = {
    "powers, exact data": ((), 0.0),
    "network, exact data": ((8,), 0.0),
    "powers, noise 1 %": ((), 0.01),
    "network, noise 1 %": ((8,), 0.01),
}
"""Hidden layers, and the noise of the data in ranges."""

ERROR, DRIFT = 1e-2, 1e-12
NEAR = "the error is below that at starts as near as those of the data alone"


@dataclass(frozen=True)
class Size:
    """Set-ups, runs to learn from, unseen starts, factors of starts further away; of the fits."""

    setups: int = 4
    runs: int = 12
    unseen: int = 4
    spreads: tuple[float, ...] = (2.0, 3.0, 5.0, 8.0)
    iterations: int = 25


def learned(size: Size, tell: Tell) -> xarray.Dataset:
    names, species = list(SETUPS)[: size.setups], list(pollu.POLLU.components)
    seen, unseen = (pollu.exact(pollu.starts(*of)) for of in ((size.runs, 0), (size.unseen, 1)))
    further = [pollu.exact(pollu.starts(size.unseen, 1, spread)) for spread in size.spreads]
    ranges = pollu.ranges_of(seen)
    lacking = pollu.errors(pollu.solved(pollu.LACKING, unseen[:, 0]), unseen, ranges)
    tell("data of POLLU")
    error, matched = (np.empty((len(names), len(species))) for _ in range(2))
    far = np.empty((len(names), len(size.spreads)))
    drift, seconds = np.empty(len(names)), np.empty(len(names))
    states = []
    for at, name in enumerate(names):
        found = pollu.learned(seen, *SETUPS[name], size.iterations, unseen[:, 0])
        matched[at] = pollu.errors(found.matched, unseen, ranges)
        y = pollu.solved(found.closure, unseen[:, 0])
        error[at], drift[at], seconds[at] = pollu.errors(y, unseen, ranges), pollu.drift(y), found.seconds
        for column, one in enumerate(further):
            far[at, column] = pollu.errors(pollu.solved(found.closure, one[:, 0]), one, ranges).max()
        states.append(y[0])
        tell(f"POLLU, {name}")
    where = "mean error at unseen starts in ranges"
    return xarray.Dataset(
        {
            "pollu_error": array(("setup", "species"), error, where),
            "pollu_error_matched": array(("setup", "species"), matched, f"{where}, before the fit"),
            "pollu_error_lacking": array("species", lacking, f"{where}, without closure"),
            "pollu_error_far": array(("setup", "factor"), far, "the same further away, worst species"),
            "pollu_drift": array("setup", drift, "largest relative change of a conserved sum"),
            "pollu_seconds": array("setup", seconds, "CPU time from the data to the closure", "s"),
            "pollu_states": array(
                ("setup", "time", "species"), np.stack(states), "first unseen start, by closures", "ppm"
            ),
            "pollu_exact": array(("time", "species"), unseen[0], "first unseen start, by POLLU", "ppm"),
        },
        {
            "setup": names,
            "species": species,
            "time": ("time", pollu.TIMES, {"units": "min"}),
            "factor": list(size.spreads),
        },
        {
            "pollu_data": f"{size.runs} runs of 20 times, from POLLU's own start times 0.5 … 1.5, seed 0",
            "pollu_unseen": f"{size.unseen} others, seed 1; further ones within a factor either way",
            "pollu_noise": "normal, in ranges of the species, seed 0",
        },
    )


def findings(data: xarray.Dataset, full: bool) -> list[Finding]:
    differs = "" if full else "fewer runs or iterations"
    found = [
        Finding(
            "POLLU without two reactions: mean error of the worst species at unseen starts, in ranges",
            float(data["pollu_error_lacking"].max()),
        )
    ]
    for name in data["setup"].values:
        one = data.sel(setup=name)
        worst = data["species"].values[int(one["pollu_error"].values.argmax())]
        found += [
            Finding(
                f"POLLU, {name}: the same with a fitted closure; the worst is {worst}",
                float(one["pollu_error"].max()),
                at_most=ERROR,
                differs=differs,
            ),
            Finding(
                f"POLLU, {name}: before the fit, with rates matched to the data",
                float(one["pollu_error_matched"].max()),
            ),
        ]
        if data.sizes["factor"]:
            good = one["factor"].where(one["pollu_error_far"] <= ERROR).max()
            factors = ", ".join(f"{factor:g}" for factor in data["factor"].values)
            what = f"POLLU, {name}: of {factors}, the largest factor of starts with errors below {ERROR:g}"
            found.append(Finding(what, float(good), differs=NEAR if good.isnull() else ""))
    drift, seconds = float(data["pollu_drift"].max()), float(data["pollu_seconds"].max())
    return [
        *found,
        Finding("POLLU: largest relative change of nitrogen, sulphur, carbon", drift, at_most=DRIFT),
        Finding("POLLU: CPU time from the data to the closure, the longest", seconds, units="s"),
    ]
