"""Van der Pol's relaxation oscillator: slow creeping, then jumps of a width of order ε."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    position, velocity = y[..., 0], y[..., 1]
    return torch.stack([velocity, ((1 - position**2) * velocity - position) / p["eps"]], dim=-1)


def problem() -> Problem:
    return Problem(
        name="vanderpol",
        title="Van der Pol's relaxation oscillator in slow time",
        rhs=rhs,
        equations="""\
position' = velocity
velocity' = ((1 − position²) velocity − position) / ε""",
        y0=np.array([2.0, 0.0]),
        t_span=(0.0, 2.0),
        parameters={"eps": Parameter(1e-6, "1", "1/μ²: the smaller, the stiffer")},
        components=("position", "velocity"),
        # Of the slow branches, where nearly all the time is spent; jumps reach velocities of order 1/eps.
        scale=np.array([2.0, 1.0]),
        threshold=np.array([1e-2, 1e-2]),
        references=(published("vanderpol", rtol_valid=1e-12),),
        stiffness="one eigenvalue about (1 - y²)/eps = -3e6 on the slow branches; positive, up to 1/eps, "
        "in the jumps",
        citation="E. Hairer & G. Wanner, Solving Ordinary Differential Equations II, Springer (1996), "
        "section IV.10, eq. 10.2; B. van der Pol, Phil. Mag. 2 (1926) 978-992",
    )
