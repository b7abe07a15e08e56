"""A neural ODE fitted to Robertson's problem, which is too stiff to train on with explicit methods.

The set-up is that of Zhang & Zhao, arXiv 2206.01298: 40 log-spaced observations to t = 100, species scaled to
[0, 1], a network 3→5×6→3 without biases, Crank-Nicolson with one step between observations. Here by
Levenberg-Marquardt on a ladder of intervals, with restarts; there, and as a choice here, by AdamW.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

import problems
from problems.datasets import save_dataset
from problems.trajectories import reference_trajectory
from stiffml import training
from stiffml.diagnostics import GradientReport, check_gradients
from stiffml.files import require_writable, save_atomically, save_picture
from stiffml.interface.solution import Solution
from stiffml.interface.solve import solve
from stiffml.methods import resolve
from stiffml.steps import Adaptive, Grid, KeptSteps
from stiffml.training import STATE, Run, Runs, Trainer
from stiffml.training.resolving import mean_of
from stiffml.training.resolving import resolve as resolved_run

if TYPE_CHECKING:
    import xarray

OPTIMIZERS = ("lm", "adamw")
DEFAULT_ITERATIONS = 800
DEFAULT_SEED = 0
LEARNING_RATE = 5e-3
TARGET, ATTEMPTS = 1e-5, 20
"""Levenberg-Marquardt: the mean error at which it ends, and with how many other weights it begins anew."""

POINTS, UNSEEN = 40, 198
COMPONENTS = ["A", "B", "C"]


@dataclass(frozen=True)
class Data:
    """Observations (points + 1, 3) at ``times`` in s: ``y`` as concentrations, ``scaled`` to [0, 1].

    ``unseen`` has the scaled solution at other times, which nothing is fitted to.
    """

    times: Tensor
    y: np.ndarray
    scaled: Tensor
    lowest: np.ndarray
    ranges: np.ndarray
    unseen: Runs

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        return self.lowest + self.ranges * scaled

    @property
    def runs(self) -> Runs:
        run = Run("robertson", self.times.numpy(), self.scaled.numpy())
        return Runs([run], COMPONENTS, time_units="s", initial="known")


def observations(points: int = POINTS) -> Data:
    """The reference solution at t = 0 and log-spaced times in [1e-5, 100]; 198 others as data never seen."""
    times = np.concatenate([[0.0], np.geomspace(1e-5, 100.0, points)])
    others = np.concatenate([[0.0], np.geomspace(1e-5, 100.0, UNSEEN)])
    every, where = np.unique(np.concatenate([times, others]), return_inverse=True)
    found = reference_trajectory(problems.load("robertson"), every)[where]
    y, unseen = found[: len(times)], found[len(times) :]
    lowest, ranges = y.min(axis=0), np.ptp(y, axis=0)
    run = Run("unseen", others, (unseen - lowest) / ranges)
    return Data(
        times=torch.from_numpy(times),
        y=y,
        scaled=torch.from_numpy((y - lowest) / ranges),
        lowest=lowest,
        ranges=ranges,
        unseen=Runs([run], COMPONENTS, time_units="s", initial="known"),
    )


class Network(nn.Module):
    """dy/dt of the scaled species: 3→5×6→3, GELU, no biases, weights N(0, 0.5²)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        widths = [3, *[5] * 6, 3]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=False, dtype=torch.float64), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            nn.init.normal_(weight, 0.0, 0.5, generator=generator)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y)


@dataclass(frozen=True)
class Result:
    """The result of a fit.

    Attributes
    ----------
    loss : float
        Mean absolute error at the observations, along the steps of the fit.
    unseen : float
        The same at times never seen, solved again with tight tolerances.
    solution : Solution
        The trajectory along the steps of the fit.
    gradients : GradientReport
    history : xarray.Dataset
    iterations, attempts : int
    data : Data
    settings : dict
        What was asked for.
    """

    loss: float
    unseen: float
    solution: Solution
    gradients: GradientReport
    history: xarray.Dataset
    iterations: int
    attempts: int
    data: Data
    settings: dict[str, str | int | float]


