"""The Kuramoto-Sivashinsky equation: a chaotic field, learned through IMEX steps 200 times as long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

import problems
from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.experiments.sinode.beside import beside, of_torchdiffeq
from stiffml.experiments.sinode.pictures import draw_ks
from stiffml.experiments.sinode.results import losses_of, of_ways
from stiffml.experiments.sinode.training import Convolution, Dense, Setting, Training, Way, train
from stiffml.experiments.sinode.waves import (
    EVERY,
    Series,
    along,
    density,
    generate,
    growth_rate,
    spectrum,
    valid_times,
)

if TYPE_CHECKING:
    import xarray

PUBLISHED_RATE = 0.048
"""Of the continuous equation at L = 22 (Cvitanović, Davidchack & Siminos, SIADS 9 (2010) 1)."""

IMEX, EXPLICIT = 0.2, 1e-3
"""Steps, as published."""

LONGEST = 100.0
"""Time that models go on by themselves."""


def squares(difference: Tensor) -> Tensor:
    return difference.square().mean()


@dataclass(frozen=True)
class Size:
    """Of a form: series and their span, the time in which the exponent is measured, and CPU seconds."""

    series: int
    span: float
    exponent: float
    batch: int
    imex_s: float
    explicit_s: float
    convolution_s: float
    settling: float = 100.0


SIZES = {
    "quick": Size(4, 10.0, 40.0, 16, 0.3, 0.6, 0.3, settling=20.0),
    "medium": Size(16, 100.0, 50.0, 64, 8.0, 8.0, 8.0),
    "full": Size(32, 200.0, 200.0, 64, 40.0, 40.0, 40.0),
}


def run(form: Form, report: Report) -> Outcome:
    size, problem = SIZES[form], problems.load("ks")
    series = generate(problem, size.series, size.span, size.settling, seed=0)
    rate = growth_rate(problem, series.unseen[0], size.exponent, seed=0)
    training, validation = series.windows(512, seed=0)
    report(1, 5, f"data, largest Lyapunov exponent {rate:.3f}")
    dense = Setting(Dense, 200, 0.01, squares, 2e-3, 0.75, 5, size.batch, 40, 100_000)
    convolution = Setting(Convolution, 24, 0.0, squares, 5e-3, 0.5, 3, size.batch, 40, 100_000)
    ways = {
        Way("arkimex-4, h = 0.2", "arkimex-4", IMEX, size.imex_s): dense,
        Way("rk4, h = 0.001", "rk4", EXPLICIT, size.explicit_s): dense,
        Way("arkimex-4, h = 0.2, convolution", "arkimex-4", IMEX, size.convolution_s): convolution,
    }
    ended = {}
    for number, (way, setting) in enumerate(ways.items(), 2):
        ended[way] = train(problem, training, validation, way, setting, partial(report, number - 1, 5))
    imex, explicit, _ = ways
    data = losses_of(ended)
    if form != "quick":
        data = data.merge(beside(problem, training, imex, explicit, dense))
    data = data.merge(by_themselves(ended, problem, series, rate))
    data.attrs.update(
        lyapunov_exponent=rate,
        unlearned=float(squares(validation.start - validation.end)),
        seeds="0",
        setup=f"{size.series} series over {size.span:g}, {len(training.start)} windows of {EVERY:g} to train "
        f"on, {len(validation.start)} later ones to validate on, batch {size.batch}",
    )
    report(5, 5, "models by themselves")
    return Outcome(data, (*of_ways(data, form), *of_torchdiffeq(data), *of_chaos(data, form)))


def by_themselves(
    ended: Mapping[Way, Training], problem: problems.Problem, series: Series, rate: float
) -> xarray.Dataset:
    """How long models predict, and which states they visit, from the first unseen states."""
    import xarray

    start, h = series.unseen[0], IMEX
    models = {way.name: one.model for way, one in ended.items()}
    edges = np.linspace(-4, 4, 41)
    length = min(LONGEST, (len(series.unseen) - 1) * EVERY)
    valid, energies, densities = [], [spectrum(series.unseen)], [density(series.unseen, edges)]
    shown = [series.unseen[:, 0, 0].numpy()]
    for model in models.values():
        states = along(model, start, length, h)
        valid.append(valid_times(states, series.unseen) * rate)
        settled = states[len(states) // 4 :]
        energies.append(spectrum(settled))
        densities.append(density(settled, edges))
        whole = np.full(series.unseen[:, 0, 0].shape, np.nan)
        whole[: len(states)] = states[:, 0, 0][: len(whole)]
        shown.append(whole)
    names, width = ["the equation", *models], edges[1] - edges[0]
    errors = [0.5 * width * np.abs(one - densities[0]).sum() for one in densities]
    times = EVERY * np.arange(len(shown[0]))
    return xarray.Dataset(
        {
            "valid": (
                ("way", "series"),
                np.array(valid),
                {"long_name": "valid prediction time", "units": "Lyapunov times"},
            ),
            "energy": (
                ("model", "waves"),
                np.array(energies),
                {"long_name": "mean energy of so many waves in the domain", "units": "1"},
            ),
            "density": (
                ("model", "value"),
                np.array(densities),
                {"long_name": "probability density of u", "units": "1"},
            ),
            "distance": (
                "model",
                np.array(errors),
                {"long_name": "total variation distance of the density from the equation's", "units": "1"},
            ),
            "shown": (
                ("model", "time", "x"),
                np.array(shown, dtype=np.float32)[:, ::2],
                {"long_name": "u of the first series", "units": "1"},
            ),
        },
        {
            "way": list(models),
            "model": names,
            "value": ("value", (edges[1:] + edges[:-1]) / 2, {"long_name": "u", "units": "1"}),
            "time": ("time", times[::2], {"long_name": "time after the last snapshot known", "units": "1"}),
            "x": ("x", problem.grid["x"], {"long_name": "x", "units": "1"}),
        },
    )


def of_chaos(data: xarray.Dataset, form: Form) -> list[Finding]:
    energy = data["energy"].values
    found = [
        Finding(
            "largest Lyapunov exponent of the equation on 64 points",
            data.attrs["lyapunov_exponent"],
            published=f"{PUBLISHED_RATE:g} for the continuous equation",
            differs="differences of second order on 64 points, by the growth of small distances",
        )
    ]
    for number, way in enumerate(data["way"].values, 1):
        large = energy[0] > 1e-3 * energy[0].max()
        off = np.abs(np.log10(energy[number, large] / energy[0, large])).max()
        found += [
            Finding(
                f"valid prediction time, median of series: {way}",
                float(np.median(data["valid"].sel({"way": way}))),
                "Lyapunov times",
                differs="until the error is half the root mean square of u; from unseen states",
            ),
            Finding(
                f"distance of the distribution of u from the equation's: {way}",
                data["distance"].values[number].item(),
            ),
            Finding(
                f"largest error of the energy spectrum, where it is above 1e-3 of its peak: {way}",
                float(off),
                "decades",
            ),
        ]
    return found


EXPERIMENT = Experiment(
    title="Kuramoto-Sivashinsky: a chaotic field learned through IMEX steps 200 times as long",
    question="How soon do IMEX steps reach the validation loss that explicit steps reach, and how far and "
    "how faithfully does a model so trained go on by itself?",
    source="H. Zhang, Y. Liu & R. Maulik, semi-implicit neural ODEs, arXiv 2412.11301",
    run=run,
    draw=draw_ks,
    requires=("torchdiffeq",),
)
