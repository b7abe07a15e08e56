"""Prothero and Robinson's problem: linear, as stiff as one likes, with a known solution."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import Reference

_END = 10.0
_PHASE = np.pi / 4


def solution(t: Tensor) -> Tensor:
    """sin(t + π/4), whatever λ is."""
    return torch.sin(t + _PHASE)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return p["lambda"] * (y - solution(t)) + torch.cos(t + _PHASE)


def problem() -> Problem:
    return Problem(
        name="prothero",
        title="Prothero and Robinson's linear problem",
        rhs=rhs,
        equations="y' = λ (y − φ(t)) + φ'(t),   φ(t) = sin(t + π/4),   y(0) = φ(0)",
        y0=np.array([np.sin(_PHASE)]),
        t_span=(0.0, _END),
        parameters={"lambda": Parameter(-1e6, "1/s", "the rate at which y returns to φ")},
        components=("y",),
        time_units="s",
        bounds=(-1.0, 1.0),
        scale=np.array([1.0]),
        references=(
            Reference(
                t=_END,
                y=np.array([np.sin(_END + _PHASE)]),
                source="the exact solution φ(t)",
                rtol_valid=1e-15,
                verified="exact",
            ),
        ),
        stiffness="its one eigenvalue is λ = -1e6, while the solution moves in units of 1 s",
        citation="A. Prothero & A. Robinson, On the stability and accuracy of one-step methods for solving "
        "stiff systems of ordinary differential equations, Math. Comp. 28 (1974) 145-162",
    )
