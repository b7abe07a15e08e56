"""The Oregonator: the Belousov-Zhabotinskii reaction as three concentrations on a limit cycle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    x, bromide, cerium = y.unbind(dim=-1)
    s, q, w = p["s"], p["q"], p["w"]
    return torch.stack(
        [
            s * (bromide + x * (1 - q * x - bromide)),
            (cerium - (1 + x) * bromide) / s,
            w * (x - cerium),
        ],
        dim=-1,
    )


def problem() -> Problem:
    return Problem(
        name="orego",
        title="The Oregonator, a chemical reaction that oscillates",
        rhs=rhs,
        equations="""\
x' = s (y + x (1 − q x − y))
y' = (z − (1 + x) y) / s
z' = w (x − z)""",
        y0=np.array([1.0, 2.0, 3.0]),
        t_span=(0.0, 360.0),
        parameters={
            "s": Parameter(77.27, "1", "square root of the ratio of two rate constants"),
            "q": Parameter(8.375e-6, "1", "disproportionation of HBrO2"),
            "w": Parameter(0.161, "1", "regeneration of Ce(III)"),
        },
        components=("HBrO2", "Br-", "Ce4+"),
        bounds=(0.0, 2e5),
        scale=np.array([1e5, 2e3, 3e4]),
        threshold=np.array([1.0, 1.0, 1.0]) * 1e-2,
        references=(published("orego", rtol_valid=1e-12),),
        stiffness="a limit cycle with period 302.9: slow drifts with eigenvalues near -80, and fast jumps in "
        "which they reach about -1e4 and become positive",
        citation="R. J. Field & R. M. Noyes, Oscillations in chemical systems IV, J. Chem. Phys. 60 (1974) "
        "1877-1884; E. Hairer & G. Wanner, Solving Ordinary Differential Equations II, Springer (1996), "
        "section IV.10, eq. 10.4",
    )
