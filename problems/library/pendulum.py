"""A pendulum in Cartesian coordinates, with its constraint differentiated twice: an index-1 problem."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter, Values
from problems.problem import Problem
from problems.references import published


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Mass and length 1. The last row is d²/dt² (x² + y² − 1)/2 = 0, so that λ is the rod's tension.

    The exact solution keeps x² + y² = 1 and the energy (vx² + vy²)/2 + g y. No equation enforces them, and
    their drift shows the error of an integration.
    """
    x, height, vx, vy, tension = y.unbind(dim=-1)
    g = p["g"]
    constraint = tension * (x**2 + height**2) + g * height - (vx**2 + vy**2)
    return torch.stack([vx, vy, -x * tension, -height * tension - g, constraint], dim=-1)


def length(y: np.ndarray, p: Values) -> np.ndarray:
    """Length of the rod, 1 at the start."""
    return np.hypot(y[..., 0], y[..., 1])


def energy(y: np.ndarray, p: Values) -> np.ndarray:
    """Energy, in units of that of a fall to the lowest point; 0 at the start."""
    return (y[..., 2] ** 2 + y[..., 3] ** 2) / (2 * p["g"]) + y[..., 1]


def problem() -> Problem:
    return Problem(
        name="pendulum",
        title="A pendulum in Cartesian coordinates, released from the horizontal",
        rhs=rhs,
        equations="""\
x'  = vx          vx' = −x λ
y'  = vy          vy' = −y λ − g
0   = λ (x² + y²) + g y − (vx² + vy²)""",
        y0=np.array([1.0, 0.0, 0.0, 0.0, 0.0]),
        t_span=(0.0, 2.0),
        parameters={"g": Parameter(9.81, "m/s^2", "gravity")},
        components=("x", "y", "vx", "vy", "tension"),
        kind="dae",
        mass=np.array([1.0, 1.0, 1.0, 1.0, 0.0]),
        units=("m", "m", "m/s", "m/s", "N"),
        time_units="s",
        scale=np.array([1.0, 1.0, 4.43, 4.43, 29.43]),
        invariants={"length": length, "energy": energy},
        references=(published("pendulum_0.5", rtol_valid=1e-13), published("pendulum_2", rtol_valid=1e-13)),
        stiffness="only the algebraic equation, which is infinitely stiff; the motion has a period of 2.37 s",
        citation="E. Hairer & G. Wanner, Solving Ordinary Differential Equations II, Springer (1996), "
        "sections VII.1 and VII.2; initial state and g of examples/pendulum_DAE.py in the code of H. Zhang & "
        "W. Zhao, arXiv 2206.01298",
    )
