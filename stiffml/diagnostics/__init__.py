"""What to look at when a solve or a training goes wrong: gradients, stiffness, modes, the training itself."""

import importlib
from typing import Any

from stiffml.diagnostics.advice import Advice, advise
from stiffml.diagnostics.description import describe_gradient, describe_stiffness
from stiffml.diagnostics.gradient_check import GradientCheck, GradientReport, check_gradients
from stiffml.diagnostics.modes import gradient_by_mode
from stiffml.diagnostics.pictures import plot_gradient_by_mode, plot_stiffness
from stiffml.diagnostics.spectrum import stiffness


def __getattr__(name: str) -> Any:
    if name in ("TrainingReport", "training_step"):  # what they need of training/ is imported when asked for
        return getattr(importlib.import_module("stiffml.diagnostics.training_report"), name)
    raise AttributeError(f"module 'stiffml.diagnostics' has no attribute {name!r}")


__all__ = [
    "Advice",
    "GradientCheck",
    "GradientReport",
    "TrainingReport",
    "advise",
    "check_gradients",
    "describe_gradient",
    "describe_stiffness",
    "gradient_by_mode",
    "plot_gradient_by_mode",
    "plot_stiffness",
    "stiffness",
    "training_step",
]
