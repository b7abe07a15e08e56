"""Lotka and Volterra's predators and their prey: an oscillation that is not stiff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.library.shipped import shipped
from problems.parameters import Parameter
from problems.problem import Problem


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    prey, predators = y.unbind(dim=-1)
    met = prey * predators
    return torch.stack(
        [p["alpha"] * prey - p["beta"] * met, p["delta"] * met - p["gamma"] * predators], dim=-1
    )


def integral(y: np.ndarray, p: Mapping[str, Any]) -> np.ndarray:
    """δ x − γ ln x + β y − α ln y, which is constant along orbits."""
    prey, predators = y[..., 0], y[..., 1]
    eaten = p["delta"] * prey - p["gamma"] * np.log(prey)
    return eaten + p["beta"] * predators - p["alpha"] * np.log(predators)


def problem() -> Problem:
    return Problem(
        name="lotka_volterra",
        title="Lotka and Volterra's predators and prey; not stiff",
        rhs=rhs,
        equations="""\
prey'      = α prey − β prey predators
predators' = δ prey predators − γ predators""",
        y0=np.array([1.0, 1.0]),
        t_span=(0.0, 10.0),
        parameters={
            "alpha": Parameter(1.5, "1", "growth of the prey"),
            "beta": Parameter(1.0, "1", "prey eaten"),
            "delta": Parameter(1.0, "1", "predators born of it"),
            "gamma": Parameter(3.0, "1", "death of predators"),
        },
        components=("prey", "predators"),
        invariants={"orbit": integral},
        bounds=(0.0, np.inf),
        scale=np.array([3.0, 1.5]),
        references=shipped("lotka_volterra"),
        stiffness="none: eigenvalues of order 1 over ten units of time; to compare with",
        citation="A. J. Lotka, Elements of Physical Biology (1925); V. Volterra, Nature 118 (1926) 558-560; "
        "the constants are those of the examples of DifferentialEquations.jl",
    )
