"""Fits by first-order optimizers: the mean square of the residuals of whole runs, by the Trainer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from stiffml.checks import described, number
from stiffml.interface.solve import solve
from stiffml.training.asked import Asked
from stiffml.training.folder import RunFolder
from stiffml.training.lm.climb import mean_error
from stiffml.training.lm.intervals import whole
from stiffml.training.lm.residuals import Residuals
from stiffml.training.result import Result
from stiffml.training.trainer import Trainer

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
LEARNING_RATE = 5e-3


def optimizer_of(
    optimizer: str | torch.optim.Optimizer, model: nn.Module, learning_rate: float | None
) -> torch.optim.Optimizer:
    """The optimizer that was asked for.

    Raises
    ------
    ValueError
        For an unknown name, or a learning rate for an optimizer that has one already.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        if learning_rate is not None:
            raise ValueError("learning_rate: this optimizer has its own; leave learning_rate out")
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        known = ", ".join(["lm", *OPTIMIZERS])
        raise ValueError(
            f"optimizer must be one of {known}, or a torch optimizer, not {described(optimizer)}"
        )
    rate = LEARNING_RATE if learning_rate is None else number("learning_rate", learning_rate, above=0)
    return OPTIMIZERS[optimizer]([p for p in model.parameters() if p.requires_grad], lr=rate)


def train(asked: Asked, optimizer: torch.optim.Optimizer, iterations: int) -> Result:
    """Minimise the mean square of all residuals; without a folder the state is kept in a temporary one.

    Raises
    ------
    ValueError
        If initial values are to be learned.
    TrainingError
        If a solve fails whatever the size of the update.
    """
    residuals = asked.residuals
    if any(residuals.vector.learned):
        raise ValueError(
            "data: initial values that are not known are fitted by optimizer='lm' only; if they are known, "
            "say so: runs.with_initial('known')"
        )
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        config = {**asked.config, "optimizer": type(optimizer).__name__}
        if asked.folder is not None:
            place = RunFolder(asked.folder, config, asked.resume).path
        settings: dict[str, str | int | float] = {name: str(value) for name, value in config.items()}
        trainer = Trainer(
            residuals.model, optimizer, lambda: _loss(residuals), place, settings, asked.save_every
        )
        if asked.resume:
            trainer.resume()
        trainer.run(iterations)
        history = trainer.history.to_xarray()
    point = residuals.of(whole(residuals.runs)).begin(residuals.vector.read(), None)
    return Result(
        model=residuals.model,
        error=mean_error(point.residuals),
        outcome=f"{iterations} iterations of {type(optimizer).__name__}",
        history=history,
        attempts=[],
        failures=[],
        scale=residuals.scale,
        initial={run.name: run.y0 for run in residuals.runs},
        covariance=None,
        data=residuals.runs,
        validate=asked.validate,
        equations=asked.equations,
    )


def _loss(residuals: Residuals) -> Tensor:
    """The mean square of all residuals, as a function of the model's parameters."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    options = residuals.options
    for run, interval in zip(residuals.runs, whole(residuals.runs), strict=True):
        seen = torch.from_numpy(residuals.observed(interval))
        values, weights = torch.from_numpy(run.values.copy()), torch.from_numpy(run.weights.copy())
        y0 = torch.from_numpy(run.y0.copy()).to(residuals.vector.parameters[0].dtype)
        y = solve(residuals.model, y0, torch.from_numpy(run.times.copy()), **options).y
        assert isinstance(y, Tensor)
        scaled = (y.double() - values)[seen] / torch.from_numpy(residuals.scale).expand_as(values)[seen]
        total = total + (weights[seen] * scaled**2).sum()
        count += int(seen.sum())
    return total / count
