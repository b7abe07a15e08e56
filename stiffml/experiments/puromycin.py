"""An enzyme's constants from measured rates, by the reactions themselves, with intervals.

The rate at which an enzyme works was measured at several concentrations of its substrate, with cells treated
by Puromycin and without (M. Treloar's thesis, Toronto 1974; in Bates & Watts, Nonlinear Regression Analysis
and Its Applications, 1988, table A1.3, and as Puromycin in R). The substrate S binds to the enzyme and is
released again, or turned into the product P, counted by its radioactivity:

    x' = b (s (1 − x) − K x),    p' = V x,    x(0) = p(0) = 0

x is the share of the enzyme that is bound. s is kept: rates were measured at the start. Binding is fast: with
b = 1e6 per ppm and minute this is stiff. Within some millionths p(1 min) is then V s/(K + s), the rate of
Michaelis and Menten, which scipy's curve_fit fits beside it, and which was published.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray
from scipy.optimize import curve_fit
from torch import Tensor, nn

from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.plotting import Figure, series, styled
from stiffml.training import Result, Run, Runs, least_squares

MEASURED: Mapping[str, str] = {
    "treated": "0.02 76 0.02 47 0.06 97 0.06 107 0.11 123 0.11 139 0.22 159 0.22 152 0.56 191 0.56 201 "
    "1.1 207 1.1 200",
    "untreated": "0.02 67 0.02 51 0.06 84 0.06 86 0.11 98 0.11 115 0.22 131 0.22 124 0.56 144 0.56 158 "
    "1.1 160",
}
"""Concentration of the substrate in ppm, rate in counts/min², and so on."""

PUBLISHED: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "treated": ((212.7, 6.947), (0.06412, 0.008281)),
    "untreated": ((160.3, 6.480), (0.04771, 0.007782)),
}
"""V in counts/min² and K in ppm, each with its standard error."""

NAMES, UNITS = ("V", "K"), ("counts/min²", "ppm")
BINDING = 1e6
"""1/(ppm min)."""
BEGIN = (150.0, 0.1)
"""Where fits begin."""
CASES: Mapping[str, tuple[str, ...]] = {
    "quick": ("treated",),
    "medium": tuple(MEASURED),
    "full": tuple(MEASURED),
}


class Enzyme(nn.Module):
    """The substrate in ppm, the share of the enzyme that is bound, the product in counts/min."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.tensor(BEGIN, dtype=torch.float64).log())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        V, K = self.logs.exp()
        s, bound = y[..., 0], y[..., 1]
        return torch.stack([0 * s, BINDING * (s * (1 - bound) - K * bound), V * bound], dim=-1)


