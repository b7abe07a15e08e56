"""A drug in the blood of twelve people: rate constants from measured data, with intervals.

Theophylline was given by mouth, and its concentration in serum measured eleven times in a day (R. Upton; in
Davidian & Giltinan, Nonlinear Models for Repeated Measurement Data, 1995, and as Theoph in R). The drug is
absorbed from the gut at a rate ka and removed at a rate ke = CL/V:

    G' = −ka G,    C' = ka G / V − ke C,    G(0) = dose per kg of body weight

Not stiff, so that an explicit method of order 8 suits: a control. The fit by sensitivities through the solver
is held against Bateman's formula for C and scipy's curve_fit, which need no solver.
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

DOSES = (4.02, 4.40, 4.53, 4.40, 5.86, 4.00, 4.95, 4.53, 3.10, 5.50, 4.92, 5.30)
"""mg per kg of body weight."""
MEASURED = """
0 0.74 0.25 2.84 0.57 6.57 1.12 10.5 2.02 9.66 3.82 8.58 5.1 8.36 7.03 7.47 9.05 6.89 12.12 5.94 24.37 3.28
0 0 0.27 1.72 0.52 7.91 1 8.31 1.92 8.33 3.5 6.85 5.02 6.08 7.03 5.4 9 4.55 12 3.01 24.3 0.9
0 0 0.27 4.4 0.58 6.9 1.02 8.2 2.02 7.8 3.62 7.5 5.08 6.2 7.07 5.3 9 4.9 12.15 3.7 24.17 1.05
0 0 0.35 1.89 0.6 4.6 1.07 8.6 2.13 8.38 3.5 7.54 5.02 6.88 7.02 5.78 9.02 5.33 11.98 4.19 24.65 1.15
0 0 0.3 2.02 0.52 5.63 1 11.4 2.02 9.33 3.5 8.74 5.02 7.56 7.02 7.09 9.1 5.9 12 4.37 24.35 1.57
0 0 0.27 1.29 0.58 3.08 1.15 6.44 2.03 6.32 3.57 5.53 5 4.94 7 4.02 9.22 3.46 12.1 2.78 23.85 0.92
0 0.15 0.25 0.85 0.5 2.35 1.02 5.02 2.02 6.58 3.48 7.09 5 6.66 6.98 5.25 9 4.39 12.05 3.53 24.22 1.15
0 0 0.25 3.05 0.52 3.05 0.98 7.31 2.02 7.56 3.53 6.59 5.05 5.88 7.15 4.73 9.07 4.57 12.1 3 24.12 1.25
0 0 0.3 7.37 0.63 9.03 1.05 7.14 2.02 6.33 3.53 5.66 5.02 5.67 7.17 4.24 8.8 4.11 11.6 3.16 24.43 1.12
0 0.24 0.37 2.89 0.77 5.22 1.02 6.41 2.05 7.83 3.55 10.21 5.05 9.18 7.08 8.02 9.38 7.14 12.1 5.68 23.7 2.42
0 0 0.25 4.86 0.5 7.24 0.98 8 1.98 6.81 3.6 5.87 5.02 5.22 7.03 4.45 9.03 3.62 12.12 2.69 24.08 0.86
0 0 0.25 1.25 0.5 3.96 1 7.82 2 9.72 3.52 9.75 5.07 8.57 7.07 6.59 9.03 6.11 12.05 4.57 24.15 1.17
"""
"""A line a person: time in h, concentration in mg/L, and so on."""

NAMES = ("ln ka", "ln ke", "ln CL")
TYPICAL = (0.4, -2.5, -3.2)
"""Where every fit begins: of 1/h, 1/h, L/h per kg."""
PEOPLE: dict[str, int] = {"quick": 2, "medium": 12, "full": 12}


class OneCompartment(nn.Module):
    """The drug in the gut, in mg/kg, and its concentration in the blood, in mg/L."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.tensor(TYPICAL, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        ka, ke, clearance = self.logs.exp()
        gut, blood = y.unbind(-1)
        absorbed = ka * gut
        return torch.stack([-absorbed, absorbed * ke / clearance - ke * blood], dim=-1)


def measured(person: int) -> tuple[np.ndarray, np.ndarray]:
    """Times in h and concentrations in mg/L, without that at the dose, which no model explains."""
    numbers = np.array(MEASURED.split("\n")[1 + person].split(), dtype=float).reshape(-1, 2)
    return numbers[1:, 0], numbers[1:, 1]


