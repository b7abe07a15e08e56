"""A spiral of cubic rates, the first example of neural ODEs: not stiff."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.library.shipped import shipped
from problems.parameters import Parameter
from problems.problem import Problem


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    first, second = (y**3).unbind(dim=-1)
    a, b = p["damping"], p["turning"]
    return torch.stack([-a * first - b * second, b * first - a * second], dim=-1)


def problem() -> Problem:
    return Problem(
        name="spiral",
        title="The spiral of the first neural ODE; not stiff",
        rhs=rhs,
        equations="y1' = −a y1³ − b y2³\ny2' =  b y1³ − a y2³",
        y0=np.array([2.0, 0.0]),
        t_span=(0.0, 25.0),
        parameters={
            "damping": Parameter(0.1, "1", "a"),
            "turning": Parameter(2.0, "1", "b"),
        },
        bounds=(-2.0, 2.0),
        scale=np.array([1.0, 1.0]),
        references=shipped("spiral"),
        stiffness="none: eigenvalues of order 10 at first, which fall with the square of the radius",
        citation="R. T. Q. Chen, Y. Rubanova, J. Bettencourt & D. Duvenaud, Neural Ordinary Differential "
        "Equations, NeurIPS (2018), arXiv 1806.07366; the constants are those of the demo of torchdiffeq",
    )