def measured(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Concentrations in ppm and rates in counts/min²."""
    numbers = np.array(MEASURED[case].split(), dtype=float).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def michaelis_menten(s: np.ndarray, V: float, K: float) -> np.ndarray:
    return V * s / (K + s)


def fitted(case: str) -> Result:
    """V and K by least squares through the solver: a run for each measurement, seen after a minute."""
    runs = []
    for number, (s, rate) in enumerate(zip(*measured(case), strict=True)):
        y = np.array([[s, 0.0, 0.0], [np.nan, np.nan, rate]])
        runs.append(Run(f"{number + 1}", np.array([0.0, 1.0]), y))
    observed = Runs(
        runs, ["S", "bound", "P"], units=["ppm", "1", "counts/min"], time_units="min", initial="known"
    )
    return least_squares(Enzyme(), observed, method="rosw-rodaspr2", scale=1.0, rtol=1e-7)


def run(form: Form, report: Report) -> Outcome:
    cases = CASES[form]
    found, widths, formula, formula_widths = (np.empty((len(cases), 2)) for _ in range(4))
    low, high = np.empty((len(cases), 2)), np.empty((len(cases), 2))
    for number, case in enumerate(cases):
        covariance = fitted(case).covariance
        assert covariance is not None
        found[number] = np.exp(covariance.values)
        widths[number] = covariance.errors * found[number]
        low[number], high[number] = np.exp(list(covariance.intervals().values())).T
        formula[number], of_formula = curve_fit(michaelis_menten, *measured(case), BEGIN)
        formula_widths[number] = np.sqrt(np.diag(of_formula))
        report(number + 1, len(cases), case)
    published = np.array([PUBLISHED[case] for case in cases])
    dims = ("case", "constant")
    told = {
        "fitted": (found, "by sensitivities through the solver"),
        "standard_error": (widths, "standard error"),
        "low": (low, "lower end of the 95 % interval"),
        "high": (high, "upper end of the 95 % interval"),
        "formula": (formula, "by curve_fit of the formula of Michaelis and Menten"),
        "published": (published[..., 0], "published"),
    }
    data = xarray.Dataset(
        {
            name: (dims, values, {"long_name": text, "units": "counts/min² for V, ppm for K"})
            for name, (values, text) in told.items()
        },
        {"case": list(cases), "constant": list(NAMES)},
    )
    off = float((np.abs(found - formula) / formula_widths).max())
    wide = float(np.abs(widths / formula_widths - 1).max())
    findings = [
        Finding("largest distance from the fit of the formula, in standard errors", off, at_most=1e-2),
        Finding("largest difference of standard errors, relative", wide, at_most=1e-2),
    ]
    for number, case in enumerate(cases):
        for at, name in enumerate(NAMES):
            value, error = PUBLISHED[case][at]
            inside = low[number, at] <= value <= high[number, at]
            findings += [
                Finding(
                    f"{name}, {case}: from {low[number, at]:.4g} to {high[number, at]:.4g} with 95 %",
                    found[number, at],
                    UNITS[at],
                    published=f"{value:g} ± {error:g}",
                    differs="intervals of ln V and ln K here, of V and K there",
                ),
                Finding(
                    f"{name}, {case}: whether the interval holds the published one", float(inside), at_least=1
                ),
            ]
    return Outcome(data, tuple(findings))


def draw(data: xarray.Dataset) -> Mapping[str, Figure]:
    """Measured and fitted rates, and the intervals of V and K about what was published."""
    with styled():
        figure = Figure(figsize=(9, 3.4))
        panels = figure.subplots(1, 3, width_ratios=(2, 1, 1))
        fine = np.linspace(0, 1.15, 200)
        for number, case in enumerate(data["case"].values):
            look, one = series(number), data.sel(case=case)
            panels[0].plot(
                fine, michaelis_menten(fine, *one["fitted"].values), color=look["color"], ls=look["ls"]
            )
            marks = {"marker": look["marker"], "ls": "", "mfc": "none", "color": look["color"], "ms": 5}
            panels[0].plot(*measured(str(case)), label=str(case), **marks)
            for panel, name in zip(panels[1:], NAMES, strict=True):
                of = one.sel(constant=name)
                panel.plot([number, number], [of["low"], of["high"]], color=look["color"], lw=2)
                panel.plot(number, of["fitted"], **marks)
                panel.plot(number, of["published"], "k_", ms=14, label="" if number else "published")
        panels[0].set(xlabel="substrate [ppm]", ylabel="rate [counts/min²]")
        panels[0].legend(fontsize=8)
        panels[1].legend(fontsize=8)
        for panel, name, units in zip(panels[1:], NAMES, UNITS, strict=True):
            panel.set_xticks(range(data.sizes["case"]), list(data["case"].values))
            panel.set(title=f"{name} [{units}]", xlim=(-0.5, data.sizes["case"] - 0.5))
    return {"puromycin": figure}


EXPERIMENT = Experiment(
    title="Constants of an enzyme from measured rates, by its reactions, with intervals",
    question="Do the intervals of a fit through a stiff solver hold the published estimates?",
    source="Bates & Watts, Nonlinear Regression Analysis, 1988 (data of M. Treloar, 1974)",
    run=run,
    draw=draw,
)
