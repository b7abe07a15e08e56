"""Continuous normalizing flows: densities of two moons, rings and wines, and what a training step costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray
from torch import Tensor

from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.experiments.flow.data import (
    BATCH,
    COLUMNS,
    DATASETS,
    ROWS,
    Points,
    points,
    shaped_as_miniboone,
)
from stiffml.experiments.flow.model import TRACES, Dynamics, log_density
from stiffml.experiments.flow.pictures import draw
from stiffml.experiments.flow.solvers import CONTINUOUS, OURS, SOLVERS, STEP, TAPE, solver
from stiffml.experiments.flow.training import (
    CELLS,
    EDGE,
    RTOL,
    TIGHT,
    density,
    likelihoods,
    normal_likelihood,
    round_trip,
    samples,
    train,
)
from stiffml.experiments.turns import in_turns

MINIBOONE, SMALLER = f"{COLUMNS} columns, {BATCH} rows", f"{COLUMNS} columns, {ROWS} rows"
SHAPES = {MINIBOONE: BATCH, SMALLER: ROWS}
SLOW = 2
"""Repeats of what takes seconds."""


@dataclass(frozen=True)
class Size:
    """``iterations`` of training by name of the data; ``widths`` of hidden layers, also of what is timed."""

    iterations: dict[str, int]
    points: int
    widths: dict[str, int]
    drawn: int
    timed: tuple[str, ...]
    repeats: int


SIZES: dict[Form, Size] = {
    "quick": Size({"moons": 10}, 100, {"moons": 16}, 50, ("moons",), 1),
    "medium": Size({"moons": 150}, 300, {"moons": 32}, 300, ("moons",), 3),
    "full": Size(
        {"moons": 500, "rings": 500, "wine": 60},
        300,
        {"moons": 48, "rings": 48, "wine": 32, MINIBOONE: 20 * COLUMNS, SMALLER: 2 * COLUMNS},
        500,
        (*DATASETS, *SHAPES),
        5,
    ),
}


def run(form: Form, report: Report) -> Outcome:
    size = SIZES[form]
    work, done = len(size.iterations) + len(size.timed), 0

    def tell(what: str, finished: bool = True) -> None:
        nonlocal done
        done += finished
        report(done, work, what)

    variables: dict[str, tuple] = {}
    findings: list[Finding] = []
    learned: dict[str, tuple[Dynamics, Points]] = {}
    for name, iterations in size.iterations.items():
        data = points(name, size.points)

        def told(what: str, name: str = name) -> None:
            tell(f"{name}: {what}", finished=False)

        dynamics = train(data, size.widths[name], iterations, told)
        learned[name] = dynamics, data
        found, more = judged(name, dynamics, data, size.drawn)
        variables |= found
        findings += more
        tell(f"{name} learned")
    times = {}
    for name in size.timed:
        repeats = SLOW if name == MINIBOONE else size.repeats
        if name in SHAPES:
            torch.manual_seed(0)
            dynamics, x = Dynamics(COLUMNS, size.widths[name]), shaped_as_miniboone(SHAPES[name])
            method = "rk4"
        else:
            (dynamics, data), method = learned[name], "dopri5"
            x = data.seen
        for trace in TRACES:
            times[f"{name}, {trace}"] = of_training_step(dynamics, trace, x, method, repeats)
        tell(f"{name} timed")
    variables["seconds"] = (
        ("case", "solver"),
        [[taken[name] for name in SOLVERS] for taken in times.values()],
        {"long_name": "CPU time of a training step", "units": "s"},
    )
    result = xarray.Dataset(
        variables,
        coords={"case": list(times), "solver": list(SOLVERS)},
        attrs={
            "seeds": "0: weights, data, noise of traces; 1: samples",
            "tolerances": f"rtol = atol: {RTOL:g} in training and timing, {TIGHT:g} in what is reported",
            "precision": "float64; the weights of 43 columns are those of the start",
        },
    )
    return Outcome(result, (*findings, *of_times(times)))


def judged(name: str, dynamics: Dynamics, data: Points, drawn: int) -> tuple[dict[str, tuple], list[Finding]]:
    """Samples and density of a flow, how likely it finds unseen points, and whether it can be inverted."""
    by = likelihoods(dynamics, data.unseen, TIGHT)
    loose = likelihoods(dynamics, data.unseen, RTOL)
    found: dict[str, tuple] = {}
    for what, table in (
        ("data", data.seen.numpy()),
        ("samples", samples(dynamics, drawn, data.seen.shape[1])),
    ):
        attributes = {"long_name": f"{name}: {what}, scaled to mean 0, deviation 1", "units": "1"}
        found[f"{name}_{what}"] = ((f"{name}_{what}_row", f"{name}_column"), table, attributes)
    likelihood = Finding(
        f"mean log-likelihood of unseen points, {name}",
        float(by[OURS].mean()),
        "nat",
        differs=f"the normal distribution that fits best has {normal_likelihood(data):.3f}",
    )
    findings = [
        likelihood,
        *(of_likelihoods(name, *case) for case in ((loose, RTOL), (by, TIGHT))),
        Finding(f"largest error of a round trip, {name}, rtol {TIGHT:g}", round_trip(dynamics, data.unseen)),
    ]
    if data.seen.shape[1] == 2:
        values = density(dynamics)
        told = {"long_name": f"{name}: density", "units": "1", "edge": EDGE}
        found[f"{name}_density"] = (("vertical", "horizontal"), values, told)
        mass = float(values.sum() * (2 * EDGE / CELLS) ** 2)
        findings.append(Finding(f"integral of the density over the square shown, {name}", mass))
    return found, findings


def of_likelihoods(name: str, by: dict[str, np.ndarray], rtol: float) -> Finding:
    off = by[OURS] - by[TAPE]
    single = np.abs(off)
    return Finding(
        f"difference of the mean log-likelihood from torchdiffeq's, {name}, rtol {rtol:g}",
        abs(float(off.mean())),
        "nat",
        at_most=0.02,
        differs=f"that of a point is {single.mean():.2g} in the mean, {single.max():.2g} at most",
    )


def of_training_step(learned: Dynamics, trace: str, x: Tensor, method: str, repeats: int) -> dict[str, float]:
    """CPU time of a loss and its gradient, by solver, in turns."""
    dynamics = Dynamics(x.shape[1], learned.hidden, trace, len(x))
    dynamics.load_state_dict(learned.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(0)

    def differentiate(name: str) -> None:
        dynamics.draw_noise(generator)
        dynamics.zero_grad()
        (-log_density(dynamics, x, solver(name, method, RTOL)).mean()).backward()

    return in_turns({name: partial(differentiate, name) for name in SOLVERS}, repeats)


def of_times(times: dict[str, dict[str, float]]) -> list[Finding]:
    found = []
    for case, taken in times.items():
        for other, limit in ((TAPE, 1.0), (CONTINUOUS, 0.5)):
            ratio = taken[OURS] / taken[other]
            why = [told for name, told in SHAPE.items() if case.startswith(name)]
            if ratio > limit:
                why.append(WHY_MISSED[other])
            what = f"time of a training step relative to {other}, {case} trace"
            found.append(Finding(what, ratio, at_most=limit, differs="; ".join(why)))
    return found


SHAPE = {
    MINIBOONE: f"MINIBOONE's shape and network, {20 * COLUMNS} hidden units; rk4, steps of {STEP}",
    SMALLER: f"{2 * COLUMNS} hidden units in place of {20 * COLUMNS}, so that calls cost little; rk4, steps "
    f"of {STEP}",
}
WHY_MISSED = {
    TAPE: "f is called as often, but stiffml searches the graph of each call for tensors that it does not "
    "know, and runs torch's backward pass once for each call, where a tape runs it once",
    CONTINUOUS: "an adjoint that solves backwards calls f twice as often, but differentiates it as often: "
    "where a call costs 1 and its derivative 2, that is 4 beside 3; what is above 0.75 are the costs that a "
    "backward pass of torch for each call has beside odeint's",
}

EXPERIMENT = Experiment(
    title="Continuous normalizing flows",
    question="Does a flow that is trained through explicit steps give densities like torchdiffeq's, "
    "samples like the data and a map that can be inverted, and what does a training step cost?",
    source="Zhang & Zhao, arXiv 2206.01298: MINIBOONE and others; Grathwohl et al., arXiv 1810.01367",
    run=run,
    draw=draw,
    requires=("sklearn", "torchdiffeq"),
)
