"""Training the nonlinear part of a partial differential equation, through IMEX steps or explicit ones.

The semi-implicit neural ODE: u_t = L u + network(u). L, the highest derivatives, is known, linear and stiff;
IMEX methods take it implicitly, with one factorisation for all steps and samples, and the network explicitly.
Both ways train the same network from the same weights on the same batches. Only the steps differ.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import problems
import stiffml


@dataclass(frozen=True)
class Way:
    """A method, the length of its steps, and for how many CPU seconds it trains."""

    name: str
    method: str
    h: float
    seconds: float


@dataclass(frozen=True)
class Windows:
    """Pairs of states (samples, 1, points) that lie ``length`` apart in time."""

    start: Tensor
    end: Tensor
    length: float


@dataclass(frozen=True)
class Setting:
    """How a network is trained.

    Parameters
    ----------
    network : callable
        (points, setting) -> the module.
    width : int
        Of its hidden layers.
    deviation : float
        Of the first weights; biases start at zero.
    loss : callable
        Of the difference at the end of the windows.
    learning_rate, factor : float
        AdamW's, and by what it is multiplied where the validation loss stands still for ``patience`` looks.
    batch, check_every, seed : int
        Windows of an iteration, iterations between looks at the validation loss
        (at first: each).
    most : int
        Iterations at most.
    """

    network: Callable[[int, Setting], nn.Module]
    width: int
    deviation: float
    loss: Callable[[Tensor], Tensor]
    learning_rate: float
    factor: float
    patience: int
    batch: int
    check_every: int
    most: int
    seed: int = 0


class Dense(nn.Module):
    """A network of the published kind: n → four hidden layers → n, ReLU."""

    def __init__(self, points: int, setting: Setting) -> None:
        super().__init__()
        widths = [points, *[setting.width] * 4, points]
        layers: list[nn.Module] = []
        generator = torch.Generator().manual_seed(setting.seed)
        for inputs, outputs in itertools.pairwise(widths):
            layer = nn.Linear(inputs, outputs, dtype=torch.float64)
            nn.init.normal_(layer.weight, 0.0, setting.deviation, generator=generator)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        return self.layers(u)


class Convolution(nn.Module):
    """The same function at every point, of five neighbours: what a translation does not change."""

    def __init__(self, points: int, setting: Setting) -> None:
        super().__init__()
        torch.manual_seed(setting.seed)
        width = setting.width
        double: dict[str, Any] = {"dtype": torch.float64}
        around = nn.Conv1d(1, width, 5, padding=2, padding_mode="circular", **double)
        inner, last = nn.Conv1d(width, width, 1, **double), nn.Conv1d(width, 1, 1, **double)
        self.layers = nn.Sequential(around, nn.GELU(), inner, nn.GELU(), last)

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        return self.layers(u.reshape(-1, 1, u.shape[-1])).reshape(u.shape)


def field(problem: problems.Problem, setting: Setting) -> stiffml.Split:
    """The known linear part of a problem, and a network for the rest."""
    return stiffml.Split(
        problem.split().implicit, setting.network(problem.y0.shape[-1], setting), linear=True
    )


def solved(model: nn.Module, start: Tensor, length: float, method: str, h: float) -> Tensor:
    """The states (samples, 1, points) after ``length``."""
    times = torch.tensor([0.0, length], dtype=torch.float64)
    how: dict[str, Any] = {"method": method, "steps": stiffml.Fixed(h), "batch_dims": 1}
    if method != "rk4":
        how["linear"] = stiffml.LU()
    found = stiffml.solve(model, start, times, **how).y
    assert isinstance(found, Tensor)
    return found[-1]


@dataclass(frozen=True)
class Training:
    """What came of one: validation losses (looks,) after so many CPU ``seconds``; the model; what ended it.

    ``iteration_s`` is the median CPU time of an iteration, with its gradient and the optimizer's step.
    """

    seconds: np.ndarray
    losses: np.ndarray
    iterations: int
    iteration_s: float
    model: stiffml.Split
    ended: str


def train(
    problem: problems.Problem,
    training: Windows,
    validation: Windows,
    way: Way,
    setting: Setting,
    report: Callable[[str], None],
) -> Training:
    """Train by AdamW; looks at the validation loss are by IMEX steps for all, and not counted as time."""
    model = field(problem, setting)
    optimizer = torch.optim.AdamW(model.parameters(), setting.learning_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=setting.factor, patience=setting.patience
    )
    generator = torch.Generator().manual_seed(setting.seed)
    order: list[Tensor] = []
    seconds, losses, ended = [0.0], [validate(model, validation, setting)], "the time was over"
    spent: list[float] = []
    while sum(spent) < way.seconds and len(spent) < setting.most:
        if not order:
            shuffled = torch.randperm(len(training.start), generator=generator)
            order = list(shuffled.split(setting.batch))
        chosen = order.pop()
        began = time.process_time()
        optimizer.zero_grad()
        try:
            end = solved(model, training.start[chosen], training.length, way.method, way.h)
            setting.loss(end - training.end[chosen]).backward()
        except stiffml.SolveError as error:
            ended = " ".join(str(error).split())[:200]
            break
        optimizer.step()
        spent.append(time.process_time() - began)
        regular = len(spent) % setting.check_every == 0
        if regular or len(spent) <= setting.check_every or sum(spent) >= way.seconds:
            seconds.append(sum(spent))
            losses.append(validate(model, validation, setting))
            if regular:
                plateau.step(losses[-1])
            report(f"{way.name}: validation loss {losses[-1]:.2e} after {seconds[-1]:.0f} s")
    typical = float(np.median(spent)) if spent else np.nan
    return Training(np.array(seconds), np.array(losses), len(spent), typical, model, ended)


VALIDATION = ("arkimex-4", 0.05)
"""The steps by which all models are judged."""


def validate(model: nn.Module, windows: Windows, setting: Setting) -> float:
    with torch.no_grad():
        try:
            end = solved(model, windows.start, windows.length, *VALIDATION)
        except stiffml.SolveError:
            return float("inf")
        return float(setting.loss(end - windows.end))


def time_to(training: Training, loss: float) -> float:
    """CPU seconds until a validation loss is reached, infinite if it is not."""
    reached = training.losses <= loss
    return float(training.seconds[np.argmax(reached)]) if reached.any() else float("inf")
