"""Robertson's autocatalytic reaction: three species whose rates span nine orders of magnitude."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """A → B (k1), B + B → B + C (k2), B + C → A + C (k3)."""
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    forward = p["k1"] * a
    slow = p["k2"] * b * b
    back = p["k3"] * b * c
    return torch.stack([back - forward, forward - back - slow, slow], dim=-1)


def conserved_rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """With A + B + C = 1 in place of the equation of C."""
    slopes = rhs(t, y, p)
    total = y[..., 0] + y[..., 1] + y[..., 2] - 1
    return torch.stack([slopes[..., 0], slopes[..., 1], total], dim=-1)


def problem() -> Problem:
    return Problem(
        name="robertson",
        title="Robertson's autocatalytic reaction",
        rhs=rhs,
        equations="""\
A' = −k1 A + k3 B C
B' =  k1 A − k3 B C − k2 B²
C' =  k2 B²""",
        y0=np.array([1.0, 0.0, 0.0]),
        t_span=(0.0, 1e11),
        parameters={
            "k1": Parameter(0.04, "1/s", "A -> B"),
            "k2": Parameter(3e7, "1/s", "B + B -> B + C"),
            "k3": Parameter(1e4, "1/s", "B + C -> A + C"),
        },
        components=("A", "B", "C"),
        time_units="s",
        invariants={"A + B + C": np.ones(3)},
        bounds=(0.0, 1.0),
        scale=np.array([1.0, 3.65e-5, 1.0]),
        # A and B end at 2e-8 and 8e-14, and their digits count.
        threshold=np.array([1e-10, 1e-15, 1e-3]),
        time_grid="log",
        first_time=1e-5,
        references=(published("robertson", rtol_valid=1e-12),),
        stiffness="eigenvalues 0, 0 and -0.04 at the start; the third is about -2.2e3 after the first "
        "0.01 s and tends to -1e4, while the solution moves over 1e11 s",
        citation="H. H. Robertson, The solution of a set of reaction rate equations, in: J. Walsh (ed.), "
        "Numerical Analysis: An Introduction, Academic Press (1966) 178-182",
    )


def conserved_problem() -> Problem:
    """The reaction as a differential-algebraic problem."""
    return dataclasses.replace(
        problem(),
        name="robertson_dae",
        title="Robertson's reaction with its conservation law as an equation",
        kind="dae",
        rhs=conserved_rhs,
        mass=np.array([1.0, 1.0, 0.0]),
        equations="""\
A' = −k1 A + k3 B C
B' =  k1 A − k3 B C − k2 B²
0  =  A + B + C − 1""",
        citation=problem().citation
        + "; as a DAE: A. C. Hindmarsh, LSODE and LSODI, ACM SIGNUM Newsl. 15 (1980) 10-11",
    )