def fit(
    folder: Path,
    method: str = "cn",
    seed: int = DEFAULT_SEED,
    iterations: int = DEFAULT_ITERATIONS,
    resume: bool = False,
    report: Callable[[int, float], None] = lambda iteration, loss: None,
    optimizer: str = "lm",
) -> Result:
    """Fit, and write ``weights.pt``, ``trajectory.nc``, ``history.nc`` and ``fit.png`` to ``folder``.

    Implicit methods take one step between observations; explicit ones adapt their steps where they
    can. ``report(iteration, loss)`` is called after every iteration. ``iterations`` is for ``"adamw"``;
    Levenberg-Marquardt ends by itself.

    Raises
    ------
    OSError
        If no files can be written to the folder, before the fit begins.
    FileExistsError
        If the folder holds a training state and ``resume`` is false.
    ValueError
        For an unknown method or optimizer, or a state to resume that was made with other settings.
    TrainingError
        If training could not go on.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer (--optimizer) must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    steps = default_steps(method)
    folder = Path(folder)
    require_writable(folder, "folder (--out)")
    data = observations()
    settings: dict[str, str | int | float] = {"fit": "robertson", "method": method, "seed": seed}
    if optimizer == "lm":
        network, history, attempts = _by_levenberg_marquardt(folder, data, settings, steps, resume, report)
    else:
        network, history = _by_adamw(folder, data, settings, steps, iterations, resume, report)
        attempts = 1
    arguments = (network, data.scaled[0], data.times)
    with torch.no_grad():
        solution = solve(*arguments, method=method, steps=steps)
    result = Result(
        loss=float(error_of(solution, data)),
        unseen=unseen_error(network, data),
        solution=solution,
        gradients=check_gradients(*arguments, method=method, steps=steps),
        history=history,
        iterations=history.sizes["iteration"],
        attempts=attempts,
        data=data,
        settings={**settings, "optimizer": optimizer},
    )
    _write(folder, result, network)
    return result


def _by_levenberg_marquardt(
    folder: Path,
    data: Data,
    settings: dict[str, str | int | float],
    steps: Adaptive | Grid,
    resume: bool,
    report: Callable[[int, float], None],
) -> tuple[nn.Module, xarray.Dataset, int]:
    if (folder / STATE).exists():
        raise FileExistsError(f"{folder} holds a run by AdamW; pass --optimizer adamw, or another --out")
    try:
        found = training.fit(
            Network,
            data.runs,
            method=str(settings["method"]),
            steps=steps,
            scale=1.0,
            target=TARGET,
            attempts=ATTEMPTS,
            seed=int(settings["seed"]),
            folder=folder,
            resume=resume,
            report=lambda progress: report(len(progress.rows), progress.rows[-1].error),
        )
    except FileExistsError:
        raise FileExistsError(
            f"{folder} holds a run already; pass --resume to go on with it, or another --out"
        ) from None
    return found.model, found.history, len(found.attempts)


def _by_adamw(
    folder: Path,
    data: Data,
    settings: dict[str, str | int | float],
    steps: Adaptive | Grid,
    iterations: int,
    resume: bool,
    report: Callable[[int, float], None],
) -> tuple[nn.Module, xarray.Dataset]:
    network, kept = Network(int(settings["seed"])), KeptSteps(steps)

    def loss() -> Tensor:
        method = str(settings["method"])
        return error_of(solve(network, data.scaled[0], data.times, method=method, steps=kept), data)

    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    trainer = Trainer(network, optimizer, loss, folder, settings, kept=[kept])
    if resume:
        trainer.resume()
    elif trainer.saved:
        raise FileExistsError(
            f"{folder} holds a run already; pass --resume to go on with it, or another --out"
        )
    trainer.run(iterations, report)
    return network, trainer.history.to_xarray()


def unseen_error(network: nn.Module, data: Data) -> float:
    """Mean absolute error of the scaled species at times never seen, solved with tight tolerances."""
    return mean_of([resolved_run(network, run, run.y0) for run in data.unseen], np.ones(3))


def default_steps(method: str) -> Adaptive | Grid:
    """Adaptive steps for explicit methods with an error estimate, else one step between observations."""
    known = resolve(method)
    return Adaptive() if known.adaptive and not known.implicit else Grid()


def error_of(solution: Solution, data: Data) -> Tensor:
    """Mean absolute error of the scaled species over the 40 observations after the start."""
    assert isinstance(solution.y, Tensor)
    return (solution.y - data.scaled)[1:].abs().mean()


def _write(folder: Path, result: Result, network: nn.Module) -> None:
    from stiffml.plotting import plot_fit

    trajectory = trajectory_dataset(result)
    history = result.history
    history.attrs.update(result.settings, title="Training history of a neural ODE for Robertson's problem")
    figure = plot_fit(trajectory, history)
    save_atomically(folder / "weights.pt", lambda file: torch.save(network.state_dict(), file))
    save_dataset(trajectory, folder / "trajectory.nc")
    save_dataset(history, folder / "history.nc")
    save_picture(folder / "fit.png", figure)


def trajectory_dataset(result: Result):
    """The fitted species beside the data, as concentrations over time."""
    import xarray

    assert isinstance(result.solution.y, Tensor)
    data = result.data
    fitted = data.unscale(result.solution.y.detach().numpy())
    problem = problems.load("robertson")
    dims = ("time", "species")
    dataset = xarray.Dataset(
        {
            "fitted": (dims, fitted, {"long_name": "concentration, neural ODE", "units": problem.units}),
            "data": (dims, data.y, {"long_name": "concentration, reference", "units": problem.units}),
            "lowest": (
                "species",
                data.lowest,
                {"long_name": "offset of the scaling", "units": problem.units},
            ),
            "range": ("species", data.ranges, {"long_name": "factor of the scaling", "units": problem.units}),
        },
        {"time": data.times.numpy(), "species": list(problem.components)},
        attrs={
            "title": "Neural ODE fitted to Robertson's problem",
            "scaled_mean_absolute_error": result.loss,
            "scaled_mean_absolute_error_unseen": result.unseen,
            **result.settings,
        },
    )
    dataset["time"].attrs.update(long_name="time", units=problem.time_units)
    return dataset
