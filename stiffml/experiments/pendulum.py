"""A pendulum as a differential-algebraic system: its motion learned under a known constraint, then that.

The set-up of Zhang & Zhao, arXiv 2206.01298 (pendulum of index 1): position, velocity and the rod's tension,
M = diag(1, 1, 1, 1, 0), with 0 = λ (x² + y²) + g y − (vx² + vy²). There 5 steps of Crank-Nicolson to 0.5 s,
which were the truth as well; here observations of the exact motion, steps finer than they are, and every
number at times that nothing was fitted to.

First a network is the motion's right-hand side and the constraint is given. Then the motion is given, and a
network is the tension: no tension is ever observed, only positions and velocities.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
import xarray
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from stiffml import Grid
from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.plotting import Figure, series, styled
from stiffml.training import LevenbergMarquardt, Result, Run, Runs, Whole, fit

GRAVITY = 9.81
COMPONENTS = ("x", "y", "vx", "vy", "tension")
SPEED, TENSION = (2 * GRAVITY) ** 0.5, 3 * GRAVITY
SCALE = np.array([1.0, 1.0, SPEED, SPEED, TENSION])
"""The largest values of the components: of a rod of length 1 and mass 1, released from the horizontal."""
SIZES = torch.from_numpy(SCALE)
RATES = torch.tensor([SPEED, SPEED, TENSION, TENSION], dtype=torch.float64)
"""In whose units a network gives velocities and accelerations."""
MASS = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
END, SUBSTEPS = 0.5, 2
OBSERVATIONS = {"quick": 10, "medium": 20, "full": 20}
SEEDS = {"quick": 1, "medium": 1, "full": 3}
WIDTHS = {"quick": (8,), "medium": (10, 10), "full": (10, 10)}
TARGET = {"quick": (1e-4, 3e-4), "medium": (1e-5, 3e-6), "full": (1e-5, 3e-6)}
"""Of the fits of the motion and of the tension, which is seen by its effects alone and needs closer ones."""


def constraint(y: Tensor) -> Tensor:
    """0 where the rod keeps its length: y (…, 5) -> (…)."""
    x, height, vx, vy, tension = y.unbind(-1)
    return tension * (x**2 + height**2) + GRAVITY * height - (vx**2 + vy**2)


def network(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    """GELU between layers without biases, weights N(0, 0.3²)."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.normal_(0, 0.3, generator=generator)
        layers += [layer, nn.GELU()]
    return nn.Sequential(*layers[:-1])


class LearnedMotion(nn.Module):
    """Velocities and accelerations by a network, the constraint as it is."""

    def __init__(self, hidden: tuple[int, ...], seed: int) -> None:
        super().__init__()
        self.network = network((5, *hidden, 4), seed)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        motion = RATES * self.network(y / SIZES)
        return torch.cat([motion, constraint(y)[..., None]], dim=-1)


class LearnedTension(nn.Module):
    """The motion as it is, and 0 = λ − network(x, y, vx, vy)."""

    def __init__(self, hidden: tuple[int, ...], seed: int) -> None:
        super().__init__()
        self.network = network((4, *hidden, 1), seed)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, height, vx, vy, tension = y.unbind(-1)
        learned = TENSION * self.network(y[..., :4] / SIZES[:4])[..., 0]
        return torch.stack([vx, vy, -x * tension, -height * tension - GRAVITY, tension - learned], dim=-1)


MODELS = {"motion": LearnedMotion, "tension": LearnedTension}


def motion(times: np.ndarray) -> np.ndarray:
    """The exact motion (len(times), 5), by its angle below the horizontal: θ'' = g cos θ."""
    found = solve_ivp(
        lambda t, y: [y[1], GRAVITY * np.cos(y[0])],
        (0, END),
        [0.0, 0.0],
        method="DOP853",
        t_eval=times,
        rtol=1e-13,
        atol=1e-13,
    )
    angle, speed = found.y
    x, y = np.cos(angle), -np.sin(angle)
    return np.stack([x, y, speed * y, -speed * x, speed**2 - GRAVITY * y], axis=-1)


def trajectory(count: int, name: str, is_tension_seen: bool = True) -> Runs:
    """The motion at ``count`` even times after the start, as a run."""
    times = np.linspace(0, END, count + 1)
    y = motion(times)
    if not is_tension_seen:
        y[1:, 4] = np.nan
    return Runs([Run(name, times, y)], list(COMPONENTS), time_units="s", initial="known")


def fitted(what: str, form: Form, seed: int) -> Result:
    """The fit of one of MODELS, by Levenberg-Marquardt; other weights follow where a seed gets stuck."""
    model = MODELS[what]
    return fit(
        lambda seed: model(WIDTHS[form], seed),
        trajectory(OBSERVATIONS[form], "seen", is_tension_seen=what == "motion"),
        method="sdirk3",
        steps=Grid(SUBSTEPS),
        mass=MASS,
        make_consistent=what == "tension",
        scale=SCALE,
        strategy=Whole() if what == "tension" else None,
        levenberg_marquardt=LevenbergMarquardt(ridge=1e-5 if what == "tension" else 1e-4),
        target=TARGET[form][what == "tension"],
        attempts=3,
        seed=seed,
    )


