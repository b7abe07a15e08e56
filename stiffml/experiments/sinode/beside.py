"""The same explicit iterations by torchdiffeq: their time, and how far gradients are apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import problems
from stiffml.experiments.experiment import Finding
from stiffml.experiments.sinode.training import Setting, Way, Windows, field, solved
from stiffml.experiments.turns import in_turns

if TYPE_CHECKING:
    import xarray

TAPE, CONTINUOUS = OTHERS = ("odeint", "odeint_adjoint")
REPEATS = 2
RULE = "torchdiffeq's rk4 is the rule of three eighths, stiffml's the classical one"


def by_torchdiffeq(name: str, model: nn.Module, start: Tensor, length: float, h: float) -> Tensor:
    """The states (samples, 1, points) after ``length``, by rk4."""
    import torchdiffeq

    times = torch.tensor([0.0, length], dtype=torch.float64)
    end: Tensor = getattr(torchdiffeq, name)(model, start, times, method="rk4", options={"step_size": h})[-1]
    return end


def beside(
    problem: problems.Problem, training: Windows, imex: Way, explicit: Way, setting: Setting
) -> xarray.Dataset:
    """CPU times of an iteration, from the first weights on one batch, in turns."""
    import xarray

    model = field(problem, setting)
    start, end = training.start[: setting.batch], training.end[: setting.batch]
    length = training.length
    solvers: dict[str, Callable[[], Tensor]] = {
        way.name: partial(solved, model, start, length, way.method, way.h) for way in (imex, explicit)
    }
    for name in OTHERS:
        solvers[f"torchdiffeq, {name}"] = partial(by_torchdiffeq, name, model, start, length, explicit.h)
    gradients: dict[str, Tensor] = {}

    def iteration(name: str) -> None:
        model.zero_grad()
        setting.loss(solvers[name]() - end).backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    taken = in_turns({name: partial(iteration, name) for name in solvers}, REPEATS)
    exact = gradients[explicit.name]
    off = [float((one - exact).norm() / exact.norm()) for one in gradients.values()]
    about = {"long_name": "CPU time of an iteration without the optimizer's step", "units": "s"}
    return xarray.Dataset(
        {
            "turn_s": ("solver", [taken[name] for name in solvers], about),
            "turn_off": (
                "solver",
                off,
                {
                    "long_name": f"relative difference from the gradient by {explicit.name}",
                    "units": "1",
                },
            ),
        },
        {"solver": list(solvers)},
    )


def of_torchdiffeq(data: xarray.Dataset) -> list[Finding]:
    if "solver" not in data.dims:
        return []
    imex, explicit, *others = (str(name) for name in data["solver"].values)
    seconds = dict(zip(data["solver"].values, data["turn_s"].values.tolist(), strict=True))
    tape = next(name for name in others if name.endswith(TAPE))
    return [
        *(
            Finding(
                f"CPU time of an iteration by {other}, the same steps, over that by {imex}",
                seconds[other] / seconds[imex],
            )
            for other in others
        ),
        Finding(
            f"CPU time of an iteration by stiffml, {explicit}, over that by {tape}",
            seconds[explicit] / seconds[tape],
        ),
        Finding(
            f"relative difference of gradients: {tape} and stiffml, {explicit}",
            float(data["turn_off"].sel({"solver": tape})),
            differs=RULE,
        ),
    ]
