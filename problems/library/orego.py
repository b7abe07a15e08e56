"""The Oregonator: the Belousov-Zhabotinskii reaction on a limit cycle, as three ODEs and as a DAE."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.library.shipped import shipped
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


def quasi_steady_rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """With bromide where its equation holds it, in place of how it gets there."""
    slopes = rhs(t, y, p)
    return torch.stack([slopes[..., 0], p["s"] * slopes[..., 1], slopes[..., 2]], dim=-1)


def quasi_steady_problem() -> Problem:
    """The Oregonator as a differential-algebraic problem.

    A model of its own: while there is little HBrO2, bromide takes a time of 77.27/2 to follow. Without it
    the cycle is five times shorter.
    """
    return dataclasses.replace(
        problem(),
        name="orego_dae",
        title="The Oregonator with bromide in a quasi-steady state",
        kind="dae",
        rhs=quasi_steady_rhs,
        mass=np.array([1.0, 0.0, 1.0]),
        equations="""\
x' = s (y + x (1 − q x − y))
0  = z − (1 + x) y
z' = w (x − z)""",
        y0=np.array([1.0, 1.5, 3.0]),
        references=shipped("orego_dae"),
        stiffness="a limit cycle with period 58.15: slow drifts, where eigenvalues reach -1.2e6, and fast "
        "jumps, in which one is 76; besides the algebraic equation, which is infinitely stiff",
        citation=problem().citation
        + "; the quasi-steady state: J. J. Tyson & P. C. Fife, Target patterns in a realistic model of the "
        "Belousov-Zhabotinskii reaction, J. Chem. Phys. 73 (1980) 2224-2237",
    )
