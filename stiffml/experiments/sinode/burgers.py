"""Burgers' equation: steepening fronts, learned through IMEX steps 50 times as long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import problems
import stiffml
from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.experiments.sinode.beside import beside, of_torchdiffeq
from stiffml.experiments.sinode.pictures import draw_burgers
from stiffml.experiments.sinode.results import losses_of, of_ways
from stiffml.experiments.sinode.training import Dense, Setting, Training, Way, Windows, train

if TYPE_CHECKING:
    import xarray

IMEX, EXPLICIT = 0.05, 1e-3
"""Steps, as published."""

EVERY = 0.1
"""Between two snapshots, and the length of a window."""

SHOWN = (0.1, 0.5, 1.0)
"""Times at which a series that was not seen is shown."""


def absolute(difference: Tensor) -> Tensor:
    return difference.abs().mean()


@dataclass(frozen=True)
class Size:
    """Of a form: points, initial conditions and snapshots of each; CPU seconds of the trainings."""

    points: int
    series: int
    snapshots: int
    fine: float
    batch: int
    imex_s: float
    explicit_s: float


SIZES = {
    "quick": Size(64, 10, 10, 0.02, 8, 0.5, 1.0),
    "medium": Size(256, 20, 20, 0.02, 16, 6.0, 12.0),
    "full": Size(512, 50, 50, 0.01, 25, 40.0, 70.0),
}


def run(form: Form, report: Report) -> Outcome:
    size = SIZES[form]
    problem = problems.load("burgers", size=size.points)
    states = generate(problem, size, seed=0)
    seen = size.series * 4 // 5
    training, validation = windows(states[:, :seen]), windows(states[:, seen:])
    few = torch.randperm(len(validation.start), generator=torch.Generator().manual_seed(0))[:64]
    validation = Windows(validation.start[few], validation.end[few], EVERY)
    report(1, 4, f"{len(training.start)} windows of {seen} initial conditions")
    setting = Setting(Dense, size.points * 9 // 8, 0.1, absolute, 1e-3, 0.5, 3, size.batch, 20, 100_000)
    ways = (
        Way("arkimex-4, h = 0.05", "arkimex-4", IMEX, size.imex_s),
        Way("rk4, h = 0.001", "rk4", EXPLICIT, size.explicit_s),
    )
    ended = {}
    for number, way in enumerate(ways, 2):
        ended[way] = train(problem, training, validation, way, setting, partial(report, number - 1, 4))
    data = losses_of(ended).merge(onwards(ended, problem, states[:, seen:]))
    if form != "quick":
        data = data.merge(beside(problem, training, *ways, setting))
    data.attrs.update(
        seeds="0",
        setup=f"{size.points} points, {seen} initial conditions to train on, {size.series - seen} others to "
        f"validate on, {size.snapshots} windows of {EVERY} each, batch {size.batch}",
        unlearned=float(absolute(validation.start - validation.end)),
    )
    report(4, 4, "models from unseen initial conditions")
    return Outcome(data, (*of_ways(data, form), *of_torchdiffeq(data), *of_fronts(data)))


def generate(problem: problems.Problem, size: Size, seed: int) -> Tensor:
    """Snapshots (times, series, 1, points) from random long waves, by short IMEX steps."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(1, 4)[:, None, None]
    heights = 0.3 * rng.normal(size=(3, size.series, 1)) / numbers
    shifts = rng.uniform(0, 2 * np.pi, size=(3, size.series, 1))
    waves = heights * np.sin(2 * np.pi * numbers * problem.grid["x"] + shifts)
    start = torch.from_numpy(waves.sum(axis=0))[:, None]
    return onward(problem.split(), start, size.snapshots, size.fine)


def onward(func: torch.nn.Module, start: Tensor, snapshots: int, h: float) -> Tensor:
    """The states after 0, 1, … snapshots, up to where there are any."""
    times = EVERY * torch.arange(snapshots + 1, dtype=torch.float64)
    how: dict[str, Any] = {"steps": stiffml.Fixed(h), "batch_dims": 1, "linear": stiffml.LU(), "throw": False}
    with torch.no_grad():
        found = stiffml.solve(func, start, times, method="arkimex-4", **how).y
    assert isinstance(found, Tensor)
    return found


def windows(states: Tensor) -> Windows:
    return Windows(states[:-1].flatten(0, 1), states[1:].flatten(0, 1), EVERY)


def onwards(ended: Mapping[Way, Training], problem: problems.Problem, unseen: Tensor) -> xarray.Dataset:
    """The models from initial conditions that were not seen, for as long as they go on."""
    import xarray

    places = [min(round(time / EVERY), len(unseen) - 1) for time in SHOWN]
    states, errors = [], []
    for one in ended.values():
        found = torch.full_like(unseen, torch.nan)
        solved = onward(one.model, unseen[0], len(unseen) - 1, IMEX)
        found[: len(solved)] = solved
        states.append(found[places, 0, 0].numpy())
        errors.append((found - unseen).abs().mean(dim=(1, 2, 3)).numpy())
    names = [way.name for way in ended]
    return xarray.Dataset(
        {
            "state": (
                ("way", "shown_time", "x"),
                np.array(states, dtype=np.float32),
                {"long_name": "u of a model", "units": "1"},
            ),
            "truth": (
                ("shown_time", "x"),
                unseen[places, 0, 0].numpy(),
                {"long_name": "u of the equation", "units": "1"},
            ),
            "error": (
                ("way", "time"),
                np.array(errors),
                {"long_name": "mean error from unseen initial conditions", "units": "1"},
            ),
        },
        {
            "way": names,
            "shown_time": ("shown_time", EVERY * np.array(places), {"long_name": "time", "units": "1"}),
            "time": ("time", EVERY * np.arange(len(unseen)), {"long_name": "time", "units": "1"}),
            "x": ("x", problem.grid["x"], {"long_name": "x", "units": "1"}),
        },
    )


def of_fronts(data: xarray.Dataset) -> list[Finding]:
    place = min(round(1.0 / EVERY), data.sizes["time"] - 1)
    size = float(np.abs(data["truth"].values[0]).mean())
    return [
        Finding(
            f"mean error at t = {data['time'].values[place]:g} from unseen initial conditions: {way}",
            float(data["error"].sel({"way": way}).values[place]) / size,
            "mean of |u|",
            differs="ten windows on, of which the training knows one",
        )
        for way in data["way"].values
    ]


EXPERIMENT = Experiment(
    title="Burgers' equation: a field learned through IMEX steps 50 times as long",
    question="How soon do IMEX steps reach the validation loss that explicit steps reach?",
    source="H. Zhang, Y. Liu & R. Maulik, semi-implicit neural ODEs, arXiv 2412.11301",
    run=run,
    draw=draw_burgers,
    requires=("torchdiffeq",),
)
