"""What tests/training kill: ``fit_script.py NAME FOLDER`` begins a fit there, or resumes it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from decays import Chain, chain_runs

from stiffml import Adaptive, Grid, KeptSteps
from stiffml.training import FirstOrder, GrowingHorizon, MultipleShooting, Result, fit

Optimizer = torch.optim.Optimizer


def cosine(optimizer: Optimizer) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)


def plateau(optimizer: Optimizer) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)


def several(optimizer: Optimizer) -> Any:
    schedules = torch.optim.lr_scheduler
    parts = [schedules.MultiStepLR(optimizer, [4, 9]), schedules.LinearLR(optimizer, total_iters=9)]
    return schedules.SequentialLR(optimizer, parts, [12])


def momentum(parameters) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.8, nesterov=True)


FINE: dict[str, Any] = {"steps": Grid(4), "learning_rate": 0.1, "iterations": 40}
ADAPTIVE: dict[str, Any] = {"method": "bdf", "steps": Adaptive(), "rtol": 1e-4}
CLIMB: dict[str, Any] = {"method": "bdf2", "steps": Grid(2), "attempts": 2}

FITS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", **FINE},
    "adamw": {"optimizer": "adamw", **FINE},
    "sgd": {"optimizer": "sgd", **FINE, "learning_rate": 0.5},
    "lbfgs": {"optimizer": "lbfgs", "steps": Grid(4), "iterations": 12},
    "lm-ladder": {"strategy": MultipleShooting(iterations=9), **CLIMB},
    "lm-growing": {"strategy": GrowingHorizon(2, iterations=9), **CLIMB},
    "lm-adaptive": {"strategy": MultipleShooting((4,), iterations=4, last=6), **ADAPTIVE},
    "schedule": {"optimizer": "adam", **FINE, "first_order": FirstOrder(schedule=cosine, clip=0.1)},
    "plateau": {"optimizer": "adamw", **FINE, "first_order": FirstOrder(schedule=plateau)},
    "sequence": {"optimizer": momentum, "steps": Grid(4), "iterations": 40}
    | {"first_order": FirstOrder(schedule=several)},
    "minibatches": {"optimizer": "adam", "steps": Grid(4), "learning_rate": 0.1}
    | {"strategy": MultipleShooting((2, 4), iterations=15, last=15), "first_order": FirstOrder(batch=3)},
    "continuity": {"optimizer": "adamw", "steps": Grid(4), "learning_rate": 0.1}
    | {
        "strategy": MultipleShooting((3,), iterations=25, last=10),
        "first_order": FirstOrder(continuity=3.0, batch=4, schedule=cosine),
    },
    "curriculum": {"optimizer": "adam", "steps": Grid(4), "learning_rate": 0.1}
    | {"strategy": GrowingHorizon(3, iterations=8, last=10)},
    "kept-steps": {"optimizer": "adam", **ADAPTIVE, "learning_rate": 0.1, "iterations": 20}
    | {"steps": KeptSteps(Adaptive(), renew=4)},
    "lbfgs-kept": {"optimizer": "lbfgs", **ADAPTIVE, "iterations": 6, "strategy": None}
    | {"steps": KeptSteps(Adaptive(), renew=4)},
    "early": {"optimizer": "adam", **FINE, "learning_rate": 0.4}
    | {"first_order": FirstOrder(check_every=2, patience=4), "validate": chain_runs(seed=3)},
    "adaptive": {"optimizer": "adam", **ADAPTIVE, "learning_rate": 0.1, "iterations": 12},
}
"""By name, the arguments of a fit."""


def result_of(name: str, folder: Path | None, report: Callable[[Any], None] | None = None) -> Result:
    more = {} if folder is None else {"folder": folder, "resume": True, "save_every": 1}
    runs = chain_runs(noise=0.01, initial="learned" if name.startswith("lm") else "known")
    if name == "continuity":
        runs = runs.with_initial({"A": "learned"})
    return fit(Chain(), runs, report=report, **FITS[name], **more)


if __name__ == "__main__":
    warnings.simplefilter("error", RuntimeWarning)  # a damaged state
    result_of(sys.argv[1], Path(sys.argv[2]), lambda progress: print(len(progress.rows), flush=True))
