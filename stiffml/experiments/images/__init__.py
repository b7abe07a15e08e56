"""Handwritten digits, read by networks with an ODE inside; what its gradient costs by eleven ways."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray

from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.experiments.images.costs import Cost, costs
from stiffml.experiments.images.data import digits
from stiffml.experiments.images.memory import METHOD, peaks
from stiffml.experiments.images.networks import Convolutions, SqueezeNext
from stiffml.experiments.images.pictures import draw
from stiffml.experiments.images.training import BATCH, STEPS, train
from stiffml.experiments.images.ways import ACA, ACCURATE, CONTINUOUS, KEPT, MALI, ways

DYNAMICS = {"convolutions": Convolutions, "SqueezeNext": SqueezeNext}
METHODS = tuple(STEPS)
WANTED = {8: 0.98, 28: 0.97}
"""Accuracy, by pixels a side."""


@dataclass(frozen=True)
class Size:
    """How much of it a form does.

    Parameters
    ----------
    trained : tuple
        Pixels a side, dynamics and method of each training; costs are those of the last network.
    epochs : dict
        By pixels a side.
    limit : int or None
        At most so many images are used.
    compared : tuple
        Methods of which all ways are compared.
    steps : tuple
        Numbers of equal steps of rk4.
    measured : tuple
        Ways whose memory is measured.
    batch, repeats : int
        Images in a training step whose costs are measured, and how often.
    """

    trained: tuple[tuple[int, str, str], ...]
    epochs: dict[int, int]
    limit: int | None
    compared: tuple[str, ...]
    steps: tuple[int, ...]
    measured: tuple[str, ...]
    batch: int
    repeats: int


CONVOLUTIONAL = "convolutions"
SIZES: dict[Form, Size] = {
    "quick": Size(((8, CONVOLUTIONAL, "rk4"),), {8: 1}, 200, ("rk4",), (2,), ("2 states",), 4, 1),
    "medium": Size(
        ((8, CONVOLUTIONAL, "rk4"),), {8: 10}, None, ("rk4",), (1, 4), ("stages", "2 states", ACA), 16, 1
    ),
    "full": Size(
        (
            (8, "SqueezeNext", "rk4"),
            *((side, CONVOLUTIONAL, method) for side in WANTED for method in ("euler", "dopri5", "rk4")),
        ),
        {8: 20, 28: 30},
        None,
        METHODS,
        (1, 2, 4, 8, 16, 32),
        ways(),
        64,
        3,
    ),
}


def run(form: Form, report: Report) -> Outcome:
    size = SIZES[form]
    work = len(size.trained) + len(size.compared) + len(size.steps) + len(size.measured)
    done = 0

    def tell(what: str, finished: bool = True) -> None:
        nonlocal done
        done += finished
        report(done, work, what)

    accuracies = {}
    for side, dynamics, method in size.trained:
        case, data = f"{side}×{side}, {dynamics}, {method}", digits(side, size.limit)

        def told(what: str, case: str = case) -> None:
            tell(f"{case}: {what}", finished=False)

        found = train(data, DYNAMICS[dynamics], method, size.epochs[side], told)
        accuracies[case], model = found.accuracy, found.model
        tell(case)

    by_method, by_steps = {}, {}
    for method in size.compared:
        by_method[method] = costs(model, data, size.batch, method, STEPS[method], size.repeats, thorough=True)
        tell(f"costs of {method}")
    for steps in size.steps:
        repeats = size.repeats if steps <= 4 else 1
        by_steps[steps] = costs(model, data, size.batch, METHOD, steps, repeats)
        tell(f"costs of {steps} steps")
    memory = {}
    for way in size.measured:
        memory[way] = peaks(way, size.steps, size.batch)
        tell(f"memory of {way}")

    result = dataset(size, accuracies, by_method, by_steps, memory)
    return Outcome(result, (*of_accuracy(size, accuracies), *of_costs(by_method), *of_memory(result)))


def dataset(
    size: Size,
    accuracies: dict[str, list[float]],
    by_method: dict[str, dict[str, Cost]],
    by_steps: dict[int, dict[str, Cost]],
    memory: dict[str, list[int]],
) -> xarray.Dataset:
    epochs = max(map(len, accuracies.values()))
    curves = [[*curve, *[math.nan] * (epochs - len(curve))] for curve in accuracies.values()]
    nothing = Cost(math.nan, -1, -1, math.nan, -1)
    unmeasured = [math.nan] * len(size.steps)

    def table(name: str, tables: list[dict[str, Cost]]) -> np.ndarray:
        return np.array([[getattr(costs.get(way, nothing), name) for costs in tables] for way in ways()])

    def costs_of(suffix: str, over: str, tables: list[dict[str, Cost]], told: str) -> dict[str, tuple]:
        names = {
            "seconds": ("CPU time of a training step", "s"),
            "forward": ("calls of f in the forward pass", "1"),
            "backward": ("calls of f in the backward pass", "1"),
            "error": ("relative error of the gradient against torch's tape in double precision", "1"),
            "steps_taken": ("steps, 0 for adaptive ones", "1"),
        }
        return {
            f"{name}_{suffix}": (
                ("way", over),
                table(name.removesuffix("_taken"), tables),
                {"long_name": f"{long_name}, {told}", "units": units},
            )
            for name, (long_name, units) in names.items()
        }

    return xarray.Dataset(
        {
            "accuracy": (
                ("case", "epoch"),
                curves,
                {"long_name": "share of unseen images that are told right", "units": "1"},
            ),
            **costs_of("by_method", "method", list(by_method.values()), "at the steps of the training"),
            **costs_of("by_steps", "steps", list(by_steps.values()), f"equal steps of {METHOD}"),
            "peak": (
                ("way", "steps"),
                [memory.get(way, unmeasured) for way in ways()],
                {"long_name": f"peak growth of the process, equal steps of {METHOD}", "units": "byte"},
            ),
        },
        coords={
            "case": list(accuracies),
            "epoch": np.arange(1, epochs + 1),
            "way": list(ways()),
            "method": list(by_method),
            "steps": list(by_steps),
        },
        attrs={
            "seeds": "0: weights, batches, how images are moved, and which images are held back",
            "batch": f"{BATCH} images in training, {size.batch} where costs are measured",
            "block": "T = 1, states of 16 channels: 8×8 for images of 8×8, 7×7 for those of 28×28",
            "precision": "float32",
            "memory": "each way in a process of its own, growth of VmHWM over VmRSS before; states of 7×7",
        },
    )


def of_accuracy(size: Size, accuracies: dict[str, list[float]]) -> list[Finding]:
    found = []
    for (side, dynamics, _), (case, curve) in zip(size.trained, accuracies.items(), strict=True):
        bounded = size.epochs[side] >= 8 and size.limit is None and dynamics == CONVOLUTIONAL
        wanted = WANTED[side] if bounded else None
        differs = "digits and a small network in place of CIFAR-10 and 200 epochs"
        if wanted is not None and curve[-1] < wanted:
            differs += f"; {size.epochs[side]} epochs of a network of 16 channels"
        what = f"accuracy on unseen digits, {case}"
        found.append(Finding(what, curve[-1], at_least=wanted, differs=differs))
    return found


def of_costs(by_method: dict[str, dict[str, Cost]]) -> list[Finding]:
    """Times relative to the vanilla neural ODE and to the best that is accurate, and errors of gradients."""
    found = []
    for method, of in by_method.items():
        mine = min((way for way in of if way in KEPT), key=lambda way: of[way].seconds)
        best = min((way for way in of if way in ACCURATE), key=lambda way: of[way].seconds)
        calls = {way: f"{of[way].forward} + {of[way].backward}" for way in (mine, CONTINUOUS, best)}
        for other, limit, published in (
            (CONTINUOUS, 1 / 2, "up to 2 times faster than the vanilla neural ODE"),
            (best, 1 / 2.3, "up to 2.3 times faster than the best other reverse-accurate method"),
        ):
            found.append(
                Finding(
                    f"time of a training step, {method}: stiffml ({mine}) relative to {other}",
                    of[mine].seconds / of[other].seconds,
                    at_most=limit,
                    published=published,
                    differs="a processor, where convolutions take the time: calls of f forwards + backwards "
                    f"are {calls[mine]} here and {calls[other]} there, and each is differentiated once in "
                    "either; stiffml adds up states in double precision, which a float32 network pays for",
                )
            )
        errors = [of[way].error for way in of if way in KEPT]
        if not math.isnan(max(errors)):
            found += [
                Finding(f"largest relative error of stiffml's gradients, {method}", max(errors)),
                Finding(f"relative error of the gradient of {CONTINUOUS}, {method}", of[CONTINUOUS].error),
            ]
        found.append(Finding(f"steps of {MALI} for the error of {method}", of[MALI].steps))
    return found


def of_memory(data: xarray.Dataset) -> list[Finding]:
    """Peak memory at the largest number of steps, and relative to each other way that is accurate."""
    last = data.steps.values[-1]
    peaks = data.peak.sel(steps=last).dropna("way") / 1e6
    mine = min((way for way in peaks.way.values if way in KEPT), key=lambda way: float(peaks.sel(way=way)))
    lowest = float(peaks.sel(way=mine))
    found = [Finding(f"peak memory, {last} steps of {METHOD}: stiffml ({mine})", lowest, "MB")]
    for other in ACCURATE:
        if other in peaks.way:
            found.append(
                Finding(
                    f"peak memory, {last} steps of {METHOD}: stiffml ({mine}) relative to {other}",
                    lowest / float(peaks.sel(way=other)),
                    at_most=1.0,
                    published="highest memory efficiency among reverse-accurate methods",
                    differs="a step of MALI records one call of f, one of rk4 four; and stiffml's states are "
                    "in double precision, those of the others in float32",
                )
            )
    return found


EXPERIMENT = Experiment(
    title="Image classification by neural ODEs",
    question="Do networks with an ODE inside learn to read digits by explicit methods, and what do exact "
    "gradients cost in time and memory, beside other ways to them?",
    source="Zhang & Zhao, arXiv 2206.01298: CIFAR-10 by a SqueezeNext with four ODE blocks",
    run=run,
    draw=draw,
    requires=("sklearn", "mlxtend", "torchdiffeq"),
)
