"""A neural ODE fitted to Robertson's problem, which is too stiff to train on with explicit methods.

The set-up is that of Zhang & Zhao, arXiv 2206.01298: 40 log-spaced observations to t = 100, species scaled to
[0, 1], a network 3→5×6→3 without biases, Crank-Nicolson with one step between observations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import problems
from problems.datasets import save_dataset
from problems.trajectories import reference_trajectory
from stiffml.diagnostics import GradientReport, check_gradients
from stiffml.files import require_writable, save_atomically, save_picture
from stiffml.interface.solution import Solution
from stiffml.interface.solve import solve
from stiffml.methods import resolve
from stiffml.steps import Adaptive, Grid, KeptSteps
from stiffml.training import Trainer

DEFAULT_ITERATIONS = 800
DEFAULT_SEED = 0
LEARNING_RATE = 5e-3


@dataclass(frozen=True)
class Data:
    """Observations (41, 3) at ``times`` (41,) in s: ``y`` as concentrations, ``scaled`` to [0, 1]."""

    times: Tensor
    y: np.ndarray
    scaled: Tensor
    lowest: np.ndarray
    ranges: np.ndarray

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        return self.lowest + self.ranges * scaled


def observations() -> Data:
    """The reference solution at t = 0 and 40 log-spaced times in [1e-5, 100]."""
    problem = problems.load("robertson")
    times = np.concatenate([[0.0], np.geomspace(1e-5, 100.0, 40)])
    y = reference_trajectory(problem, times)
    lowest, ranges = y.min(axis=0), np.ptp(y, axis=0)
    return Data(torch.from_numpy(times), y, torch.from_numpy((y - lowest) / ranges), lowest, ranges)


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
    """The result of a fit: final loss, trajectory, gradient check, the trainer with its history, the data."""

    loss: float
    solution: Solution
    gradients: GradientReport
    trainer: Trainer
    data: Data


def fit(
    folder: Path,
    method: str = "cn",
    seed: int = DEFAULT_SEED,
    iterations: int = DEFAULT_ITERATIONS,
    resume: bool = False,
    report: Callable[[int, float], None] = lambda iteration, loss: None,
) -> Result:
    """Fit, and write ``weights.pt``, ``trajectory.nc``, ``history.nc`` and ``fit.png`` to ``folder``.

    Implicit methods take one step between observations; explicit ones adapt their steps where they can. Steps
    and solution are kept for the next iteration. ``report(iteration, loss)`` is called after every iteration.

    Raises
    ------
    OSError
        If no files can be written to the folder, before the fit begins.
    FileExistsError
        If the folder holds a training state and ``resume`` is false.
    ValueError
        For an unknown method, or a state to resume that was made with other settings.
    TrainingError
        If training could not go on.
    """
    steps = default_steps(method)
    kept = KeptSteps(steps)
    folder = Path(folder)
    require_writable(folder, "folder (--out)")
    data = observations()
    network = Network(seed)

    def simulate() -> Solution:
        return solve(network, data.scaled[0], data.times, method=method, steps=kept)

    def loss() -> Tensor:
        return error_of(simulate(), data)

    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    settings: dict[str, str | int | float] = {"fit": "robertson", "method": method, "seed": seed}
    trainer = Trainer(network, optimizer, loss, folder, settings, kept=[kept])
    if resume:
        trainer.resume()
    elif trainer.saved:
        raise FileExistsError(
            f"{folder} holds a run already; pass --resume to go on with it, or another --out"
        )
    trainer.run(iterations, report)
    with torch.no_grad():
        solution = simulate()
    gradients = check_gradients(network, data.scaled[0], data.times, method=method, steps=steps)
    result = Result(float(error_of(solution, data)), solution, gradients, trainer, data)
    _write(folder, result, network)
    return result


def default_steps(method: str) -> Adaptive | Grid:
    """Adaptive steps for explicit methods with an error estimate, else one step between observations."""
    known = resolve(method)
    return Adaptive() if known.adaptive and not known.implicit else Grid()


def error_of(solution: Solution, data: Data) -> Tensor:
    """Mean absolute error of the scaled species over the 40 observations after the start."""
    assert isinstance(solution.y, Tensor)
    return (solution.y - data.scaled)[1:].abs().mean()


def _write(folder: Path, result: Result, network: Network) -> None:
    from stiffml.plotting import plot_fit

    trajectory = trajectory_dataset(result)
    history = result.trainer.history.to_xarray()
    history.attrs.update(
        result.trainer.settings, title="Training history of a neural ODE for Robertson's problem"
    )
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
            **result.trainer.settings,
        },
    )
    dataset["time"].attrs.update(long_name="time", units=problem.time_units)
    return dataset
