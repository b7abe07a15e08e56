"""E5: a chemical reaction whose concentrations fall to 1e-22 over 1e13 s, as four ODEs and as a DAE."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published


def _rates(y: Tensor, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y1, y2, y3, y4 = y.unbind(dim=-1)
    return p["A"] * y1, p["B"] * y1 * y3, p["M"] * p["C"] * y2 * y3, p["C"] * y4


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    r1, r2, r3, r4 = _rates(y, p)
    # r2 and r4 are 1e5 times the others and nearly equal: summed in another order, the rounding of y3'
    # alone would add up to a hundred times the last values of y2 and y3.
    made, stored = r1 - r3, r2 - r4
    return torch.stack([-r1 - r2, made, made - stored, stored], dim=-1)


def conserved_rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """With y2 = y3 + y4 in place of the equation of y2, and y2 itself replaced in the rates.

    As ODEs, y2 and y3 + y4 differ by what rounding left there when they were 1e10 times larger.
    """
    y1, y2, y3, y4 = y.unbind(dim=-1)
    r1, r2, r3, r4 = _rates(torch.stack([y1, y3 + y4, y3, y4], dim=-1), p)
    made, stored = r1 - r3, r2 - r4
    return torch.stack([-r1 - r2, y3 + y4 - y2, made - stored, stored], dim=-1)


def problem() -> Problem:
    return Problem(
        name="e5",
        title="E5: concentrations that fall to 1e-22 over 1e13 s",
        rhs=rhs,
        equations="""\
y1' = −A y1 − B y1 y3
y2' =  A y1             − M C y2 y3
y3' =  A y1 − B y1 y3 − M C y2 y3 + C y4
y4' =         B y1 y3              − C y4""",
        y0=np.array([1.76e-3, 0.0, 0.0, 0.0]),
        t_span=(0.0, 1e13),
        parameters={
            "A": Parameter(7.89e-10, "1/s", "y1 -> y2 + y3"),
            "B": Parameter(1.1e7, "m3/(mol s)", "y1 + y3 -> y4"),
            "C": Parameter(1.13e3, "1/s", "y4 -> y3, and M C: y2 + y3 -> products"),
            "M": Parameter(1e6, "m3/mol", ""),
        },
        time_units="s",
        units="mol/m3",
        invariants={"y2 - y3 - y4": np.array([0.0, 1.0, -1.0, -1.0])},
        bounds=(0.0, 1.76e-3),
        scale=np.array([1.76e-3, 1.4e-10, 8.3e-12, 1.3e-10]),
        threshold=np.array([1e-12, 1e-24, 1e-24, 1e-24]),
        time_grid="log",
        first_time=1e-4,
        references=(published("e5", rtol_valid=1e-10),),
        stiffness="eigenvalues from 0 to -2.0e4 at the start, while the solution moves over 1e13 s; the "
        "threshold of what counts lies 21 decades below the largest concentration",
        citation="W. H. Enright, T. E. Hull & B. Lindberg, Comparing numerical methods for stiff systems of "
        "ODEs, BIT 15 (1975) 10-48, problem E5; E. Hairer & G. Wanner, Solving Ordinary Differential "
        "Equations II, Springer (1996), section IV.10, eq. 10.6",
    )


def conserved_problem() -> Problem:
    """E5 with its invariant as an equation: no digits are lost."""
    return dataclasses.replace(
        problem(),
        name="e5_conserved",
        title="E5 with its conservation law as an algebraic equation",
        kind="dae",
        rhs=conserved_rhs,
        mass=np.array([1.0, 0.0, 1.0, 1.0]),
        equations="""\
y1' = −A y1 − B y1 y3
0   =  y3 + y4 − y2
y3' =  A y1 − B y1 y3 − M C (y3 + y4) y3 + C y4
y4' =         B y1 y3              − C y4""",
    )