def bateman(dose: float, times: np.ndarray, *logs: float) -> np.ndarray:
    """The concentration by the closed formula."""
    ka, ke, clearance = np.exp(logs)
    return dose * ka * ke / clearance / (ka - ke) * (np.exp(-ke * times) - np.exp(-ka * times))


def fitted(person: int) -> Result:
    """The rate constants of a person by least squares through the solver."""
    times, values = measured(person)
    y = np.full((len(times) + 1, 2), np.nan)
    y[0], y[1:, 1] = (DOSES[person], 0.0), values
    run = Run(f"person {person + 1}", np.concatenate([[0.0], times]), y)
    runs = Runs([run], ["gut", "blood"], units=["mg/kg", "mg/L"], time_units="h", initial="known")
    return least_squares(OneCompartment(), runs, method="verner8", scale=1.0, rtol=1e-9)


def run(form: Form, report: Report) -> Outcome:
    people = PEOPLE[form]
    found, widths, formula, formula_widths = (np.empty((people, 3)) for _ in range(4))
    for person in range(people):
        result = fitted(person)
        covariance_found = result.covariance
        assert covariance_found is not None
        found[person], widths[person] = covariance_found.values, covariance_found.errors
        times, values = measured(person)
        dose = DOSES[person]
        formula[person], covariance = curve_fit(
            lambda t, *logs, dose=dose: bateman(dose, t, *logs), times, values, TYPICAL
        )
        formula_widths[person] = np.sqrt(np.diag(covariance))
        report(person + 1, people, f"person {person + 1}")
    off = float((np.abs(found - formula) / formula_widths).max())
    wide = float(np.abs(widths / formula_widths - 1).max())
    dims = ("person", "constant")
    data = xarray.Dataset(
        {
            "fitted": (dims, found, {"long_name": "by sensitivities through the solver", "units": "1"}),
            "standard_error": (dims, widths, {"long_name": "standard error", "units": "1"}),
            "formula": (dims, formula, {"long_name": "by curve_fit of Bateman's formula", "units": "1"}),
        },
        {"person": np.arange(1, people + 1), "constant": list(NAMES)},
    )
    mean = found.mean(axis=0)
    published = {"ln ka": 0.45, "ln ke": -2.43, "ln CL": -3.21}
    spread = found.std(axis=0, ddof=1) / np.sqrt(people)
    findings = [
        Finding("largest distance from the fit of the formula, in standard errors", off, at_most=1e-2),
        Finding("largest difference of standard errors, relative", wide, at_most=1e-2),
    ]
    for number, name in enumerate(NAMES):
        findings.append(
            Finding(
                f"{name}: distance of the mean of {people}, {mean[number]:.2f}, from that published",
                float(abs(mean[number] - published[name]) / spread[number]),
                "standard errors",
                at_most=2.0 if people > 2 else None,
                published=f"{published[name]}, by a mixed-effects model of all twelve",
                differs="each person by itself here, all together with random effects there",
            )
        )
    return Outcome(data, tuple(findings))


def draw(data: xarray.Dataset) -> Mapping[str, Figure]:
    """Measured and fitted concentrations of each person."""
    people = data.sizes["person"]
    with styled():
        figure = Figure(figsize=(9, 6 if people > 4 else 2.6))
        panels = figure.subplots(-(-people // 4), min(people, 4), sharex=True, sharey=True, squeeze=False)
        fine = np.linspace(0, 25, 200)
        for person, panel in zip(range(people), panels.flat, strict=False):
            logs = data["fitted"].values[person]
            panel.plot(fine, bateman(DOSES[person], fine, *logs), color=series(1)["color"])
            panel.plot(*measured(person), "o", mfc="none", color=series(0)["color"], ms=4)
            panel.set_title(f"person {person + 1}", fontsize=9)
        for panel in panels[-1]:
            panel.set_xlabel("time [h]")
        for panel in panels[:, 0]:
            panel.set_ylabel("theophylline [mg/L]", fontsize=9)
    return {"theophylline": figure}


EXPERIMENT = Experiment(
    title="Rate constants of a drug from measured concentrations, with intervals",
    question="Do fits through the solver give the estimates and the intervals that a closed formula gives?",
    source="Davidian & Giltinan 1995 (data of R. Upton); Pinheiro & Bates, Mixed-Effects Models, 2000",
    run=run,
    draw=draw,
)