def run(form: Form, report: Report) -> Outcome:
    unseen = trajectory(100, "unseen")
    reference, times = unseen[0].values, unseen[0].times
    seeds = range(SEEDS[form])
    solved = np.full((len(MODELS), len(seeds), len(times), 5), np.nan)
    jobs = list(itertools.product(enumerate(MODELS), seeds))
    for done, ((row, what), seed) in enumerate(jobs, 1):
        solved[row, seed] = fitted(what, form, seed).resolved(unseen)[0].y
        report(done, len(jobs), f"{what}, seed {seed}")
    errors = np.abs(solved - reference) / SCALE
    residuals = np.abs(constraint(torch.from_numpy(solved)).numpy()) / TENSION
    units = {"units": "1"}
    data = xarray.Dataset(
        {
            "solved": (("learned", "seed", "time", "component"), solved, {"long_name": "the model", **units}),
            "reference": (("time", "component"), reference, {"long_name": "exact motion", **units}),
            "error": (
                ("learned", "seed", "time", "component"),
                errors,
                {"long_name": "distance from the exact motion over the largest value", **units},
            ),
            "residual": (
                ("learned", "seed", "time"),
                residuals,
                {"long_name": "residual of the constraint over the largest tension", **units},
            ),
        },
        {"learned": list(MODELS), "seed": list(seeds), "time": times, "component": list(COMPONENTS)},
        attrs={"observations": OBSERVATIONS[form], "steps_between": SUBSTEPS, "method": "sdirk3"},
    )
    data["time"].attrs.update(long_name="time", units="s")
    return Outcome(data, findings(data, form))


def findings(data: xarray.Dataset, form: Form) -> tuple[Finding, ...]:
    """The worst seed of each number."""
    limit = 1e-3 if form != "quick" else None
    motion, tension = (data["error"].sel(learned=learned) for learned in MODELS)
    residuals = data["residual"].max(["seed", "time"])
    differs = (
        f"{OBSERVATIONS[form]} observations of the exact motion for 5 of Crank-Nicolson at h = 0.1; networks "
        f"with hidden layers of {' and '.join(map(str, WIDTHS[form]))} for 4 of 10"
    )
    last = "worst at the last time: what a tension does there, nothing that is seen shows"
    return (
        Finding(
            "constraint known: its residual at 100 unseen times, worst seed",
            float(residuals.sel(learned="motion")),
            at_most=1e-8,
        ),
        Finding(
            "constraint known: error at 100 unseen times, worst component, worst seed",
            float(motion.max()),
            at_most=limit,
            differs=differs,
        ),
        Finding(
            "constraint learned: error of positions and velocities, worst seed",
            float(tension.isel(component=slice(4)).max()),
            at_most=limit,
            differs=differs,
        ),
        Finding(
            "constraint learned: error of the tension, which is never observed, worst seed",
            float(tension.isel(component=4).max()),
            at_most=limit,
            differs=last,
        ),
        Finding(
            "constraint learned: error of the tension, median of seeds",
            float(tension.isel(component=4).max("time").median()),
        ),
        Finding(
            "constraint learned: residual of the true constraint, worst seed",
            float(residuals.sel(learned="tension")),
            differs=last,
        ),
    )


def draw(data: xarray.Dataset) -> Mapping[str, Figure]:
    """The components over time, and the errors of both models."""
    time, seen = data["time"].values, slice(None, None, 100 // data.attrs["observations"])
    with styled():
        figure = Figure(figsize=(9, 3.8))
        left, right = figure.subplots(1, 2)
        for place, component in enumerate(COMPONENTS):
            line = {**series(place), "marker": ""}
            left.plot(time, data["solved"].values[0, 0, :, place] / SCALE[place], label=component, **line)
            points = {**series(place), "ls": "", "mfc": "none", "ms": 4}
            left.plot(time[seen], data["reference"].values[seen, place] / SCALE[place], **points)
        left.set(xlabel="time (s)", ylabel="value over its largest", title="motion learned; marks: data")
        left.legend(ncols=2, fontsize=8)
        for place, learned in enumerate(data["learned"].values):
            errors = data["error"].sel(learned=learned).max("component").values
            for number, values in enumerate(errors):
                label = f"{learned} learned" if number == 0 else None
                line = {**series(place), "marker": "", "lw": 1}
                right.semilogy(time[1:], np.maximum(values[1:], 1e-9), label=label, **line)
        right.set(
            xlabel="time (s)", ylabel="error over the largest value", title="worst component, each seed"
        )
        right.legend()
    return {"pendulum": figure}


EXPERIMENT = Experiment(
    title="A pendulum's motion learned under an exact constraint, and its constraint learned",
    question="Does a neural network inside a differential-algebraic system keep the constraint, and can the "
    "constraint itself be learned where its force is never observed?",
    source="Zhang & Zhao, arXiv 2206.01298, pendulum of index 1",
    run=run,
    draw=draw,
)
